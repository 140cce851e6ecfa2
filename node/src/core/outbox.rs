//! Which finished frames are kept, by batch, and what becomes of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{JournalId, Slice};

/// The index of the journals on disk. The journal of a batch that the node knows is open; that of a batch that nobody
/// asks for any more is an orphan, which is offered to the orchestrator until each of its frames has an answer.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    journals: BTreeMap<JournalId, Journal>,
    /// To be offered, the oldest first.
    orphans: VecDeque<JournalId>,
    /// Being offered: one at a time.
    offered: Option<JournalId>,
}

#[derive(Debug)]
struct Journal {
    /// Store of the orchestrator that asked for the frames.
    store_id: Arc<str>,
    /// Slices that no reader has learned of.
    unreported: BTreeSet<Slice>,
}

impl Outbox {
    /// `stores`: the store of each journal that an earlier incarnation left, in the order in which they are offered.
    pub(super) fn new(stores: Vec<Arc<str>>) -> Self {
        let mut outbox = Self::default();
        for (number, store_id) in stores.into_iter().enumerate() {
            let journal = JournalId::Found(number);
            outbox.journals.insert(journal, Journal { store_id, unreported: BTreeSet::new() });
            outbox.orphans.push_back(journal);
        }
        outbox
    }

    /// Number of journals.
    pub(super) fn len(&self) -> usize {
        self.journals.len()
    }

    /// Returns whether this is the journal's first frame.
    pub(super) fn keep(&mut self, journal: JournalId, store_id: &Arc<str>, slice: Slice) -> bool {
        let known = self.journals.len();
        let kept = self
            .journals
            .entry(journal)
            .or_insert_with(|| Journal { store_id: store_id.clone(), unreported: BTreeSet::new() });
        kept.unreported.insert(slice);
        self.journals.len() > known
    }

    pub(super) fn report(&mut self, journal: JournalId, slice: Slice) {
        if let Some(kept) = self.journals.get_mut(&journal) {
            kept.unreported.remove(&slice);
        }
    }

    /// Each event of a batch that has ended is durable at the orchestrator. Returns whether its journal is to be
    /// deleted; one with frames that no event named is offered.
    pub(super) fn settle(&mut self, journal: JournalId) -> bool {
        match self.journals.get(&journal) {
            Some(kept) if kept.unreported.is_empty() => self.journals.remove(&journal).is_some(),
            Some(_) => {
                self.orphans.push_back(journal);
                false
            }
            None => false,
        }
    }

    /// Nobody will ask for a batch's frames any more.
    pub(super) fn orphan(&mut self, journal: JournalId) {
        if self.journals.contains_key(&journal) {
            self.orphans.push_back(journal);
        }
    }

    /// Takes the next orphan to offer to the orchestrator of a store; `Err`: it is another store's and is deleted.
    pub(super) fn next_offer(&mut self, store_id: &str) -> Option<Result<JournalId, JournalId>> {
        if self.offered.is_some() {
            return None;
        }
        let journal = self.orphans.pop_front()?;
        if self.journals.get(&journal).is_none_or(|kept| *kept.store_id != *store_id) {
            self.journals.remove(&journal);
            return Some(Err(journal));
        }
        self.offered = Some(journal);
        Some(Ok(journal))
    }

    /// Returns whether the journal is to be deleted. Otherwise it is offered again, after the others.
    pub(super) fn offer_over(&mut self, journal: JournalId, is_handed_in: bool) -> bool {
        if self.offered.take_if(|offered| *offered == journal).is_none() {
            return false;
        }
        if is_handed_in {
            self.journals.remove(&journal);
        } else {
            self.orphans.push_back(journal);
        }
        is_handed_in
    }

    /// `is_known`: whether the node knows the batch that writes a journal.
    pub(super) fn check_invariants(&self, is_known: impl Fn(JournalId) -> bool) {
        for journal in self.journals.keys() {
            let orphans = self.orphans.iter().filter(|orphan| *orphan == journal).count();
            let offered = usize::from(self.offered == Some(*journal));
            let known = usize::from(is_known(*journal));
            assert_eq!(
                orphans + offered + known,
                1,
                "{journal:?} is either its batch's, waits, or is offered"
            );
        }
        for orphan in self.orphans.iter().chain(&self.offered) {
            assert!(self.journals.contains_key(orphan), "{orphan:?} is offered and gone");
        }
    }
}
