//! Brings a job's outputs into a folder: as they finish, several at a time, each under its name only when whole.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

use framecrew_blobs::{BlobClient, Digest, Download, TransferError};
use framecrew_model::FrameSet;
use framecrew_proto::v1::{Frame, FrameState, Job, Output, watch_job_response::Update};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::{
    cluster::{BACKOFF, Cluster},
    error::{Error, Missing, retry_after},
    folder::{OutputFile, OutputFolder},
    progress::FetchProgress,
    watch::WatchEvent,
    written::Standing,
};

/// Downloads at a time: enough to hide the latency of small frames, few enough to leave the link to others.
const DOWNLOADS_MAX: usize = 4;
/// Attempts at one call while the orchestrator is away: minutes with the pauses between, beyond those that
/// each download makes itself. What follows a job waits as long as it takes.
const ATTEMPTS_MAX: u32 = 100;
/// Shortest pause between two of them.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Outputs that did not come which are told of one by one; further ones are only counted. As many as anyone
/// will look into, and few enough to hold.
const MISSING_TOLD_MAX: usize = 100;

/// A movie that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedMovie {
    /// Its size.
    pub size_bytes: u64,
    /// Whether it took the place of another file, which is gone.
    pub replaced: bool,
}

impl Cluster {
    /// Downloads everything that the job has finished so far into the folder `to`. A file that is already there
    /// with the right content is not fetched again. A file of the same name with other content is replaced if
    /// Framecrew wrote it. A file that a person made or changed stays, and [`Error::Incomplete`] names it (see
    /// [`OutputFolder::overwriting`]).
    ///
    /// # Errors
    /// When the folder cannot be written to, there is no such job, or the connection stays broken.
    pub async fn fetch(&self, job_id: u64, to: impl AsRef<Path>) -> Result<FetchProgress, Error> {
        let folder = OutputFolder::open(to.as_ref())?;
        fetch(self, job_id, &folder, None, |_| {}).await
    }
}

/// Brings what the job has finished so far; of `frames` only, if given. `on_progress` is told after each file.
///
/// # Errors
/// When the folder cannot take it, there is no such job, or the orchestrator stays away.
/// [`Error::Incomplete`] when single outputs do not come, as damaged ones: then all the others are there.
pub async fn fetch(
    cluster: &Cluster,
    job_id: u64,
    folder: &OutputFolder,
    frames: Option<&FrameSet>,
    on_progress: impl FnMut(FetchProgress) + Send,
) -> Result<FetchProgress, Error> {
    let mut downloads =
        Downloads::new(Source::new(cluster, job_id, ATTEMPTS_MAX), folder, on_progress);
    downloads.add_finished(cluster, job_id, None, frames).await?;
    downloads.finish().await
}

/// Brings each frame of the job as it finishes, until the job is over. `on_progress` is told after each file.
///
/// # Errors
/// As [`fetch`], and [`Error::JobLost`] when another job bears the number by then, of which nothing is brought.
pub async fn follow(
    cluster: &Cluster,
    job_id: u64,
    folder: &OutputFolder,
    on_progress: impl FnMut(FetchProgress) + Send,
) -> Result<FetchProgress, Error> {
    let mut downloads = Downloads::new(Source::new(cluster, job_id, u32::MAX), folder, on_progress);
    let mut watch = cluster.watch(job_id);
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            Some(result) = downloads.tasks.join_next() => {
                downloads.settle(result)?;
                continue;
            }
        };
        let Some(event) = event else { break };
        let WatchEvent::Update(update) = event? else {
            continue;
        };
        match update.update {
            // A snapshot tells of finished frames only that they are.
            Some(Update::Snapshot(snapshot)) => {
                downloads.add_finished(cluster, job_id, snapshot.job.as_ref(), None).await?;
            }
            Some(Update::Changes(changes)) => {
                for frame in changes.frames {
                    downloads.add_frame(frame).await?;
                }
            }
            Some(Update::Ended(_)) | None => {}
        }
    }
    downloads.finish().await
}

/// Downloads the movie that a job has made to the file `to`. The file appears only when it is complete. `on_bytes`
/// receives the bytes downloaded so far and the total.
///
/// # Errors
/// When the job has made no movie (yet), the file cannot be written, or the orchestrator stays unreachable.
/// [`Error::InTheWay`] if an existing file must not be replaced.
pub async fn fetch_movie(
    cluster: &Cluster,
    job_id: u64,
    to: &OutputFile,
    mut on_bytes: impl FnMut(u64, u64) + Send,
) -> Result<FetchedMovie, Error> {
    let mut attempt = 0;
    let output = loop {
        match first_output(cluster, job_id).await {
            Ok(output) => break output,
            Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                attempt += 1;
                tokio::time::sleep(pause(attempt, error.retry_after())).await;
            }
            Err(error) => return Err(error),
        }
    };
    let output = output.ok_or_else(|| Error::NotFound {
        message: format!("job {job_id} has made no movie yet; `framecrew job {job_id}` tells why"),
    })?;
    let total_bytes = output.size_bytes;
    let on_bytes = |done_bytes| on_bytes(done_bytes, total_bytes);
    let source = Source::new(cluster, job_id, ATTEMPTS_MAX);
    let brought = source.bring(&output, to, on_bytes).await;
    let movie = brought.map(|fetched| FetchedMovie {
        size_bytes: total_bytes,
        replaced: matches!(fetched, Fetched::Brought { replaced: true, .. }),
    });
    movie.map_err(|error| match error {
        Error::Transfer(TransferError::File { source, .. }) => Error::Failed {
            message: format!(
                "cannot write the movie {}: {source}; free some space or name another file with --movie",
                to.path().display()
            ),
        },
        error => error,
    })
}

