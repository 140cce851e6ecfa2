//! An open job: which of its slices wait, and what a failed try means.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::restored::RestoredJob;
use crate::domain::{
    Attempts, BatchId, FailureReason, FrameCounts, FrameCursor, FrameSet, JobId, JobState,
    NodeName, Requirements, Revision, Slice,
};

/// Tries that may end by the renderer's fault before a frame is given up.
const RENDERER_TRIES: u32 = 3;
/// Tries that may end by running out of memory; every one after the first runs alone.
const MEMORY_TRIES: u32 = 2;
/// Nodes that may be lost under a frame; the last of them has nothing but this frame to lose.
const NODE_LOSSES: u32 = 3;
/// Troubles in a row after which a job yields to all others until something of it finishes.
const TROUBLES_BORNE: u32 = 3;

/// How much longer than the silence that a job bears the orchestrator waits: renderers take a moment to die,
const SILENCE_MARGIN_MIN: Duration = Duration::from_secs(2);
/// and two clocks may each run a hundredth wrong: a fiftieth of a silence that may last a day.
const SILENCE_MARGIN_PART: u32 = 50;

/// A job's place in the queue; lower ones are served first.
pub(super) type QueueKey = (bool, Reverse<i32>, JobId);

/// A job with open frames.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) requirements: Requirements,
    pub(super) priority: i32,
    /// How long after hearing from a node its slices may be given away.
    pub(super) patience: Duration,
    pub(super) state: JobState,
    pub(super) counts: FrameCounts,
    pub(super) revision: Revision,
    /// Batches that hold its slices.
    pub(super) batches: BTreeSet<BatchId>,
    /// Batches refused and slices failed around the renderer since one last finished.
    pub(super) troubles_in_a_row: u32,
    /// Nodes that failed slices of it by the renderer's fault since one last finished.
    pub(super) failed_on: BTreeSet<NodeName>,
    /// Seconds a slice takes, as a moving average; unknown before the first has finished.
    pub(super) mean_seconds: Option<f64>,
    frames: FrameSet,
    cursor: FrameCursor,
    /// Frames ahead of the cursor that it must pass over: settled, or with a node, before a restart.
    passed_over: HashSet<i32>,
    /// Frames the cursor has yet to give.
    ahead: u64,
    /// Slices to be tried again, by what is held against them: a look for one that suits a node costs as much
    /// as there are different blames, however many slices wait.
    returned: BTreeMap<Blame, VecDeque<Slice>>,
    returned_len: u64,
    /// Tries behind slices that have any.
    attempts: HashMap<Slice, Attempts>,
}

/// What is held against a slice that waits for another try.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Blame {
    /// A try failed by itself, not only with its node, or it must be alone: it may not starve the rest.
    last: bool,
    /// It took nodes or memory with it: nothing else may be on its node, so that nothing else suffers.
    alone: bool,
    /// Nodes that failed it, sorted.
    failed_on: Vec<NodeName>,
}

/// What a job has for a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Slices for one batch, at least one.
    Batch(Vec<Slice>),
    /// A slice that must have the node for itself.
    Alone(Slice),
    /// A slice that must have the node for itself, as soon as the node has run empty.
    OnceEmpty,
    /// Nothing that the node should render.
    Nothing,
}

/// What becomes of a slice after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Retry,
    GiveUp,
}

impl Job {
    pub(super) fn new(
        frames: FrameSet,
        requirements: Requirements,
        priority: i32,
        patience: Duration,
    ) -> Self {
        Self {
            requirements,
            priority,
            patience,
            state: JobState::Queued,
            counts: FrameCounts { open: frames.count(), ..FrameCounts::default() },
            revision: 1,
            batches: BTreeSet::new(),
            troubles_in_a_row: 0,
            failed_on: BTreeSet::new(),
            mean_seconds: None,
            cursor: frames.cursor(),
            passed_over: HashSet::new(),
            ahead: frames.count(),
            frames,
            returned: BTreeMap::new(),
            returned_len: 0,
            attempts: HashMap::new(),
        }
    }

    /// A job where a former life of the orchestrator left it, or where it ended.
    pub(super) fn restored(restored: RestoredJob, lease: Duration) -> Self {
        let RestoredJob { frames, requirements, priority, node_silence, .. } = restored;
        let new = Self::new(frames, requirements, priority, patience(node_silence, lease));
        Self {
            state: restored.state,
            counts: restored.counts,
            revision: restored.revision,
            passed_over: restored.settled.into_iter().collect(),
            ahead: restored.counts.open,
            attempts: restored.attempts.into_iter().collect(),
            ..new
        }
    }

