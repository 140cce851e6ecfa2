//! One watcher of a job.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Feed, JobFeed, WatchError,
    job_snapshot::JobSnapshot,
    lock,
    sizes::{bytes_of, fitting},
};
use crate::{
    domain::{ActiveSlice, Frame, JobId, Requirements, Revision},
    store::{JobRecord, JobStatus, StoreError},
};

/// Frames in one message of changes.
const FRAMES_IN_MESSAGE: usize = 256;
/// Bytes of frames in one message of changes, about. A stalled watcher holds that much memory here.
const CHANGES_BYTES: usize = 64 << 10;
/// Bytes of frames with failed attempts in a snapshot, about: some hundred frames with their log tails.
const TROUBLED_BYTES: usize = 512 << 10;
/// Frames with failed attempts in a snapshot, as the protocol states.
const TROUBLED_MAX: u32 = 1_000;
/// How often a watch checks why its job waits: soon enough for a person, seldom enough for a thousand watchers.
const REASON_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// A message to a watcher of a job.
#[derive(Debug)]
pub(crate) enum Update {
    Snapshot { snapshot: Arc<JobSnapshot>, active: Vec<ActiveSlice> },
    Changes { status: JobStatus, frames: Vec<FrameChange>, active: Vec<ActiveSlice> },
    Ended(JobStatus),
}

/// A changed frame, and the bytes of its preview while the feed keeps them.
pub(crate) type FrameChange = (Arc<Frame>, Bytes);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Snapshot,
    /// The first message after a resume lists the active slices even if nothing durable changed.
    Resume,
    Follow,
    Over,
}

/// One watcher of a job.
#[derive(Debug)]
pub(crate) struct JobWatch {
    hub: Arc<Feed>,
    /// As it was when the watch began.
    record: JobRecord,
    requirements: Requirements,
    /// The reason for waiting that the watcher has seen.
    waiting_reason: String,
    /// `None` for a job that was over when the watch began, and has not been reopened since.
    feed: Option<Arc<JobFeed>>,
    changed: Option<watch::Receiver<()>>,
    /// The watcher has everything up to here.
    revision: Revision,
    active_version: u64,
    phase: Phase,
}

impl Feed {
    pub(crate) async fn watch(
        self: &Arc<Self>,
        job: JobId,
        after: Revision,
        store_id: &str,
    ) -> Result<JobWatch, WatchError> {
        if !store_id.is_empty() && *store_id != *self.identity.store_id {
            return Err(WatchError::OtherStore);
        }
        let (feed, record) = self.find(job).await?;
        let mut current = record.status.revision;
        if after > current {
            // A commit is readable a moment before it is published, so the caller may know a revision that is ahead.
            let stored = self.store.job_without_project(job).await?;
            current = stored.map_or(current, |record| record.status.revision);
        }
        if after > current {
            return Err(WatchError::FutureRevision { after, current });
        }
        let changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        Ok(JobWatch {
            hub: self.clone(),
            requirements: record.requirements(),
            record,
            waiting_reason: String::new(),
            feed,
            changed,
            revision: after,
            active_version: 0,
            phase: if after == 0 { Phase::Snapshot } else { Phase::Resume },
        })
    }
}

impl JobWatch {
    /// The job as it was when the watch began; its project may be left out.
    pub(crate) fn record(&self) -> &JobRecord {
        &self.record
    }

