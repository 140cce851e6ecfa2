//! Tells a history to the one checker of invariants.

use std::{
    any::Any,
    fs::File,
    io::{self, BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::{Line, Record};
use crate::invariants::Invariants;

/// What a history came to.
#[derive(Debug)]
pub struct Replayed {
    /// The checker, which was told all of it.
    pub invariants: Invariants,
    /// Lives of the orchestrator.
    pub lives: u64,
    /// Commits that were durable.
    pub commits: u64,
    /// The scheduler's actions in them.
    pub actions: u64,
    /// Commits that were announced and never durable.
    pub dropped: u64,
    /// Lines in whose middle a process was killed.
    pub torn: u64,
}

/// Why a history cannot be replayed to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("the history {} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing is in it.
    #[error("the history {} is empty: the orchestrator was not started with --history", .0.display())]
    Empty(PathBuf),
    /// Something is in it that no orchestrator wrote.
    #[error("line {line} of the history cannot be read: {detail}")]
    Unreadable {
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },
    /// It is of more than one store.
    #[error("line {0} of the history opens another store; replay each store's history by itself")]
    OtherStore(u64),
    /// The store and the history do not count alike.
    #[error(
        "line {line} of the history counts {said} commits, and those before it {known}; it has a gap, or \
         does not begin where the store does"
    )]
    OutOfStep {
        /// Its number, from 1.
        line: u64,
        /// Commits that it tells of.
        said: u64,
        /// Commits that are known from the lines before.
        known: u64,
    },
    /// What was durable is gone.
    #[error("I4: {known} commits were durable, and the store opened with {said} (line {line})")]
    Lost {
        /// Its number, from 1.
        line: u64,
        /// Commits that the store has.
        said: u64,
        /// Commits that it had.
        known: u64,
    },
    /// An invariant is broken.
    #[error("{invariant} (line {line} of the history, record {record} of it: {what})")]
    Violation {
        /// Number of the line that tells the record, from 1.
        line: u64,
        /// Which record of it, from 1.
        record: usize,
        /// The record.
        what: String,
        /// Which invariant, and how.
        invariant: String,
    },
}

/// Replays the history of one store from its beginning.
///
/// # Errors
/// [`ReplayError::Violation`] at the first record that breaks an invariant; others, when it is no history of one
/// store from its beginning on.
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
    told: Told,
    store_id: Option<String>,
    lives: u64,
    commits: u64,
    dropped: u64,
    torn: u64,
    /// A line that cannot be read: the next one has to be of another life.
    unreadable: Option<ReplayError>,
    /// What was announced for the next commit, and its line.
    announced: Option<(u64, Vec<Record>)>,
}

/// What the checker has been told.
#[derive(Default)]
struct Told {
    invariants: Invariants,
    actions: u64,
}

impl Replay {
    fn take(&mut self, number: u64, bytes: &[u8]) -> Result<(), ReplayError> {
        let line = match serde_json::from_slice::<Line>(bytes) {
            Ok(line) if bytes.ends_with(b"\n") => line,
            Ok(_) => return self.tear(number, "it has no end".to_owned()),
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
                detail: "no orchestrator has opened a store yet".to_owned(),
            }),
            Line::Announced { commits, records } if commits == self.commits => {
                self.told.tell(number, &records)
            }
            Line::Announced { commits, records } if commits == self.commits + 1 => {
                // The one before was refused: a full disk took no more jobs.
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
            self.told.invariants.restarted();
        }
        self.lives += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ReplayError> {
        self.commits += 1;
        match self.announced.take() {
            Some((line, records)) => self.told.tell(line, &records),
            None => Ok(()),
        }
    }

    fn end(mut self, path: &Path) -> Result<Replayed, ReplayError> {
        if self.lives == 0 {
            return Err(ReplayError::Empty(path.to_owned()));
        }
        self.torn += u64::from(self.unreadable.is_some());
        // Nobody opened the store since, so nobody saw what may be durable of it.
        self.dropped += u64::from(self.announced.is_some());
        let Self { told: Told { invariants, actions }, lives, commits, dropped, torn, .. } = self;
        Ok(Replayed { invariants, lives, commits, actions, dropped, torn })
    }
}

impl Told {
    fn tell(&mut self, line: u64, records: &[Record]) -> Result<(), ReplayError> {
        for (index, record) in records.iter().enumerate() {
            let invariants = &mut self.invariants;
            // Each of a node's batches tells by a stream of its own, and one may overtake another.
            invariants.disorder = true;
            // Nobody looks at them after a panic.
            let told = catch_unwind(AssertUnwindSafe(|| match record {
                Record::Submitted { job, frames } => invariants.submitted(*job, frames),
                Record::Joined { node, incarnation, slots } => {
                    invariants.joined(node, *incarnation, *slots);
                }
                Record::Acted(action) => invariants.acted(action),
            }));
            told.map_err(|panic| ReplayError::Violation {
                line,
                record: index + 1,
                what: format!("{record:?}"),
                invariant: said(&*panic),
            })?;
            self.actions += u64::from(matches!(record, Record::Acted(_)));
        }
        Ok(())
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = literal.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}
