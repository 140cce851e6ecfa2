//! Checks a history with the one checker of invariants.

use std::{
    any::Any,
    fs::File,
    io::{self, BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::{Line, Record};
use crate::invariants::Invariants;

/// The outcome of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// The checker, after the whole history.
    pub invariants: Invariants,
    /// Incarnations of the orchestrator.
    pub lives: u64,
    /// Commits that were durable.
    pub commits: u64,
    /// The scheduler's actions in these commits.
    pub actions: u64,
    /// Commits that were announced and never became durable.
    pub dropped: u64,
    /// Lines that a killed process left torn.
    pub torn: u64,
}

/// Why a history cannot be replayed to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("the history {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is empty.
    #[error("the history {} is empty: the orchestrator was not started with --history", .0.display())]
    Empty(PathBuf),
    /// A line was not written by an orchestrator.
    #[error("line {line} of the history cannot be read: {detail}")]
    Unreadable {
        /// The line's number, from 1.
        line: u64,
        /// The problem.
        detail: String,
    },
    /// The history mixes stores.
    #[error("line {0} of the history opens another store; replay each store's history by itself")]
    OtherStore(u64),
    /// The store and the history count different numbers of commits.
    #[error(
        "line {line} of the history counts {said} commits, the lines before it {known}; the history has a gap, or \
         does not begin with the store"
    )]
    OutOfStep {
        /// The line's number, from 1.
        line: u64,
        /// Commits according to the line.
        said: u64,
        /// Commits according to the lines before it.
        known: u64,
    },
    /// Durable commits are lost.
    #[error("I4: {known} commits were durable, but the store opened with {said} (line {line})")]
    Lost {
        /// The line's number, from 1.
        line: u64,
        /// Commits of the store as opened.
        said: u64,
        /// Commits that were durable before.
        known: u64,
    },
    /// An invariant is broken.
    #[error("{invariant} (line {line} of the history, record {record} of it: {what})")]
    Violation {
        /// Number of the record's line, from 1.
        line: u64,
        /// Number of the record in the line, from 1.
        record: usize,
        /// The record.
        what: String,
        /// The invariant, and how it is broken.
        invariant: String,
    },
}

/// Replays the history of one store from its beginning.
///
/// # Errors
/// [`ReplayError::Violation`] at the first record that breaks an invariant. Others if the file is not the history of one
/// store from its beginning.
pub fn replay(path: &Path) -> Result<Replayed, ReplayError> {
    let file_error = |source| ReplayError::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(file_error)?);
    let mut replay = Replay::default();
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        if file.read_until(b'\n', &mut bytes).map_err(file_error)? == 0 {
            return replay.end(path);
        }
        number += 1;
        replay.take(number, &bytes)?;
    }
}

#[derive(Default)]
struct Replay {
    checker: Checker,
    store_id: Option<String>,
    lives: u64,
    commits: u64,
    dropped: u64,
    torn: u64,
    /// A line that cannot be read. The next one must begin another incarnation.
    unreadable: Option<ReplayError>,
    /// The records announced for the next commit, and their line.
    announced: Option<(u64, Vec<Record>)>,
}

/// The checker, and what it has seen.
#[derive(Default)]
struct Checker {
    invariants: Invariants,
    actions: u64,
}

impl Replay {
    fn take(&mut self, number: u64, bytes: &[u8]) -> Result<(), ReplayError> {
        let line = match serde_json::from_slice::<Line>(bytes) {
            Ok(line) if bytes.ends_with(b"\n") => line,
            Ok(_) => return self.tear(number, "it is incomplete".to_owned()),
            Err(error) => return self.tear(number, error.to_string()),
        };
        if let Some(unreadable) = self.unreadable.take() {
            if !matches!(line, Line::Opened { .. }) {
                return Err(unreadable);
            }
            self.torn += 1;
        }
        match line {
            Line::Opened { store_id, commits, .. } => self.open(number, store_id, commits),
            _ if self.lives == 0 => Err(ReplayError::Unreadable {
                line: number,
                detail: "no store was opened before it".to_owned(),
            }),
            Line::Announced { commits, records } if commits == self.commits => {
                self.checker.check(number, &records)
            }
            Line::Announced { commits, records } if commits == self.commits + 1 => {
                // The commit before was refused because the disk was full.
                self.dropped += u64::from(self.announced.is_some());
                self.announced = Some((number, records));
                Ok(())
            }
            Line::Durable { commits }
                if commits == self.commits + 1 && self.announced.is_some() =>
            {
                self.commit()
            }
            Line::Announced { commits, .. } | Line::Durable { commits } => {
                Err(ReplayError::OutOfStep { line: number, said: commits, known: self.commits })
            }
        }
    }

    fn tear(&mut self, number: u64, detail: String) -> Result<(), ReplayError> {
        let unreadable = ReplayError::Unreadable { line: number, detail };
        match self.unreadable.replace(unreadable) {
            Some(earlier) => Err(earlier),
            None => Ok(()),
        }
    }

    fn open(&mut self, line: u64, store_id: String, commits: u64) -> Result<(), ReplayError> {
        if self.store_id.get_or_insert_with(|| store_id.clone()) != &store_id {
            return Err(ReplayError::OtherStore(line));
        }
        let (said, known) = (commits, self.commits);
        if said < known {
            return Err(ReplayError::Lost { line, said, known });
        }
        if said == known + 1 && self.announced.is_some() {
            self.commit()?;
        } else if said > known {
            return Err(ReplayError::OutOfStep { line, said, known });
        }
        self.dropped += u64::from(self.announced.take().is_some());
        if self.lives > 0 {
            self.checker.invariants.restarted();
        }
        self.lives += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ReplayError> {
        self.commits += 1;
        match self.announced.take() {
            Some((line, records)) => self.checker.check(line, &records),
            None => Ok(()),
        }
    }

    fn end(mut self, path: &Path) -> Result<Replayed, ReplayError> {
        if self.lives == 0 {
            return Err(ReplayError::Empty(path.to_owned()));
        }
        self.torn += u64::from(self.unreadable.is_some());
        // The store was not opened since, so it is unknown whether the commit is durable.
        self.dropped += u64::from(self.announced.is_some());
        let Self {
            checker: Checker { invariants, actions }, lives, commits, dropped, torn, ..
        } = self;
        Ok(Replayed { invariants, lives, commits, actions, dropped, torn })
    }
}

impl Checker {
    fn check(&mut self, line: u64, records: &[Record]) -> Result<(), ReplayError> {
        for (index, record) in records.iter().enumerate() {
            let invariants = &mut self.invariants;
            // Each batch of a node has a stream of its own, and their events may overtake each other.
            invariants.disorder = true;
            // The checker is not used after a panic.
            let checked = catch_unwind(AssertUnwindSafe(|| match record {
                Record::Submitted { job, frames } => invariants.submitted(*job, frames),
                Record::Joined { node, incarnation, slots } => {
                    invariants.joined(node, *incarnation, *slots);
                }
                Record::Acted(action) => invariants.acted(action),
            }));
            checked.map_err(|panic| ReplayError::Violation {
                line,
                record: index + 1,
                what: format!("{record:?}"),
                invariant: panic_text(&*panic),
            })?;
            self.actions += u64::from(matches!(record, Record::Acted(_)));
        }
        Ok(())
    }
}

/// The text of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = literal.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without text".to_owned())
}