    /// A former life had this frame with a node: it is not to be given out until that is settled. Returns
    /// false when the slice had left that batch by a failed try, and waits or is in a later batch.
    pub(super) fn restore_rendering(&mut self, slice: Slice, batch: BatchId) -> bool {
        let left = self.attempts.get(&slice).and_then(|attempts| attempts.latest_batch);
        let holds = left < Some(batch) && self.passed_over.insert(slice.frame);
        self.ahead -= u64::from(holds);
        holds
    }

    /// Last step of taking a job up: what waits and was tried before is returned.
    pub(super) fn restore_returned(&mut self) {
        let mut tried: Vec<Slice> = self.attempts.keys().copied().collect();
        tried.sort_unstable();
        for slice in tried {
            if self.passed_over.insert(slice.frame) {
                self.ahead -= 1;
                self.put_back(slice);
            }
        }
    }

    /// Slices that no node has.
    pub(super) fn waiting(&self) -> u64 {
        self.ahead + self.returned_len
    }

    /// Where it stands among the jobs with waiting slices: by priority, then by age. One that nodes cannot even
    /// begin stands behind all others, so that it does not keep the farm from them.
    pub(super) fn place(&self, id: JobId) -> QueueKey {
        (self.troubles_in_a_row >= TROUBLES_BORNE, Reverse(self.priority), id)
    }

    /// Slices that no node has, and that must have theirs for themselves.
    pub(super) fn waiting_alone(&self) -> usize {
        let alone = self.returned.iter().filter(|(blame, _)| blame.alone);
        alone.map(|(_, slices)| slices.len()).sum()
    }

