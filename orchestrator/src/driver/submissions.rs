//! Jobs are accepted.

use tracing::{info, warn};

use super::{Driver, cycle::Cycle, open_job::OpenJob};
use crate::{
    clock::wall_ms,
    domain::JobId,
    mailbox::{NewJob, SubmitError, SubmitReply},
    observe::Observer as _,
    scheduler::Event,
    store::{Group, JobRecord, Request, StoreError},
};

/// A submission that is answered from the store: the job, and whether an earlier call had made it.
type Accepted = (JobId, bool, SubmitReply);

impl Driver {
    /// Writes jobs in a commit of their own, before the scheduler hears of them. A job that does not fit on the disk
    /// is refused whole.
    ///
    /// # Errors
    /// When another orchestrator has opened the store.
    pub(super) async fn accept(
        &mut self,
        submissions: Vec<(NewJob, SubmitReply)>,
        cycle: &mut Cycle,
    ) -> Result<(), StoreError> {
        let mut group = Group::default();
        let mut accepted = Vec::new();
        for (job, reply) in submissions {
            accepted.extend(self.number(job, reply, &mut group).await);
        }
        if !group.is_empty() {
            self.commit_jobs(&mut group).await?;
        }
        // Watchers may come as soon as a submission is answered.
        for (_, record) in &group.new_jobs {
            self.open(record);
        }
        // Answered from the store: a job that it does not have was not accepted.
        let store = self.store.clone();
        for (job, existed, reply) in accepted {
            let answer = match self.meanwhile(store.job(job)).await {
                Ok(Some(record)) => Ok((record, existed)),
                Ok(None) => Err(SubmitError::StoreFailing),
                Err(error) => Err(error.into()),
            };
            let _ = reply.send(answer);
        }
        for (_, record) in group.new_jobs {
            self.begin(&record, cycle);
        }
        Ok(())
    }

    /// Gives a new job its number and puts it in the group. Returns `None` if the submission is answered already.
    async fn number(
        &mut self,
        job: NewJob,
        reply: SubmitReply,
        group: &mut Group,
    ) -> Option<Accepted> {
        let NewJob { request, spec, file_version } = job;
        let pending = group
            .new_jobs
            .iter()
            .find(|(known, _)| known.request_id == request.request_id)
            .map(|(known, record): &(Request, JobRecord)| (record.job, known.clone()));
        let store = self.store.clone();
        let known = match pending {
            Some(known) => Ok(Some(known)),
            None => self.meanwhile(store.find_request(&request.request_id)).await,
        };
        let refusal = match known {
            Err(error) => error.into(),
            Ok(Some((job, known))) if known.fingerprint == request.fingerprint => {
                return Some((job, true, reply));
            }
            Ok(Some((job, _))) => SubmitError::RequestIdTaken(job),
            Ok(None) => match self.store.check_room() {
                Err(error) => error.into(),
                Ok(()) => {
                    self.last_job += 1;
                    let job = JobId(self.last_job);
                    let record = JobRecord::submitted(job, spec, file_version, wall_ms());
                    group.new_jobs.push((request, record));
                    return Some((job, false, reply));
                }
            },
        };
        let _ = reply.send(Err(refusal));
        None
    }

    /// Commits new jobs. Removes them from the group if the store refuses them.
    async fn commit_jobs(&mut self, group: &mut Group) -> Result<(), StoreError> {
        group.new_jobs.iter().for_each(|(_, record)| self.observers.submitted(record));
        self.observers.announced(true);
        let store = self.store.clone();
        match self.meanwhile(store.commit(group)).await {
            Ok(()) => self.observers.durable(),
            Err(error @ StoreError::Superseded) => return Err(error),
            Err(error) => {
                warn!(%error, "jobs refused");
                group.new_jobs.clear();
            }
        }
        Ok(())
    }

    /// Opens a durable job: from now on it can be watched.
    pub(super) fn open(&mut self, record: &JobRecord) {
        self.feed.open_job(record);
        self.jobs.insert(record.job, OpenJob::new(record.clone(), 1));
    }

    /// Makes a job's frames available to nodes.
    pub(super) fn begin(&mut self, record: &JobRecord, cycle: &mut Cycle) {
        let (job, frames) = (record.job, record.spec.frames.clone());
        info!(%job, name = record.spec.name, frames = frames.count(), "job accepted");
        let (requirements, priority) = (record.requirements(), record.spec.priority);
        let node_silence = record.spec.limits.node_silence();
        let event = Event::JobSubmitted { job, frames, requirements, priority, node_silence };
        self.decide(event, cycle);
    }
}
