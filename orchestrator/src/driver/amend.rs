//! Frames change outside of batches: failed ones are retried, and finished ones that a node still holds are adopted. Both
//! are looked up in the store before the cycle decides, while the store holds every earlier decision.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tracing::info;

use super::{Driver, cycle::Cycle, open_job::OpenJob};
use crate::{
    domain::{FrameSet, FrameState, Incarnation, JobId, JobState, NodeName, Slice},
    mailbox::{Adoption, Command, MembershipError, Orphan, RetryError, RetryReply},
    scheduler::{Action, Event, RestoredJob},
    store::{JobRecord, StoreError},
};

/// A command, with the state of its frames in the store.
pub(super) enum Amendment {
    Retry(JobId, Failed, RetryReply),
    Adopt {
        node: NodeName,
        incarnation: Incarnation,
        orphans: Vec<(Orphan, Known)>,
        reply: oneshot::Sender<Result<Vec<Adoption>, MembershipError>>,
    },
}

/// The failed frames of a job, and the job itself if it is over.
pub(super) struct Failed {
    record: JobRecord,
    slices: Vec<Slice>,
    closed: Option<Box<(OpenJob, RestoredJob)>>,
}

/// The state of a frame that a node wants to hand in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Open,
    /// With the same outputs.
    Finished,
    Over,
}

