//! Where things are kept when nobody says where.

use std::path::PathBuf;

#[cfg(feature = "local")]
use etcetera::{BaseStrategy as _, choose_base_strategy};

/// Folder for what must survive: `$XDG_DATA_HOME/framecrew`, or below the home folder.
#[cfg(feature = "local")]
pub(crate) fn data() -> Result<PathBuf, super::Failure> {
    let base = choose_base_strategy().map_err(|_| {
        super::Failure::usage("there is no home folder to keep jobs in; name a folder with --data")
    })?;
    Ok(base.data_dir().join("framecrew"))
}

/// Folder for a job's frames, in the current one: the job's name, made fit for a path, with `-frames`.
pub(crate) fn frames_of(job_name: &str) -> PathBuf {
    PathBuf::from(format!("{}-frames", fit(job_name)))
}

/// File for a job's contact sheet, in the current folder.
pub(crate) fn sheet_of(job_name: &str) -> PathBuf {
    PathBuf::from(format!("{}-sheet.png", fit(job_name)))
}

/// The name as a part of a path, without what leads elsewhere.
fn fit(name: &str) -> String {
    let keep = |c: char| if c.is_alphanumeric() || "-_. ".contains(c) { c } else { '-' };
    let name: String = name.chars().map(keep).take(100).collect();
    let name = name.trim_matches(['.', ' ']);
    if name.is_empty() { "job".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_name_becomes_one_folder() {
        assert_eq!(frames_of("shot 12"), PathBuf::from("shot 12-frames"));
        assert_eq!(frames_of("../../etc"), PathBuf::from("-..-etc-frames"));
        assert_eq!(frames_of(""), PathBuf::from("job-frames"));
        assert_eq!(frames_of("a/b\\c:d"), PathBuf::from("a-b-c-d-frames"));
    }
}