/// The first output of the lowest finished frame.
async fn first_output(cluster: &Cluster, job_id: u64) -> Result<Option<Output>, Error> {
    let mut pages = std::pin::pin!(cluster.frames(job_id));
    while let Some(page) = pages.next().await {
        let finished = page?.into_iter().filter(|frame| frame.state() == FrameState::Finished);
        if let Some(output) = finished.flat_map(|frame| frame.outputs).next() {
            return Ok(Some(output));
        }
    }
    Ok(None)
}

/// Downloads under way.
struct Downloads<P> {
    source: Source,
    folder: OutputFolder,
    tasks: JoinSet<(OutputOf, Result<Fetched, Error>)>,
    /// Those that the tasks bring. A listing and the stream after it tell of the same frames.
    under_way: HashSet<OutputOf>,
    progress: FetchProgress,
    missing: BTreeMap<OutputOf, Error>,
    /// Missing beyond those.
    more_missing: u64,
    on_progress: P,
}

enum Fetched {
    Brought { bytes: u64, replaced: bool },
    Kept,
}

/// The frame, and the output's name.
type OutputOf = (i32, String);

impl<P: FnMut(FetchProgress) + Send> Downloads<P> {
    fn new(source: Source, folder: &OutputFolder, on_progress: P) -> Self {
        Self {
            source,
            folder: folder.clone(),
            tasks: JoinSet::new(),
            under_way: HashSet::new(),
            progress: FetchProgress::default(),
            missing: BTreeMap::new(),
            more_missing: 0,
            on_progress,
        }
    }

