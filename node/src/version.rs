//! Versions of Blender.

use std::{fmt, str::FromStr};

/// A version like `4.5.15`; parts that were not given count as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// `4` of `4.5.15`.
    pub major: u16,
    /// `5` of `4.5.15`.
    pub minor: u16,
    /// `15` of `4.5.15`.
    pub patch: u16,
}

impl Version {
    /// The version without its patch: what file formats and looks depend on.
    pub(crate) fn series(self) -> (u16, u16) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is one to three numbers with dots between them, like 4.5 or 4.5.15")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Reads `4`, `4.5`, `4.5.15`, and what Blender says about itself: `4.5.15 LTS`.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let numbers = text.split(' ').next().unwrap_or_default();
        let mut parts = [0; 3];
        let mut given = numbers.split('.');
        for (index, number) in given.by_ref().take(3).enumerate() {
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(InvalidVersion);
            }
            parts[index] = number.parse().map_err(|_| InvalidVersion)?;
        }
        if given.next().is_some() {
            return Err(InvalidVersion);
        }
        let [major, minor, patch] = parts;
        Ok(Self { major, minor, patch })
    }
}

/// Whether `version` is one of those that `prefix` names: `4.5` names every 4.5.x, but not 4.50.
pub(crate) fn matches_prefix(version: Version, prefix: &str) -> bool {
    let full = version.to_string();
    full.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_blender_says_about_itself_is_read() {
        let version: Version = "4.5.15 LTS".parse().unwrap();
        assert_eq!(version.to_string(), "4.5.15");
        assert_eq!("3.4".parse::<Version>().unwrap().to_string(), "3.4.0");
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in ["", "x", "4.", "4.5.1.2", "4.-5", "+4", "70000"] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_dot() {
        let version: Version = "4.50.1".parse().unwrap();
        assert!(!matches_prefix(version, "4.5"));
        assert!(matches_prefix(version, "4.50"));
        assert!(matches_prefix(version, "4"));
        assert!(matches_prefix(version, "4.50.1"));
    }
}
