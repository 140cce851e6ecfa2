//! A store in memory: `memory:`, for tests and trials. It lasts as long as the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Archive, BatchRecord, Group, Identity, JobProgressRecord, JobRecord, LOG_LINES_MAX, Ledger,
    LogRecord, NodeRecord, Request, RestoredState, Snapshot, StoreError,
};
use crate::domain::{BatchId, Frame, FrameState, JobId, NodeName, Revision, Slice};

/// A handle to the tables, of one epoch.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore {
    tables: Arc<Mutex<Tables>>,
    identity: Identity,
    #[cfg(test)]
    pub(crate) faults: Arc<Faults>,
}

/// Failures that a test injects, and what it counts.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Commits fail as on a full disk.
    pub(crate) is_full: std::sync::atomic::AtomicBool,
    /// The space that is left is reserved for accepted jobs.
    pub(crate) is_low: std::sync::atomic::AtomicBool,
    /// Commits that failed because of `is_full`.
    pub(crate) refused: std::sync::atomic::AtomicUsize,
    /// Reads of the archive.
    pub(crate) reads: std::sync::atomic::AtomicUsize,
}

#[derive(Debug)]
struct Tables {
    /// The latest opening: earlier handles are superseded.
    identity: Identity,
    commits: u64,
    jobs: BTreeMap<JobId, JobRecord>,
    requests: BTreeMap<String, (JobId, Request)>,
    frames: BTreeMap<(JobId, Slice), Arc<Frame>>,
    batches: BTreeMap<BatchId, BatchRecord>,
    nodes: BTreeMap<NodeName, NodeRecord>,
    log: BTreeMap<JobId, Vec<LogRecord>>,
    blob_uses: BTreeMap<Digest, i64>,
    blob_uses_are_complete: bool,
}

impl MemoryStore {
    /// A new store in its first epoch.
    pub(crate) fn new() -> Self {
        let identity = Identity::next(None);
        let tables = Tables {
            identity: identity.clone(),
            commits: 0,
            jobs: BTreeMap::new(),
            requests: BTreeMap::new(),
            frames: BTreeMap::new(),
            batches: BTreeMap::new(),
            nodes: BTreeMap::new(),
            log: BTreeMap::new(),
            blob_uses: BTreeMap::new(),
            blob_uses_are_complete: true,
        };
        Self {
            tables: Arc::new(Mutex::new(tables)),
            identity,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// Opens the store again, in a new epoch.
    #[cfg(test)]
    pub(crate) fn reopen(&self) -> Self {
        let identity = self.with_tables(|tables| {
            tables.identity = Identity::next(Some(&tables.identity));
            tables.identity.clone()
        });
        Self { tables: self.tables.clone(), identity, faults: Arc::default() }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn with_tables<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        work(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tables) -> T,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        #[cfg(test)]
        self.faults.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let read = self.with_tables(|tables| work(tables));
        std::future::ready(Ok(read)).boxed()
    }

    /// Writes unless another orchestrator has opened the store.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> T,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let written = self.with_tables(|tables| {
            let is_latest = tables.identity.epoch == self.identity.epoch;
            is_latest.then(|| work(tables)).ok_or(StoreError::Superseded)
        });
        std::future::ready(written).boxed()
    }
}

impl Tables {
    fn commit(&mut self, group: &Group) {
        self.commits += 1;
        for (request, record) in &group.new_jobs {
            self.requests.insert(request.request_id.clone(), (record.job, request.clone()));
            self.jobs.insert(record.job, record.clone());
        }
        for (job, status) in &group.jobs {
            if let Some(record) = self.jobs.get_mut(job) {
                let warnings = std::mem::take(&mut record.status.warnings);
                record.status = status.clone();
                record.status.warnings = warnings;
            }
        }
        for (job, warnings) in &group.warnings {
            if let Some(record) = self.jobs.get_mut(job) {
                let known = &mut record.status.warnings;
                let added = warnings.iter().map(|(_, warning)| warning.clone());
                *known = known.iter().cloned().chain(added).collect();
            }
        }
        for (key, frame) in &group.frames {
            self.frames.insert(*key, Arc::new(as_stored(frame)));
        }
        self.write_batches(group);
        for (name, record) in &group.nodes {
            match record {
                Some(record) => drop(self.nodes.insert(name.clone(), record.clone())),
                None => drop(self.nodes.remove(name)),
            }
        }
        for (job, lines) in &group.log {
            let log = self.log.entry(*job).or_default();
            log.extend(lines.iter().cloned());
            let last = log.last().map_or(0, |record| record.line);
            log.retain(|record| record.line + LOG_LINES_MAX > last);
        }
    }

    fn write_batches(&mut self, group: &Group) {
        self.batches.extend(group.started_batches.clone());
        for (batch, sequence) in &group.log_sequences {
            if let Some(record) = self.batches.get_mut(batch) {
                record.log_sequence = *sequence;
            }
        }
        self.batches.retain(|batch, _| !group.ended_batches.contains(batch));
    }

    fn frames_of(&self, job: JobId) -> impl Iterator<Item = &Arc<Frame>> {
        let first = Slice::whole(i32::MIN);
        self.frames
            .range((job, first)..)
            .take_while(move |((of, _), _)| *of == job)
            .map(|(_, it)| it)
    }

    fn without_project(&self, record: &JobRecord) -> JobRecord {
        JobRecord { spec: Arc::new(record.spec.without_project()), ..record.clone() }
    }

    fn progress(&self, job: JobId) -> JobProgressRecord {
        let (finished, others): (Vec<_>, Vec<_>) =
            self.frames_of(job).partition(|frame| frame.state == FrameState::Finished);
        let tried = others.iter().map(|it| (it.frame, it.state, it.attempts.clone()));
        let last = self.log.get(&job).and_then(|lines| lines.last());
        JobProgressRecord {
            finished: finished.iter().map(|frame| frame.frame).collect(),
            tried: tried.collect(),
            next_log_line: last.map_or(0, |record| record.line) + 1,
        }
    }

