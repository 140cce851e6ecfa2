//! Versions of Blender.

use std::fmt;

/// The version of Blender that saved a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlenderVersion {
    /// As in 4 of 4.5.
    pub major: u16,
    /// As in 5 of 4.5.
    pub minor: u16,
}

impl fmt::Display for BlenderVersion {
    /// As Blender writes it: `2.79`, `2.90`, `4.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.major < 3 {
            write!(f, "{}.{:02}", self.major, self.minor)
        } else {
            write!(f, "{}.{}", self.major, self.minor)
        }
    }
}
