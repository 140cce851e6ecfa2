//! A row of the table, as `scenes/base.py` writes it, and what was found out about it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Checks that fail today: version of Blender, row, check, and the reason to the line's end.
const KNOWN: &str = include_str!("known.txt");

/// What in `args` and `env` stands for the row's folder.
const FOLDER: &str = "{folder}";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// `1,3`; none: the scene's own range, as an animation.
    pub(crate) frames: Option<String>,
    /// Files whose lack must fail the job by name; `FILE => WORDS` where other words name it.
    #[serde(default)]
    pub(crate) without: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    /// Environment of the client and of plain Blender.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Environment of plain Blender alone.
    #[serde(default)]
    plain_env: BTreeMap<String, String>,
    /// Whether plain Blender runs the file's Python.
    #[serde(default)]
    pub(crate) scripts: bool,
    /// Whether it is drawn though it is warned of.
    #[serde(default)]
    pub(crate) lenient: bool,
    /// Words of the notes and warnings that belong there.
    #[serde(default)]
    pub(crate) says: Vec<String>,
    /// Words of the reason for which there is no picture.
    pub(crate) refused: Option<String>,
    /// Largest difference of a channel, of 255, between two runs of plain Blender.
    #[serde(default)]
    pub(crate) noise: u8,
    /// Why the scene could not be made.
    pub(crate) broken: Option<String>,
    #[serde(rename = "about")]
    _about: Option<String>,
}

impl Row {
    /// Why a check fails today, where that is known.
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

    /// Files to take away, and the words that must name each.
    pub(crate) fn without(&self) -> Vec<(PathBuf, String)> {
        let split = |entry: &String| match entry.split_once(" => ") {
            Some((file, words)) => (path(file), words.to_owned()),
            None => (path(entry), entry.rsplit('/').next().unwrap_or(entry).to_owned()),
        };
        self.without.iter().map(split).collect()
    }
}

/// A name that is not Unicode comes as `%XX`, as JSON has none.
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

/// What is asked of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    /// The scene could be made.
    Made,
    /// The pictures are those of plain Blender.
    Equal,
    /// The job succeeded under `--strict`, without warnings and notes.
    Quiet,
    /// It was refused, or failed, with the right words.
    Refused,
    /// A missing file failed the job by its name.
    Without,
    /// All that plain Blender opened was sent.
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

/// What came of a row's checks: nothing wrong, or what is.
#[derive(Debug, Default)]
pub(crate) struct Verdict(BTreeMap<Check, Vec<String>>);

impl Verdict {
    /// Notes that something was checked, and what is wrong.
    pub(crate) fn add(&mut self, check: Check, wrong: impl IntoIterator<Item = String>) {
        self.0.entry(check).or_default().extend(wrong);
    }

    /// How many checks were made.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the table says of the row, in a line.
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

    /// What must not be: what is wrong and not known to be, and what is known to be wrong and is not.
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

/// Whether a refused open is known: a line `walls WORDS REASON` with words of it.
pub(crate) fn is_known_wall(open: &str) -> bool {
    KNOWN.lines().any(|line| {
        let mut words = line.splitn(3, ' ');
        words.next() == Some("walls") && words.next().is_some_and(|words| open.contains(words))
    })
}