    fn restore(&self) -> RestoredState {
        let open = self.jobs.values().filter(|record| !record.status.state.is_final());
        RestoredState {
            open_jobs: open.map(|it| (it.clone(), self.progress(it.job))).collect(),
            batches: self.batches.iter().map(|(batch, it)| (*batch, it.clone())).collect(),
            nodes: self.nodes.iter().map(|(name, it)| (name.clone(), it.clone())).collect(),
            last_job: self.jobs.keys().next_back().map_or(0, |job| job.0),
            commits: self.commits,
        }
    }
}

/// A frame without the bytes of its preview, which no store keeps.
fn as_stored(frame: &Frame) -> Frame {
    let mut stored = frame.clone();
    stored.rendered = stored.rendered.filter(|_| frame.state == FrameState::Finished);
    if let Some(preview) = stored.rendered.as_mut().and_then(|it| it.preview.as_mut()) {
        preview.data = Bytes::new();
    }
    stored
}

impl Ledger for MemoryStore {
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>> {
        #[cfg(test)]
        {
            use std::sync::atomic::Ordering::SeqCst;
            if self.faults.is_full.load(SeqCst) {
                self.faults.refused.fetch_add(1, SeqCst);
                return std::future::ready(Err(StoreError::Full)).boxed();
            }
        }
        self.write(|tables| tables.commit(group))
    }

    fn check_room(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.faults.is_low.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Low { free_bytes: 1, reserve_bytes: 2 });
        }
        Ok(())
    }

    fn check_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(|_| ())
    }

    fn restore(&self) -> BoxFuture<'_, Result<RestoredState, StoreError>> {
        self.read(Tables::restore)
    }

    fn job_progress(&self, job: JobId) -> BoxFuture<'_, Result<JobProgressRecord, StoreError>> {
        self.read(|tables| tables.progress(job))
    }

    fn save_blob_uses<'a>(
        &'a self,
        uses: &'a [(Digest, i64)],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        #[cfg(test)]
        if self.faults.is_full.load(std::sync::atomic::Ordering::SeqCst) {
            return std::future::ready(Err(StoreError::Full)).boxed();
        }
        self.write(|tables| tables.blob_uses.extend(uses.iter().copied()))
    }

    fn forget_blob_uses<'a>(
        &'a self,
        blobs: &'a [Digest],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let blobs: BTreeSet<_> = blobs.iter().collect();
        self.write(|tables| tables.blob_uses.retain(|digest, _| !blobs.contains(digest)))
    }

    fn mark_blob_uses(&self, are_complete: bool) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(|tables| std::mem::replace(&mut tables.blob_uses_are_complete, are_complete))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

impl Archive for MemoryStore {
    fn find_request<'a>(
        &'a self,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<(JobId, Request)>, StoreError>> {
        self.read(|tables| tables.requests.get(request_id).cloned())
    }

    fn job(&self, job: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        self.read(|tables| tables.jobs.get(&job).cloned())
    }

    fn jobs_before(
        &self,
        before: JobId,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobRecord>, StoreError>> {
        self.read(|tables| {
            let below = tables.jobs.range(..before).rev().take(limit as usize);
            below.map(|(_, record)| tables.without_project(record)).collect()
        })
    }

    fn frames_after(
        &self,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        self.read(|tables| {
            let frames = tables.frames_of(job).filter(|frame| i64::from(frame.frame) > after);
            frames.take(limit as usize).map(|frame| (**frame).clone()).collect()
        })
    }

    fn frames_changed(
        &self,
        job: JobId,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        self.read(|tables| {
            let changed = tables.frames_of(job).filter(|frame| frame.revision > after);
            let mut changed: Vec<_> = changed.map(|frame| (**frame).clone()).collect();
            changed.sort_unstable_by_key(|frame| frame.revision);
            changed.truncate(limit as usize);
            changed
        })
    }

    fn snapshot(
        &self,
        job: JobId,
        troubled_max: u32,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.read(|tables| {
            let record = tables.jobs.get(&job)?;
            let troubled = tables.frames_of(job).filter(|frame| frame.attempts.total() > 0);
            let mut troubled: Vec<_> = troubled.map(|frame| (**frame).clone()).collect();
            troubled.sort_unstable_by_key(|frame| std::cmp::Reverse(frame.revision));
            troubled.truncate(troubled_max as usize);
            let states = tables.frames_of(job).map(|frame| (frame.frame, frame.state)).collect();
            Some(Snapshot { job: tables.without_project(record), states, troubled })
        })
    }

    fn log(
        &self,
        job: JobId,
        frame: Option<i32>,
        line: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LogRecord>, StoreError>> {
        self.read(|tables| {
            let lines = tables.log.get(&job).into_iter().flatten();
            let wanted = lines
                .filter(|record| record.line >= line && (frame.is_none() || record.frame == frame));
            wanted.take(limit as usize).cloned().collect()
        })
    }

    fn pins<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.read(|tables| {
            for record in tables.jobs.values() {
                let blobs = record.spec.project.files.iter().flat_map(|file| file.blobs());
                blobs.for_each(|(digest, _)| each(digest));
            }
            for rendered in tables.frames.values().filter_map(|frame| frame.rendered.as_ref()) {
                rendered.blobs().for_each(|(digest, _)| each(digest));
                rendered.preview.iter().for_each(|preview| each(preview.digest));
            }
        })
    }

    fn blob_uses<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest, i64) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.read(|tables| tables.blob_uses.iter().for_each(|(digest, at)| each(*digest, *at)))
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }
}
