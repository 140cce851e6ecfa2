//! Versions of Blender.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of Blender: of a file (two numbers), wanted (two or three), or installed (three).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BlenderVersion {
    /// As in 4 of 4.5.15.
    pub major: u16,
    /// As in 5 of 4.5.15.
    pub minor: u16,
    /// As in 15 of 4.5.15.
    pub patch: Option<u16>,
}

impl BlenderVersion {
    /// A version of two numbers, as files have them.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor, patch: None }
    }

    /// Whether a file saved by `file` opens here: not older, patch levels aside.
    #[must_use]
    pub fn opens(&self, file: Self) -> bool {
        (self.major, self.minor) >= (file.major, file.minor)
    }

    /// Whether this Blender can read a file saved by `file` at all. Blender 5.0 changed the file format, and 4.5
    /// was made to read it.
    #[must_use]
    pub fn reads(&self, file: Self) -> bool {
        file.major < 5 || (self.major, self.minor) >= (4, 5)
    }

    /// Whether this is the version `wanted`: equal as far as that one says.
    #[must_use]
    pub fn is(&self, wanted: Self) -> bool {
        (self.major, self.minor) == (wanted.major, wanted.minor)
            && (wanted.patch.is_none() || wanted.patch == self.patch)
    }
}

impl fmt::Display for BlenderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As Blender writes it: `2.79`, `2.90`, `4.5`.
        if self.major < 3 {
            write!(f, "{}.{:02}", self.major, self.minor)?;
        } else {
            write!(f, "{}.{}", self.major, self.minor)?;
        }
        match self.patch {
            Some(patch) => write!(f, ".{patch}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for BlenderVersion {
    type Err = std::num::ParseIntError;

    /// Reads `4.5`, `4.5.15`, and what Blender appends to it (`4.5.15 LTS`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.split_whitespace().next().unwrap_or_default();
        let mut parts = number.splitn(3, '.');
        let mut part = || parts.next().map(str::parse);
        Ok(Self {
            major: part().unwrap_or_else(|| "".parse())?,
            minor: part().unwrap_or_else(|| "".parse())?,
            patch: part().transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_read_as_blender_writes_them() {
        let version = |text: &str| text.parse::<BlenderVersion>().unwrap();
        assert!(version("4.5.15 LTS").is(version("4.5")));
        assert!(!version("4.5.15").is(version("4.5.1")));
        assert!(version("3.4.1").opens(version("3.4")));
        assert!(!version("3.4.1").opens(version("3.6")));
        assert!("banana".parse::<BlenderVersion>().is_err());
        assert!("4".parse::<BlenderVersion>().is_err());
    }
}
