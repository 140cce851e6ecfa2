//! An open job, as the driver holds it.

use std::collections::HashMap;

use crate::{
    domain::{FrameState, Slice},
    jobs::Gathered,
    scheduler::RestoredJob,
    store::{JobProgressRecord, JobRecord, Ledger, StoreError},
};

pub(super) struct OpenJob {
    pub(super) record: JobRecord,
    pub(super) next_log_line: u64,
    /// For the jobs that follow.
    pub(super) gathered: Gathered,
    /// When the slices that are being rendered began, in milliseconds since 1970.
    pub(super) begun_at_ms: HashMap<Slice, i64>,
}

impl OpenJob {
    pub(super) fn new(record: JobRecord, next_log_line: u64) -> Self {
        let gathered = Gathered::new(&record.spec);
        Self { record, next_log_line, gathered, begun_at_ms: HashMap::new() }
    }

    /// Continues a job where it stopped. Costs a look at all its finished frames if a followup needs them.
    pub(super) async fn restore(
        store: &dyn Ledger,
        record: JobRecord,
        progress: JobProgressRecord,
    ) -> Result<(Self, RestoredJob), StoreError> {
        let JobProgressRecord { finished: mut settled, tried, next_log_line } = progress;
        let mut open = Self::new(record, next_log_line);
        if open.gathered.needs_frames() {
            for frame in store.frames_after(open.record.job, i64::MIN, u32::MAX).await? {
                if let Some(rendered) = &frame.rendered {
                    open.gathered.add(frame.frame, rendered);
                }
            }
        }
        let mut attempts = Vec::new();
        for (frame, state, tries) in tried {
            // Failed frames may be retried.
            if state != FrameState::Open {
                settled.push(frame);
            }
            attempts.push((Slice::whole(frame), tries));
        }
        let record = &open.record;
        let restored = RestoredJob {
            job: record.job,
            frames: record.spec.frames.clone(),
            requirements: record.requirements(),
            priority: record.spec.priority,
            node_silence: record.spec.limits.node_silence(),
            state: record.status.state,
            counts: record.status.counts,
            revision: record.status.revision,
            settled,
            attempts,
        };
        Ok((open, restored))
    }
}
