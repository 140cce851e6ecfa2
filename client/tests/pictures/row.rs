//! A row of the table, as written by `scenes/base.py`, and the results of its checks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Checks that are known to fail. Each line has the version of Blender, the row, the check and the reason.
const KNOWN: &str = include_str!("known.txt");

/// Stands for the row's folder in `args` and `env`.
const FOLDER: &str = "{folder}";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Frames such as `1,3`; `None` for the scene's own range, drawn as an animation.
    pub(crate) frames: Option<String>,
    /// Files that the job must name and fail for if one is missing. `FILE => WORDS` if other words name it.
    #[serde(default)]
    pub(crate) without: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    /// Environment variables of the client and of plain Blender.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Environment variables of plain Blender only.
    #[serde(default)]
    plain_env: BTreeMap<String, String>,
    /// Whether plain Blender runs the file's Python.
    #[serde(default)]
    pub(crate) scripts: bool,
    /// Whether the job runs without `--strict`, because it is drawn despite a warning.
    #[serde(default)]
    pub(crate) lenient: bool,
    /// Words of the expected notes and warnings.
    #[serde(default)]
    pub(crate) says: Vec<String>,
    /// Words of the expected reason if there is no picture.
    pub(crate) refused: Option<String>,
    /// Largest difference of a channel, out of 255, between two runs of plain Blender.
    #[serde(default)]
    pub(crate) noise: u8,
    /// Why the scene could not be made.
    pub(crate) broken: Option<String>,
    #[serde(rename = "about")]
    _about: Option<String>,
}

impl Row {
    /// The reason why a check is known to fail, if it is.
    fn known(&self, version: &str, check: Check) -> Option<&'static str> {
        KNOWN.lines().find_map(|line| {
            let mut words = line.splitn(4, ' ');
            let is_it = words.next()? == version
                && words.next()? == self.name
                && words.next()? == check.name();
            if is_it { words.next() } else { None }
        })
    }

    pub(crate) fn args(&self, folder: &Path) -> Vec<String> {
        self.args.iter().map(|arg| placed(arg, folder)).collect()
    }

    pub(crate) fn env(&self, folder: &Path) -> BTreeMap<String, String> {
        self.env.iter().map(|(name, value)| (name.clone(), placed(value, folder))).collect()
    }

    pub(crate) fn plain_env(&self, folder: &Path) -> BTreeMap<String, String> {
        let plain =
            self.plain_env.iter().map(|(name, value)| (name.clone(), placed(value, folder)));
        self.env(folder).into_iter().chain(plain).collect()
    }

    /// Files to take away, and the words that must name each of them.
    pub(crate) fn without(&self) -> Vec<(PathBuf, String)> {
        let split = |entry: &String| match entry.split_once(" => ") {
            Some((file, words)) => (path(file), words.to_owned()),
            None => (path(entry), entry.rsplit('/').next().unwrap_or(entry).to_owned()),
        };
        self.without.iter().map(split).collect()
    }
}

/// Decodes a path. `%XX` stands for a byte that is not Unicode, which JSON cannot express.
fn path(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;

    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn placed(text: &str, folder: &Path) -> String {
    text.replace(FOLDER, folder.to_str().unwrap())
}

/// A check of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    /// The scene was created.
    Made,
    /// The pictures equal those of plain Blender.
    Equal,
    /// The job succeeded with `--strict`, without warnings or notes.
    Quiet,
    /// The job was refused, or failed, with the right words.
    Refused,
    /// The job failed and named the file that was missing.
    Without,
    /// Every file that plain Blender opened was sent.
    Sent,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Equal => "equal",
            Self::Quiet => "quiet",
            Self::Refused => "refused",
            Self::Without => "without",
            Self::Sent => "sent",
        }
    }
}

/// The result of a row's checks: for each check, what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict(BTreeMap<Check, Vec<String>>);

impl Verdict {
    /// Records that something was checked, and what is wrong.
    pub(crate) fn add(&mut self, check: Check, wrong: impl IntoIterator<Item = String>) {
        self.0.entry(check).or_default().extend(wrong);
    }

    /// The number of checks that were made.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The line of the table about the row.
    pub(crate) fn summary(&self, row: &Row, version: &str) -> String {
        let word = |(check, wrong): (&Check, &Vec<String>)| match (
            wrong.is_empty(),
            row.known(version, *check),
        ) {
            (true, None) => check.name().to_owned(),
            (true, Some(_)) => format!("{} UNEXPECTEDLY", check.name()),
            (false, Some(reason)) => format!("not {} ({reason})", check.name()),
            (false, None) => format!("NOT {}", check.name().to_uppercase()),
        };
        self.0.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// Returns the unexpected results: failures that are not known, and known failures that no longer occur.
    pub(crate) fn faults(&self, row: &Row, version: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for (check, wrong) in &self.0 {
            match (wrong.is_empty(), row.known(version, *check)) {
                (true, Some(reason)) => faults.push(format!(
                    "{}: `{}` holds now, though it is marked as known to fail ({reason}): take the mark away",
                    row.name,
                    check.name()
                )),
                (false, None) => faults.extend(
                    wrong.iter().map(|wrong| format!("{} [{}]: {wrong}", row.name, check.name())),
                ),
                _ => {}
            }
        }
        faults
    }
}

/// Whether a refused open is known: a line `walls WORDS REASON` contains words of it.
pub(crate) fn is_known_wall(open: &str) -> bool {
    KNOWN.lines().any(|line| {
        let mut words = line.splitn(3, ' ');
        words.next() == Some("walls") && words.next().is_some_and(|words| open.contains(words))
    })
}