    /// Adds what the job has finished so far, as long as it is the one that is `known`. Begins again when the link
    /// breaks: what is there is kept.
    async fn add_finished(
        &mut self,
        cluster: &Cluster,
        job_id: u64,
        known: Option<&Job>,
        wanted: Option<&FrameSet>,
    ) -> Result<(), Error> {
        let is_wanted = |frame: &Frame| wanted.is_none_or(|set| set.contains(frame.frame));
        let mut attempt = 0;
        loop {
            let mut broken = None;
            let mut pages = std::pin::pin!(cluster.frames(job_id));
            while let Some(page) = pages.next().await {
                // A page does not say whose frames it has, and the one before may be hours of downloads ago.
                let page = match (page, known) {
                    (Ok(frames), Some(known)) => cluster.job_again(known).await.map(|_| frames),
                    (page, _) => page,
                };
                match page {
                    Ok(frames) => {
                        for frame in frames.into_iter().filter(is_wanted) {
                            self.add_frame(frame).await?;
                        }
                    }
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            match broken {
                None => return Ok(()),
                Some(error) if error.is_transient() && attempt < self.source.attempts_max => {
                    attempt += 1;
                    tokio::time::sleep(pause(attempt, error.retry_after())).await;
                }
                Some(error) => return Err(error),
            }
        }
    }

    async fn add_frame(&mut self, frame: Frame) -> Result<(), Error> {
        if frame.state() != FrameState::Finished {
            return Ok(());
        }
        for output in frame.outputs {
            if !self.under_way.insert((frame.frame, output.name.clone())) {
                continue;
            }
            while self.tasks.len() >= DOWNLOADS_MAX {
                if let Some(result) = self.tasks.join_next().await {
                    self.settle(result)?;
                }
            }
            let folder = self.folder.clone();
            let source = self.source.clone();
            self.tasks.spawn(async move {
                let fetched = match folder.place(&output.name).await {
                    Ok(place) => source.bring(&output, &place, |_| {}).await,
                    Err(error) => Err(error),
                };
                ((frame.frame, output.name), fetched)
            });
        }
        Ok(())
    }

    /// Takes in what became of one output. Only what the next output would meet as well is an error.
    fn settle(
        &mut self,
        result: Result<(OutputOf, Result<Fetched, Error>), tokio::task::JoinError>,
    ) -> Result<(), Error> {
        let (output, fetched) = match result {
            Ok((output, fetched)) => {
                self.under_way.remove(&output);
                (output, fetched.map_err(|error| self.blame_folder(error)))
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match fetched {
            Ok(Fetched::Brought { bytes, replaced }) => {
                self.progress.fetched += 1;
                self.progress.replaced += u64::from(replaced);
                self.progress.bytes += bytes;
            }
            Ok(Fetched::Kept) => self.progress.kept += 1,
            Err(
                error @ (Error::OutputFolder { .. }
                | Error::Unreachable { .. }
                | Error::NotAllowed { .. }),
            ) => return Err(error),
            Err(error) => {
                self.miss(output, error);
                return Ok(());
            }
        }
        self.missing.remove(&output);
        (self.on_progress)(self.progress);
        Ok(())
    }

    fn miss(&mut self, output: OutputOf, error: Error) {
        if self.missing.len() < MISSING_TOLD_MAX || self.missing.contains_key(&output) {
            self.missing.insert(output, error);
        } else {
            self.more_missing += 1;
        }
    }

    async fn finish(mut self) -> Result<FetchProgress, Error> {
        while let Some(result) = self.tasks.join_next().await {
            self.settle(result)?;
        }
        if self.missing.is_empty() {
            return Ok(self.progress);
        }
        let missing = self.missing.into_iter().map(|((frame, name), error)| Missing {
            frame,
            name,
            reason: error.to_string(),
            in_the_way: matches!(error, Error::InTheWay { .. }),
        });
        Err(Error::Incomplete {
            folder: self.folder.path().into(),
            missing: missing.collect(),
            more: self.more_missing,
            progress: self.progress,
        })
    }

    /// What to do about a full disk is said for the folder, not for each file in it.
    fn blame_folder(&self, error: Error) -> Error {
        match error {
            Error::Transfer(TransferError::File { source, .. }) => {
                Error::OutputFolder { path: self.folder.path().into(), source }
            }
            error => error,
        }
    }
}

/// The source of outputs.
#[derive(Debug, Clone)]
struct Source {
    url: String,
    blobs: BlobClient,
    /// The job, named in the marks of written files.
    job: String,
    /// Attempts for one call while the orchestrator is unreachable.
    attempts_max: u32,
}

impl Source {
    fn new(cluster: &Cluster, job_id: u64, attempts_max: u32) -> Self {
        let url = cluster.url().to_owned();
        let job = format!("job {job_id} at {url}");
        Self { url, blobs: cluster.blobs().clone(), job, attempts_max }
    }

    async fn bring(
        &self,
        output: &Output,
        to: &OutputFile,
        mut on_bytes: impl FnMut(u64) + Send,
    ) -> Result<Fetched, Error> {
        let digest: Digest = output.digest.parse().map_err(|error| Error::Failed {
            message: format!("the orchestrator names no content for {}: {error}", output.name),
        })?;
        let mut attempt = 0;
        loop {
            if self.make_way(digest, to).await? == Standing::Same {
                return Ok(Fetched::Kept);
            }
            let size_bytes = output.size_bytes;
            match self.blobs.download(digest, size_bytes, to.path(), &mut on_bytes).await {
                Ok(download) => return self.publish(download, digest, size_bytes, to).await,
                Err(error) if error.is_transient() && attempt < self.attempts_max => {
                    attempt += 1;
                    tokio::time::sleep(pause(attempt, error.status().and_then(retry_after))).await;
                }
                Err(error) => return Err(Error::from_transfer(&self.url, error)),
            }
        }
    }

    /// Determines what is there now. If it is the output itself, it also gets its mark if it has none.
    async fn make_way(&self, digest: Digest, to: &OutputFile) -> Result<Standing, Error> {
        let (file, job) = (to.clone(), self.job.clone());
        blocking(move || {
            let standing = file.make_way(digest)?;
            if standing == Standing::Same {
                file.mark_kept(digest, &job);
            }
            Ok(standing)
        })
        .await
    }

    /// Gives a download its name, unless a person has saved a file there meanwhile.
    async fn publish(
        &self,
        download: Download,
        digest: Digest,
        size_bytes: u64,
        to: &OutputFile,
    ) -> Result<Fetched, Error> {
        let standing = match self.make_way(digest, to).await {
            Ok(Standing::Same) => {
                download.discard().await;
                return Ok(Fetched::Kept);
            }
            Ok(standing) => standing,
            Err(error) => {
                download.discard().await;
                return Err(error);
            }
        };
        let (file, part, job) = (to.clone(), download.path().to_owned(), self.job.clone());
        let to_note = blocking(move || file.mark(&part, digest, &job)).await;
        let published = download.publish().await;
        published.map_err(|error| Error::from_transfer(&self.url, error))?;
        if let Some(mark) = to_note {
            let file = to.clone();
            blocking(move || file.note(mark)).await;
        }
        Ok(Fetched::Brought { bytes: size_bytes, replaced: standing != Standing::Absent })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The pause before another attempt.
fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    BACKOFF.pause_or(attempt, retry_after).max(PAUSE_MIN)
}
