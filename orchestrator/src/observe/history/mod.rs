//! The history of everything that became visible, in a file, for tests of whole processes. The records of a commit are
//! written before the commit, and a mark after it. [`replay()`] checks such a file with
//! [`Invariants`](crate::invariants::Invariants).
//!
//! A line is one `write`, so a killed process leaves at most its last line torn. The store counts its commits, and each
//! opening records the count: it shows whether the last announced commit was durable.

mod replay;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

pub use self::replay::{ReplayError, Replayed, replay};
use super::Observer;
use crate::{
    domain::{FrameSet, Incarnation, JobId, NodeName},
    scheduler::Action,
    store::{Identity, JobRecord},
};

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// An incarnation of the orchestrator opened a store with so many commits.
    Opened { store_id: String, epoch: u32, commits: u64 },
    /// These records become visible once the store has so many commits; at once, if there is nothing to write.
    Announced { commits: u64, records: Vec<Record> },
    /// The store has so many commits.
    Durable { commits: u64 },
}

/// An input of the checker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Submitted { job: JobId, frames: FrameSet },
    Joined { node: NodeName, incarnation: Incarnation, slots: u32 },
    Acted(Box<Action>),
}

/// The history that a driver writes; the default one writes none.
#[derive(Debug, Default)]
pub(crate) struct History {
    file: Option<File>,
    /// Commits of the store.
    commits: u64,
    /// Records of the current cycle.
    records: Vec<Record>,
    /// The registration that is being decided.
    registering: Option<(NodeName, Incarnation, u32)>,
}

impl History {
    /// Appends to a file; creates it if it is missing.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn append_to(path: &Path) -> io::Result<Self> {
        let mut file = File::options().create(true).read(true).append(true).open(path)?;
        // Ends the line that an earlier incarnation left torn.
        if file.seek(SeekFrom::End(0))? > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file: Some(file), ..Self::default() })
    }

    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        // Fails only for maps whose keys are not strings. No line has one.
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        if let Err(error) = file.write_all(&text) {
            tracing::error!(%error, "the history cannot be written; it ends here");
            self.file = None;
        }
    }
}

impl Observer for History {
    fn opened(&mut self, identity: &Identity, commits: u64) {
        let (store_id, epoch) = (identity.store_id.to_string(), identity.epoch.0);
        self.commits = commits;
        self.write(&Line::Opened { store_id, epoch, commits });
    }

    fn submitted(&mut self, job: &JobRecord) {
        if self.file.is_some() {
            let (job, frames) = (job.job, job.spec.frames.clone());
            self.records.push(Record::Submitted { job, frames });
        }
    }

    fn registering(&mut self, node: &NodeName, incarnation: Incarnation, slots: u32) {
        self.registering = Some((node.clone(), incarnation, slots));
    }

    fn registered(&mut self) {
        self.registering = None;
    }

    fn acted(&mut self, action: &Action) {
        if self.file.is_none() {
            return;
        }
        // The node joins after its earlier incarnation has gone. A node that was there all along does not change.
        if let Action::NodeChanged { node: changed } = action
            && let Some((node, incarnation, slots)) =
                self.registering.take_if(|(node, ..)| node == changed)
        {
            self.records.push(Record::Joined { node, incarnation, slots });
        }
        self.records.push(Record::Acted(Box::new(action.clone())));
    }

    fn announced(&mut self, is_commit: bool) {
        let records = std::mem::take(&mut self.records);
        if is_commit || !records.is_empty() {
            let commits = self.commits + u64::from(is_commit);
            self.write(&Line::Announced { commits, records });
        }
    }

    fn durable(&mut self) {
        self.commits += 1;
        self.write(&Line::Durable { commits: self.commits });
    }
}

#[cfg(test)]
mod tests;