impl Driver {
    /// Looks up a command's frames. Returns `None` if that answered the command. Costs a read of all frames of a job
    /// whose frames are retried, and of each frame that is handed in.
    pub(super) async fn look_up(&mut self, command: Command) -> Option<Amendment> {
        match command {
            Command::Retry(job, frames, reply) => {
                match self.failed_frames(job, frames.as_ref()).await {
                    Ok(failed) => Some(Amendment::Retry(job, failed, reply)),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                        None
                    }
                }
            }
            Command::Adopt { node, incarnation, orphans, reply } => {
                let mut known = Vec::with_capacity(orphans.len());
                for orphan in orphans {
                    match self.lookup(&orphan).await {
                        Ok(it) => known.push((orphan, it)),
                        // Without an answer the node keeps them and asks again.
                        Err(error) => {
                            tracing::error!(%error, "finished frames cannot be looked up");
                            return None;
                        }
                    }
                }
                Some(Amendment::Adopt { node, incarnation, orphans: known, reply })
            }
            _ => None,
        }
    }

    async fn failed_frames(
        &mut self,
        job: JobId,
        wanted: Option<&FrameSet>,
    ) -> Result<Failed, RetryError> {
        let store = self.store.clone();
        let wanted: Option<HashSet<i32>> = wanted.map(|frames| frames.iter().collect());
        let is_wanted = |frame: i32| wanted.as_ref().is_none_or(|wanted| wanted.contains(&frame));
        let snapshot = self.meanwhile(store.snapshot(job, 0)).await?.ok_or(RetryError::NotFound)?;
        let record = snapshot.job;
        if record.status.state == JobState::Cancelled {
            return Err(RetryError::Cancelled);
        }
        let slices: Vec<Slice> = snapshot
            .states
            .into_iter()
            .filter(|(frame, state)| *state == FrameState::Failed && is_wanted(*frame))
            .map(|(frame, _)| Slice::whole(frame))
            .collect();
        let mut closed = None;
        if !self.jobs.contains_key(&job) && !slices.is_empty() {
            let reading = async {
                // Read with its project, which no snapshot has and which nodes need.
                let Some(whole) = store.job(job).await? else { return Ok(None) };
                let progress = store.job_progress(job).await?;
                let record = JobRecord { spec: whole.spec, ..record.clone() };
                OpenJob::restore(&*store, record, progress).await.map(Some)
            };
            closed = self.meanwhile(reading).await?.map(Box::new);
        }
        Ok(Failed { record, slices, closed })
    }

    async fn lookup(&mut self, orphan: &Orphan) -> Result<Known, StoreError> {
        let Orphan { job, slice, rendered, .. } = orphan;
        if *slice != Slice::whole(slice.frame) {
            return Ok(Known::Over);
        }
        let store = self.store.clone();
        let before = i64::from(slice.frame) - 1;
        let found = self.meanwhile(store.frames_after(*job, before, 1)).await?.pop();
        let found = found.filter(|frame| frame.frame == slice.frame);
        Ok(match found {
            Some(frame) if frame.state == FrameState::Finished => {
                let same = frame.rendered.is_some_and(|known| known.outputs == rendered.outputs);
                if same { Known::Finished } else { Known::Over }
            }
            Some(frame) if frame.state != FrameState::Open => Known::Over,
            _ => match self.jobs.get(job) {
                Some(open) if open.record.spec.frames.contains(slice.frame) => Known::Open,
                _ => Known::Over,
            },
        })
    }

    pub(super) fn amend(&mut self, amendment: Amendment, cycle: &mut Cycle) {
        match amendment {
            Amendment::Retry(job, failed, reply) => {
                let answer = self.retry(job, failed, cycle);
                cycle.reply(reply, Ok(answer));
            }
            Amendment::Adopt { node, incarnation, orphans, reply } => {
                let answer = match self.scheduler.incarnation(&node) {
                    Some(known) if known == incarnation => {
                        let adopt = |(orphan, known)| self.adopt(&node, orphan, known, cycle);
                        Ok(orphans.into_iter().map(adopt).collect())
                    }
                    Some(known) if known > incarnation => {
                        Err(MembershipError::NewerIncarnation(node))
                    }
                    _ => Err(MembershipError::NotRegistered(node)),
                };
                cycle.reply(reply, answer);
            }
        }
    }

    fn retry(&mut self, job: JobId, failed: Failed, cycle: &mut Cycle) -> (JobRecord, u64) {
        let Failed { record, slices, closed } = failed;
        let mut restored = None;
        // An earlier call of this cycle may have opened it.
        if let Some(closed) = closed
            && !self.jobs.contains_key(&job)
        {
            let (open, job_as_it_was) = *closed;
            cycle.reopened.push(open.record.clone());
            self.jobs.insert(job, open);
            restored = Some(Box::new(job_as_it_was));
        }
        let mut reopened = 0;
        if !slices.is_empty() {
            let event = Event::FramesRetried { job, closed: restored, slices };
            let actions = self.scheduler.handle(self.now(), event);
            let is_retry = |action: &&Action| matches!(action, Action::RetrySlice { .. });
            reopened = actions.iter().filter(is_retry).count() as u64;
            info!(%job, frames = reopened, "failed frames are retried");
            self.apply(cycle, actions);
        }
        let record = self.jobs.get(&job).map_or(record, |open| open.record.clone());
        (record, reopened)
    }

    fn adopt(
        &mut self,
        node: &NodeName,
        orphan: Orphan,
        known: Known,
        cycle: &mut Cycle,
    ) -> Adoption {
        let Orphan { job, slice, rendered, is_stored } = orphan;
        match known {
            Known::Over => return Adoption::Unwanted,
            Known::Finished => return Adoption::Adopted,
            Known::Open if !is_stored => return Adoption::BlobsMissing,
            Known::Open => {}
        }
        let event = Event::FrameAdopted { node: node.clone(), job, slice, rendered };
        let actions = self.scheduler.handle(self.now(), event);
        let is_finish = |action: &Action| match action {
            Action::FinishSlice { job: of, slice: which, .. } => (*of, *which) == (job, slice),
            _ => false,
        };
        let adopted = actions.iter().any(is_finish);
        self.apply(cycle, actions);
        if adopted {
            info!(%job, frame = slice.frame, %node, "finished frame adopted");
            Adoption::Adopted
        } else {
            Adoption::Unwanted
        }
    }
}
