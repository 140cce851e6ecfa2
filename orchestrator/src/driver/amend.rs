//! What changes frames outside of batches: failed ones are tried again, and finished ones are taken in that a
//! node still has. Both are looked up in the store before a turn decides, while it has all that was decided.

use tokio::sync::oneshot;
use tracing::info;

use super::{
    Adoption, Driver, MembershipError, OpenJob, RetryError, Turn,
    handle::{Command, Orphan, RetryReply},
};
use crate::{
    domain::{FrameSet, FrameState, Incarnation, JobId, JobState, NodeName, Slice},
    scheduler::{Action, Event, RestoredJob},
    store::{JobRecord, StoreError},
};

/// A command, and what the store says about it.
pub(super) enum Amendment {
    Retry(JobId, Failed, RetryReply),
    Adopt {
        node: NodeName,
        incarnation: Incarnation,
        orphans: Vec<(Orphan, Known)>,
        reply: oneshot::Sender<Result<Vec<Adoption>, MembershipError>>,
    },
}

/// Failed frames of a job, and all of the job where it is over.
pub(super) struct Failed {
    record: JobRecord,
    slices: Vec<Slice>,
    closed: Option<Box<(OpenJob, RestoredJob)>>,
}

/// How a frame stands that a node wants to hand in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Open,
    /// With the same outputs.
    Finished,
    Over,
}

impl Driver {
    /// Looks up what the store has about a command; `None` when that answered it. Costs a look at all frames
    /// of a job whose frames are tried again, and one at each frame that is handed in.
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
                    match self.know(&orphan).await {
                        Ok(it) => known.push((orphan, it)),
                        // Without an answer the node keeps them, and asks again.
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
        let wanted: Option<std::collections::HashSet<i32>> =
            wanted.map(|frames| frames.iter().collect());
        let is_wanted = |frame: i32| wanted.as_ref().is_none_or(|wanted| wanted.contains(&frame));
        let snapshot = self.meanwhile(store.snapshot(job, 0)).await?.ok_or(RetryError::NotFound)?;
        let record = snapshot.job;
        if record.standing.state == JobState::Cancelled {
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
                // With its project, which no snapshot has: nodes are sent it.
                let Some(whole) = store.job(job).await? else { return Ok(None) };
                let remains = store.job_progress(job).await?;
                let record = JobRecord { spec: whole.spec, ..record.clone() };
                OpenJob::restore(&*store, record, remains).await.map(Some)
            };
            closed = self.meanwhile(reading).await?.map(Box::new);
        }
        Ok(Failed { record, slices, closed })
    }

    async fn know(&mut self, orphan: &Orphan) -> Result<Known, StoreError> {
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

    pub(super) fn amend(&mut self, amendment: Amendment, turn: &mut Turn) {
        match amendment {
            Amendment::Retry(job, failed, reply) => {
                let answer = self.retry(job, failed, turn);
                turn.reply(reply, Ok(answer));
            }
            Amendment::Adopt { node, incarnation, orphans, reply } => {
                let answer = match self.scheduler.incarnation(&node) {
                    Some(known) if known == incarnation => {
                        let adopt = |(orphan, known)| self.adopt(&node, orphan, known, turn);
                        Ok(orphans.into_iter().map(adopt).collect())
                    }
                    Some(known) if known > incarnation => {
                        Err(MembershipError::NewerIncarnation(node))
                    }
                    _ => Err(MembershipError::NotRegistered(node)),
                };
                turn.reply(reply, answer);
            }
        }
    }

    fn retry(&mut self, job: JobId, failed: Failed, turn: &mut Turn) -> (JobRecord, u64) {
        let Failed { record, slices, closed } = failed;
        let mut restored = None;
        // An earlier call of this turn may have opened it.
        if let Some(closed) = closed
            && !self.jobs.contains_key(&job)
        {
            let (open, job_as_it_was) = *closed;
            turn.reopened.push(open.record.clone());
            self.jobs.insert(job, open);
            restored = Some(Box::new(job_as_it_was));
        }
        let mut reopened = 0;
        if !slices.is_empty() {
            let event = Event::FramesRetried { job, closed: restored, slices };
            let actions = self.scheduler.handle(self.now(), event);
            let is_retry = |action: &&Action| matches!(action, Action::RetrySlice { .. });
            reopened = actions.iter().filter(is_retry).count() as u64;
            info!(%job, frames = reopened, "failed frames are tried again");
            self.apply(turn, actions);
        }
        let record = self.jobs.get(&job).map_or(record, |open| open.record.clone());
        (record, reopened)
    }

    fn adopt(
        &mut self,
        node: &NodeName,
        orphan: Orphan,
        known: Known,
        turn: &mut Turn,
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
        let is_finish = |action: &Action| matches!(action, Action::FinishSlice { job: of, slice: which, .. } if (*of, *which) == (job, slice));
        let adopted = actions.iter().any(is_finish);
        self.apply(turn, actions);
        if adopted {
            info!(%job, frame = slice.frame, %node, "finished frame adopted");
            Adoption::Adopted
        } else {
            Adoption::Unwanted
        }
    }
}