    pub(super) fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        self.revision
    }

    pub(super) fn attempts(&self, slice: Slice) -> Attempts {
        self.attempts.get(&slice).cloned().unwrap_or_default()
    }

    /// Whether a slice must have its node for itself.
    pub(super) fn must_be_alone(&self, slice: Slice) -> bool {
        self.attempts.get(&slice).is_some_and(|attempts| {
            attempts.node_lost + attempts.suspicions >= NODE_LOSSES - 1
                || attempts.out_of_memory > 0
        })
    }

    /// Its node died, and may have begun it without a word.
    pub(super) fn suspect(&mut self, slice: Slice, node: &NodeName) {
        let attempts = self.attempts.entry(slice).or_default();
        attempts.suspicions += 1;
        // Elsewhere first: a node that dies of something else must not be the end of a frame.
        attempts.note_failed_on(node);
    }

    /// Up to `size` slices for `node`, which has nothing to do when it is `empty`. `other_could` tells whether
    /// some other live node, not among those given, could render this job: then slices that failed here are
    /// left for it. Those that were handed back or whose node was lost come first, as they are late already; those
    /// that failed come last.
    pub(super) fn take(
        &mut self,
        size: u64,
        node: &NodeName,
        empty: bool,
        other_could: impl Fn(&[NodeName]) -> bool,
    ) -> Taken {
        let suits =
            |blame: &Blame| !blame.failed_on.contains(node) || !other_could(&blame.failed_on);
        if self.is_in_order() {
            return self.take_in_order(size, empty, suits);
        }
        let mut slices = Vec::new();
        let fill = |slices: &mut Vec<Slice>, returned: &mut VecDeque<Slice>| {
            let room = (size - slices.len() as u64) as usize;
            slices.extend(returned.drain(..room.min(returned.len())));
        };
        let at_once = self.returned.iter_mut().filter(|(blame, _)| !blame.last && suits(blame));
        at_once.for_each(|(_, returned)| fill(&mut slices, returned));
        while (slices.len() as u64) < size && self.ahead > 0 {
            let Some(frame) = self.cursor.next(&self.frames) else { break };
            if !self.passed_over.remove(&frame) {
                self.ahead -= 1;
                slices.push(Slice::whole(frame));
            }
        }
        let mut taken = None;
        for (blame, returned) in self.returned.iter_mut().filter(|(blame, _)| blame.last) {
            if slices.len() as u64 >= size {
                break;
            }
            if !suits(blame) {
                continue;
            }
            if !blame.alone {
                fill(&mut slices, returned);
            } else if slices.is_empty() {
                taken = Some(match returned.pop_front_if(|_| empty) {
                    Some(slice) => Taken::Alone(slice),
                    None => Taken::OnceEmpty,
                });
                break;
            }
        }
        self.returned.retain(|_, returned| !returned.is_empty());
        self.returned_len = self.returned.values().map(|returned| returned.len() as u64).sum();
        taken.unwrap_or(if slices.is_empty() { Taken::Nothing } else { Taken::Batch(slices) })
    }

    /// Whether its frames are drawn in order, by one node at a time and in one batch.
    pub(super) fn is_in_order(&self) -> bool {
        self.frames.is_in_order()
    }

    /// Whether none of its frames may be assigned, because a batch has earlier frames.
    pub(super) fn is_held(&self) -> bool {
        self.is_in_order() && !self.batches.is_empty()
    }

    /// Takes the lowest waiting slices. A slice that does not suit the node, or must be alone on it, holds up all
    /// slices after it.
    fn take_in_order(&mut self, size: u64, empty: bool, suits: impl Fn(&Blame) -> bool) -> Taken {
        if self.is_held() {
            return Taken::Nothing;
        }
        let returned = self.returned.iter();
        let mut returned: Vec<(Slice, Blame)> = returned
            .flat_map(|(blame, slices)| slices.iter().map(|slice| (*slice, blame.clone())))
            .collect();
        returned.sort_unstable_by_key(|(slice, _)| *slice);
        let mut returned = returned.into_iter().peekable();
        let mut slices = Vec::new();
        while (slices.len() as u64) < size {
            let ahead = self.next_ahead().map(Slice::whole);
            match returned.next_if(|(slice, _)| ahead.is_none_or(|ahead| *slice < ahead)) {
                Some((_, blame)) if !suits(&blame) => break,
                Some((slice, blame)) if blame.alone => match slices.is_empty() {
                    true if empty => {
                        self.remove_waiting(slice);
                        return Taken::Alone(slice);
                    }
                    true => return Taken::OnceEmpty,
                    false => break,
                },
                Some((slice, _)) => slices.push(slice),
                None => {
                    let Some(slice) = ahead else { break };
                    self.cursor.next(&self.frames);
                    self.ahead -= 1;
                    slices.push(slice);
                }
            }
        }
        let taken: HashSet<&Slice> = slices.iter().collect();
        self.returned.retain(|_, returned| {
            returned.retain(|slice| !taken.contains(slice));
            !returned.is_empty()
        });
        self.returned_len = self.returned.values().map(|returned| returned.len() as u64).sum();
        if slices.is_empty() { Taken::Nothing } else { Taken::Batch(slices) }
    }

    /// Returns the frame that the cursor gives next, skipping those that it must not give.
    fn next_ahead(&mut self) -> Option<i32> {
        loop {
            let mut next = self.cursor;
            let frame = next.next(&self.frames)?;
            if !self.passed_over.remove(&frame) {
                return Some(frame);
            }
            self.cursor = next;
        }
    }

    /// Puts a slice back; what is held against it stays.
    pub(super) fn put_back(&mut self, slice: Slice) {
        let alone = self.must_be_alone(slice);
        let mut blame = Blame { last: alone, alone, ..Blame::default() };
        if let Some(attempts) = self.attempts.get(&slice) {
            blame.last |= attempts.total() > attempts.node_lost;
            blame.failed_on.clone_from(&attempts.failed_on);
            blame.failed_on.sort_unstable();
        }
        self.returned.entry(blame).or_default().push_back(slice);
        self.returned_len += 1;
    }

    fn is_ahead(&self, slice: Slice) -> bool {
        slice == Slice::whole(slice.frame)
            && self.cursor.is_before(&self.frames, slice.frame)
            && !self.passed_over.contains(&slice.frame)
    }

    /// Takes a slice from where it waits; returns false when it does not.
    pub(super) fn remove_waiting(&mut self, slice: Slice) -> bool {
        if self.is_ahead(slice) {
            self.passed_over.insert(slice.frame);
            self.ahead -= 1;
            return true;
        }
        let before = self.returned_len;
        self.returned.retain(|_, returned| {
            returned.retain(|returned| *returned != slice);
            !returned.is_empty()
        });
        self.returned_len = self.returned.values().map(|returned| returned.len() as u64).sum();
        self.returned_len < before
    }

    /// Opens slices again that were given up, and gives those back; `held` are in batches. Others of them that are
    /// open, or none of the job's, stay as they are. Costs one look at all frames.
    pub(super) fn reopen(
        &mut self,
        slices: Vec<Slice>,
        held: &[Slice],
        attempts: &Attempts,
    ) -> Vec<Slice> {
        let mut settled: HashSet<Slice> = self.frames.iter().map(Slice::whole).collect();
        let mut cursor = self.cursor;
        while let Some(frame) = cursor.next(&self.frames) {
            if !self.passed_over.contains(&frame) {
                settled.remove(&Slice::whole(frame));
            }
        }
        for open in self.returned.values().flatten().chain(held) {
            settled.remove(open);
        }
        let mut reopened = Vec::new();
        for slice in slices {
            if self.counts.failed > 0 && settled.remove(&slice) {
                self.attempts.insert(slice, attempts.clone());
                self.counts.failed -= 1;
                self.counts.open += 1;
                self.put_back(slice);
                reopened.push(slice);
            }
        }
        reopened
    }

    /// Records a failed try and decides. The slice is put back when it is to be tried again.
    pub(super) fn record_failure(
        &mut self,
        slice: Slice,
        batch: BatchId,
        node: &NodeName,
        reason: FailureReason,
    ) -> (Verdict, Attempts) {
        // It had its node for itself, so that it was at fault before too.
        let convicted = reason == FailureReason::NodeLost && self.must_be_alone(slice);
        let attempts = self.attempts.entry(slice).or_default();
        attempts.latest_batch = Some(batch);
        if convicted {
            let suspicions = std::mem::take(&mut attempts.suspicions);
            attempts.node_lost = attempts.node_lost.saturating_add(suspicions);
        }
        if reason != FailureReason::Infrastructure {
            attempts.note_failed_on(node);
        }
        let (tries, tries_max) = match reason {
            FailureReason::Renderer | FailureReason::InvalidOutput | FailureReason::Timeout => {
                (&mut attempts.renderer, RENDERER_TRIES)
            }
            FailureReason::OutOfMemory => (&mut attempts.out_of_memory, MEMORY_TRIES),
            FailureReason::NodeLost => (&mut attempts.node_lost, NODE_LOSSES),
            FailureReason::Infrastructure => (&mut attempts.infrastructure, u32::MAX),
            FailureReason::Permanent => (&mut attempts.renderer, 0),
        };
        *tries = tries.saturating_add(1);
        let verdict = if *tries >= tries_max { Verdict::GiveUp } else { Verdict::Retry };
        let attempts = attempts.clone();
        if verdict == Verdict::Retry {
            self.put_back(slice);
        }
        (verdict, attempts)
    }

    pub(super) fn record_seconds(&mut self, seconds: f64) {
        // A moving average over about the last ten slices follows a shot whose frames grow heavier.
        const WEIGHT: f64 = 0.1;
        if seconds.is_finite() && seconds >= 0.0 {
            let mean = self.mean_seconds.get_or_insert(seconds);
            *mean += (seconds - *mean) * WEIGHT;
        }
    }

    /// Moves on to the final state when no frame is open.
    pub(super) fn settle(&mut self) {
        if self.counts.open == 0 {
            self.state = if self.counts.failed > 0 { JobState::Failed } else { JobState::Finished };
        }
    }

    /// Whether [`Self::take`] would give this node something; `None` when it is to run empty first.
    #[cfg(test)]
    pub(super) fn would_give(
        &self,
        node: &NodeName,
        empty: bool,
        other_could: impl Fn(&[NodeName]) -> bool,
    ) -> Option<bool> {
        let suits =
            |blame: &&Blame| !(blame.failed_on.contains(node) && other_could(&blame.failed_on));
        if self.is_held() {
            return Some(false);
        }
        let lowest = self
            .returned
            .iter()
            .filter_map(|(blame, slices)| Some((slices.iter().min()?.frame, blame)));
        let lowest = lowest.min_by_key(|(frame, _)| *frame).filter(|_| self.is_in_order());
        let mut cursor = self.cursor;
        let ahead = std::iter::from_fn(|| cursor.next(&self.frames))
            .find(|frame| !self.passed_over.contains(frame));
        if let Some((_, blame)) =
            lowest.filter(|(frame, _)| ahead.is_none_or(|ahead| *frame < ahead))
        {
            return if !suits(&blame) {
                Some(false)
            } else if blame.alone && !empty {
                None
            } else {
                Some(true)
            };
        }
        if self.ahead > 0 {
            return Some(true);
        }
        match self.returned.keys().find(suits) {
            Some(blame) if blame.alone && !empty => None,
            found => Some(found.is_some()),
        }
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self, in_batches: u64) {
        assert_eq!(
            self.counts.open,
            self.waiting() + in_batches,
            "open frames = waiting + with a node"
        );
        assert!(!self.state.is_final(), "only open jobs are kept");
        let returned: HashSet<_> = self.returned.values().flatten().collect();
        assert_eq!(returned.len() as u64, self.returned_len, "no slice is put back twice");
        assert!(self.returned.values().all(|slices| !slices.is_empty()), "no blame without slices");
        let mut cursor = self.cursor;
        let ahead = std::iter::from_fn(|| cursor.next(&self.frames))
            .filter(|frame| !self.passed_over.contains(frame))
            .inspect(|frame| {
                assert!(!returned.contains(&Slice::whole(*frame)), "returned is not ahead");
            })
            .count() as u64;
        assert_eq!(ahead, self.ahead, "what is ahead is counted");
    }
}

/// How long after hearing from a node slices may be given away of a job that bears such a silence.
pub(super) fn patience(node_silence: Duration, lease: Duration) -> Duration {
    let margin = SILENCE_MARGIN_MIN.max(node_silence / SILENCE_MARGIN_PART);
    lease.max(node_silence.saturating_add(margin))
}
