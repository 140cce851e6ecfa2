//! A movie's file, as people name it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use framecrew::{OutputFile, proto::MovieFormat};

use crate::console::Failure;

/// Endings of a movie's file, and the format that each stands for.
const ENDINGS: [(&str, MovieFormat); 4] = [
    ("mp4", MovieFormat::Mp4),
    ("mkv", MovieFormat::Mkv),
    ("mov", MovieFormat::Mov),
    ("webm", MovieFormat::Webm),
];

/// A file for a movie; its ending says the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovieFile {
    path: PathBuf,
    format: MovieFormat,
}

/// A text that names no file for a movie.
#[derive(Debug, thiserror::Error)]
#[error("a movie's file ends in .mp4, .mkv, .mov or .webm")]
pub(crate) struct InvalidMovie;

impl MovieFile {
    pub(crate) fn parser() -> ValueParser {
        OsStringValueParser::new().try_map(Self::try_from).into()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn format(&self) -> MovieFormat {
        self.format
    }

    /// Checks that the file can be written and that no other file is in its way, before any other work. The caller
    /// must abandon the returned file if no movie arrives.
    pub(crate) fn check(&self, overwrite: bool) -> Result<OutputFile, Failure> {
        let path = self.path.display();
        if self.path.is_dir() {
            return Err(Failure::usage(format!("{path} is a folder; name a file for the movie")));
        }
        let file = OutputFile::open(&self.path).map_err(|error| match error {
            framecrew::Error::OutputFolder { source, .. } => Failure::usage(format!(
                "cannot write the movie {path}: {source}; free some space or name another file with --movie"
            )),
            error => error.into(),
        });
        let file = file?.overwriting(overwrite);
        file.check_free()?;
        Ok(file)
    }
}

impl TryFrom<OsString> for MovieFile {
    type Error = InvalidMovie;

    fn try_from(path: OsString) -> Result<Self, InvalidMovie> {
        let path = PathBuf::from(path);
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let format = format_of(ending).ok_or(InvalidMovie)?;
        Ok(Self { path, format })
    }
}

fn format_of(ending: &str) -> Option<MovieFormat> {
    let found = ENDINGS.into_iter().find(|(known, _)| ending.eq_ignore_ascii_case(known))?;
    Some(found.1)
}

/// Ending of the files of a format.
pub(crate) fn ending(format: MovieFormat) -> Option<&'static str> {
    ENDINGS.into_iter().find(|(_, known)| *known == format).map(|(ending, _)| ending)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_movies_ending_says_its_format() {
        let format = |name: &str| MovieFile::try_from(OsString::from(name)).map(|f| f.format());
        assert_eq!(format("a/out.mp4").unwrap(), MovieFormat::Mp4);
        assert_eq!(format("OUT.MOV").unwrap(), MovieFormat::Mov);
        for name in ["out.avi", "mp4", ".mp4", "out", "", "out.mp4/"] {
            assert_eq!(format(name).is_ok(), name == "out.mp4/", "{name}");
        }
        for (known, format) in ENDINGS {
            assert_eq!(ending(format), Some(known));
        }
    }
}
