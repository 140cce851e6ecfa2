//! An open job: which of its slices wait, and what a failed try means.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use crate::domain::{
    Attempts, BatchId, FailureReason, FrameCounts, FrameCursor, FrameSet, JobState, NodeName,
    Requirements, Revision, Slice,
};

/// Tries that may end by the renderer's fault before a frame is given up.
const RENDERER_TRIES: u32 = 3;
/// Tries that may end by running out of memory; every one after the first runs alone.
const MEMORY_TRIES: u32 = 2;
/// Nodes that may be lost under a frame; the last of them has nothing but this frame to lose.
const NODE_LOSSES: u32 = 3;
/// Returned slices looked at for one batch, so that a long list of them that must wait for another node
/// does not make every batch cost as much as the list is long.
const RETURNED_LOOKED_AT: usize = 64;

/// A job with open frames.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) requirements: Requirements,
    pub(super) priority: i32,
    pub(super) state: JobState,
    pub(super) counts: FrameCounts,
    pub(super) revision: Revision,
    /// Batches that hold its slices.
    pub(super) batches: BTreeSet<BatchId>,
    /// Seconds a slice takes, as a moving average; unknown before the first has finished.
    pub(super) mean_seconds: Option<f64>,
    frames: FrameSet,
    cursor: FrameCursor,
    /// Frames ahead of the cursor that it must pass over: settled, or with a node, before a restart.
    passed_over: HashSet<i32>,
    /// Frames the cursor has yet to give.
    ahead: u64,
    /// Slices to be tried again.
    returned: VecDeque<Slice>,
    /// Tries behind slices that have any.
    attempts: HashMap<Slice, Attempts>,
}

/// What becomes of a slice after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Retry,
    GiveUp,
}

impl Job {
    pub(super) fn new(frames: FrameSet, requirements: Requirements, priority: i32) -> Self {
        Self {
            requirements,
            priority,
            state: JobState::Queued,
            counts: FrameCounts { open: frames.len(), ..FrameCounts::default() },
            revision: 1,
            batches: BTreeSet::new(),
            mean_seconds: None,
            cursor: frames.cursor(),
            passed_over: HashSet::new(),
            ahead: frames.len(),
            frames,
            returned: VecDeque::new(),
            attempts: HashMap::new(),
        }
    }

    /// Takes up a job where a former life of the orchestrator left it.
    pub(super) fn restore(&mut self, settled: impl IntoIterator<Item = i32>) {
        self.passed_over.extend(settled);
        self.ahead = self.counts.open;
    }

    /// A former life had this frame with a node: it is not to be given out until that is settled.
    pub(super) fn restore_rendering(&mut self, slice: Slice) {
        if self.passed_over.insert(slice.frame) {
            self.ahead -= 1;
        }
    }

    pub(super) fn restore_attempts(&mut self, slice: Slice, attempts: Attempts) {
        self.attempts.insert(slice, attempts);
    }

    /// Slices that no node has.
    pub(super) fn waiting(&self) -> u64 {
        self.ahead + self.returned.len() as u64
    }

    pub(super) fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        self.revision
    }

    pub(super) fn attempts(&self, slice: Slice) -> Attempts {
        self.attempts.get(&slice).cloned().unwrap_or_default()
    }

    /// Up to `size` slices for `node`. `other_could` tells whether some other live node, not among those
    /// given, could render this job: then slices that failed here are left for it.
    pub(super) fn take(
        &mut self,
        size: u64,
        node: &NodeName,
        other_could: impl Fn(&[NodeName]) -> bool,
    ) -> Vec<Slice> {
        let mut slices = Vec::new();
        while (slices.len() as u64) < size && self.ahead > 0 {
            let Some(frame) = self.cursor.next(&self.frames) else { break };
            if self.passed_over.remove(&frame) {
                continue;
            }
            self.ahead -= 1;
            let slice = Slice::whole(frame);
            if self.attempts.contains_key(&slice) {
                self.returned.push_back(slice);
            } else {
                slices.push(slice);
            }
        }
        // Slices that were tried before come last, so that a bad frame cannot starve the rest.
        for _ in 0..self.returned.len().min(RETURNED_LOOKED_AT) {
            if slices.len() as u64 >= size {
                break;
            }
            let Some(slice) = self.returned.pop_front() else { break };
            let attempts = self.attempts.get(&slice);
            let elsewhere =
                attempts.is_some_and(|a| a.failed_on.contains(node) && other_could(&a.failed_on));
            let alone = attempts.is_some_and(must_be_alone);
            if elsewhere || (alone && !slices.is_empty()) {
                self.returned.push_back(slice);
                continue;
            }
            slices.push(slice);
            if alone {
                break;
            }
        }
        slices
    }

    /// Puts a slice back without blame.
    pub(super) fn put_back(&mut self, slice: Slice) {
        self.returned.push_back(slice);
    }

    /// Records a failed try and decides. The slice is put back when it is to be tried again.
    pub(super) fn record_failure(
        &mut self,
        slice: Slice,
        node: &NodeName,
        reason: FailureReason,
    ) -> (Verdict, Attempts) {
        let attempts = self.attempts.entry(slice).or_default();
        if !attempts.failed_on.contains(node) && reason != FailureReason::Infrastructure {
            attempts.failed_on.push(node.clone());
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
            self.returned.push_back(slice);
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

    #[cfg(test)]
    pub(super) fn has_untried(&self) -> bool {
        self.ahead > 0
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self, in_batches: u64) {
        assert_eq!(
            self.counts.open,
            self.waiting() + in_batches,
            "open frames = waiting + with a node"
        );
        assert!(!self.state.is_final(), "only open jobs are kept");
        let returned: HashSet<_> = self.returned.iter().collect();
        assert_eq!(returned.len(), self.returned.len(), "no slice is put back twice");
    }
}

/// A slice that took nodes or memory with it goes in a batch of its own, so that nothing else suffers.
fn must_be_alone(attempts: &Attempts) -> bool {
    attempts.node_lost >= NODE_LOSSES - 1 || attempts.out_of_memory > 0
}