    /// Waits for the next update. Returns it with the revision that it leads to; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(Revision, Update)>, StoreError> {
        let next = match self.phase {
            Phase::Over => return Ok(None),
            Phase::Snapshot => self.snapshot().await,
            Phase::Resume | Phase::Follow => self.changes().await,
        };
        self.waiting_reason = self.waiting_reason();
        next.map(Some)
    }

    fn waiting_reason(&self) -> String {
        self.hub.waiting_reason(self.record.job, &self.requirements)
    }

    async fn snapshot(&mut self) -> Result<(Revision, Update), StoreError> {
        let snapshot = match &self.feed {
            Some(feed) => {
                let came_after = feed.reads.load(Ordering::Relaxed);
                let mut latest = feed.snapshot.lock().await;
                let current = lock(&feed.now).status.revision;
                match &*latest {
                    Some((read, known))
                        if *read > came_after || known.job.status.revision >= current =>
                    {
                        known.clone()
                    }
                    _ => {
                        let read = feed.reads.fetch_add(1, Ordering::Relaxed) + 1;
                        let fresh = self.read_snapshot().await?;
                        *latest = Some((read, fresh.clone()));
                        fresh
                    }
                }
            }
            None => self.read_snapshot().await?,
        };
        self.revision = snapshot.job.status.revision;
        // A commit is readable a moment before it is published. Slices that were active before it must not show after
        // it.
        self.published(self.revision).await?;
        let active = self.new_active();
        self.phase = Phase::Follow;
        Ok((self.revision, Update::Snapshot { snapshot, active }))
    }

    async fn read_snapshot(&self) -> Result<Arc<JobSnapshot>, StoreError> {
        let read = self.hub.store.snapshot(self.record.job, TROUBLED_MAX).await?;
        let mut snapshot = read.ok_or_else(missing)?;
        let fit = fitting(snapshot.troubled.iter().map(bytes_of), TROUBLED_BYTES);
        snapshot.troubled.truncate(fit);
        Ok(Arc::new(JobSnapshot::of(snapshot)))
    }

    async fn changes(&mut self) -> Result<(Revision, Update), StoreError> {
        if self.phase == Phase::Resume {
            self.published(self.revision).await?;
        }
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            let (status, frames) = self.frames().await?;
            let mut frames = self.with_previews(frames);
            let sizes = frames.iter().map(|(frame, data)| bytes_of(frame) + data.len());
            let fit = fitting(sizes.take(FRAMES_IN_MESSAGE), CHANGES_BYTES);
            let is_cut = frames.len() > fit;
            frames.truncate(fit);
            let revision = match frames.last() {
                Some((frame, _)) if is_cut => frame.revision,
                _ => status.revision.max(self.revision),
            };
            let active = self.new_active();
            let is_final = status.state.is_final();
            let has_new_reason = || !is_final && self.waiting_reason() != self.waiting_reason;
            if revision > self.revision
                || !active.is_empty()
                || self.phase == Phase::Resume
                || has_new_reason()
            {
                self.phase = Phase::Follow;
                self.revision = revision;
                return Ok((revision, Update::Changes { status, frames, active }));
            }
            if is_final {
                self.phase = Phase::Over;
                return Ok((self.revision, Update::Ended(status)));
            }
            // The reason for waiting may change without a change of the job, as nodes come and go.
            let _ = tokio::time::timeout(REASON_CHECKED_EVERY, self.wait()).await;
        }
    }

    /// The job's status and the frames that changed since, up to one more than fits a message.
    async fn frames(&mut self) -> Result<(JobStatus, Vec<Arc<Frame>>), StoreError> {
        let limit = FRAMES_IN_MESSAGE + 1;
        let mut over = None;
        if self.feed.is_none() {
            // The job was over, and is open again if its frames are retried.
            over = Some(self.find_feed().await?);
        }
        let status = match (&self.feed, over) {
            (Some(feed), _) => {
                let now = lock(&feed.now);
                if now.recent_above <= self.revision {
                    let from = now.recent.partition_point(|frame| frame.revision <= self.revision);
                    let frames = now.recent.range(from..).take(limit).cloned().collect();
                    return Ok((now.status.clone(), frames));
                }
                now.status.clone()
            }
            (None, Some(over)) => over,
            (None, None) => return Err(missing()),
        };
        let frames =
            self.hub.store.frames_changed(self.record.job, self.revision, limit as u32).await?;
        Ok((status, frames.into_iter().map(Arc::new).collect()))
    }

    fn with_previews(&self, frames: Vec<Arc<Frame>>) -> Vec<FrameChange> {
        let previews = lock(&self.hub.previews);
        let with_preview = |frame: Arc<Frame>| {
            let preview = frame.rendered.as_ref().and_then(|rendered| rendered.preview.as_ref());
            let data = preview.map(|preview| previews.find(preview.digest)).unwrap_or_default();
            (frame, data)
        };
        frames.into_iter().map(with_preview).collect()
    }

    fn new_active(&mut self) -> Vec<ActiveSlice> {
        let Some(feed) = &self.feed else { return Vec::new() };
        let now = lock(&feed.now);
        let seen = std::mem::replace(&mut self.active_version, now.active_version);
        if seen == now.active_version {
            return Vec::new();
        }
        now.active
            .values()
            .filter(|(version, _)| *version > seen)
            .map(|(_, active)| active.clone())
            .collect()
    }

    /// Switches to the feed that the job has now, and returns the job's status.
    async fn find_feed(&mut self) -> Result<JobStatus, StoreError> {
        let (feed, record) = self.hub.find(self.record.job).await.map_err(|error| match error {
            WatchError::Store(error) => error,
            _ => missing(),
        })?;
        self.changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        self.feed = feed;
        self.active_version = 0;
        Ok(record.status)
    }

    /// Waits until the driver has published at least `revision`.
    async fn published(&mut self, revision: Revision) -> Result<(), StoreError> {
        while let Some(feed) = &self.feed {
            let (published, is_final) = {
                let status = &lock(&feed.now).status;
                (status.revision, status.state.is_final())
            };
            if published >= revision {
                break;
            }
            if is_final {
                // This feed has ended: the job was reopened and has another.
                self.find_feed().await?;
            } else {
                self.wait().await;
            }
        }
        Ok(())
    }

    async fn wait(&mut self) {
        if let Some(changed) = &mut self.changed {
            // `feed` holds the sender, so this cannot fail.
            let _ = changed.changed().await;
        }
    }
}

fn missing() -> StoreError {
    StoreError::Unreadable { what: "a job", detail: "it is missing".to_owned() }
}
