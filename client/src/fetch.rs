//! Brings a job's outputs into a folder: as they finish, several at a time, each under its name only when whole.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use framecrew_blobs::{BlobClient, Digest, ProjectPath, TransferError};
use framecrew_proto::v1::{Frame, FrameState, Job, Output, watch_job_response::Update};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::{
    cluster::Cluster,
    error::{Error, Missing, retry_after},
    frames::FrameSet,
    watch::{self, WatchEvent},
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
/// What a folder must be able to take before a job is submitted: enough to notice a disk that is full.
const PROBE_BYTES: usize = 256 * 1024;

/// How far a fetch is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Files brought.
    pub fetched: u64,
    /// Files that were there already, with the right content.
    pub kept: u64,
    /// Files brought in the place of others of the same name, which are gone.
    pub replaced: u64,
    /// Bytes brought.
    pub bytes: u64,
}

/// A movie that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedMovie {
    /// Its size.
    pub size_bytes: u64,
    /// Whether it took the place of another file, which is gone.
    pub replaced: bool,
}

/// A folder that has been found fit to take outputs.
#[derive(Debug, Clone)]
pub struct OutputFolder {
    path: PathBuf,
    /// Folders that were made for it, it included, the innermost first.
    made: Vec<PathBuf>,
}

impl OutputFolder {
    /// Makes the folder where it is missing, and writes a file into it to prove that it can be written to.
    /// Blocks for a moment.
    ///
    /// # Errors
    /// [`Error::OutputFolder`] when it cannot.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = path.ancestors().take_while(is_missing).map(Path::to_owned).collect();
        let probe = || -> io::Result<()> {
            fs::create_dir_all(path)?;
            let mut file =
                tempfile::Builder::new().prefix(".framecrew-probe-").tempfile_in(path)?;
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.as_file().sync_all()
        };
        let probed = probe();
        let opened = Self { path: path.into(), made };
        match probed {
            Ok(()) => Ok(opened),
            Err(source) => {
                opened.abandon();
                Err(Error::OutputFolder { path: path.into(), source: plain(source) })
            }
        }
    }

    /// Takes away what was made to open it, as far as it is empty: for when nothing will come.
    pub fn abandon(self) {
        for folder in &self.made {
            // A folder that will not go does no harm.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where an output goes; the folders of its name are made on the way. The name comes from elsewhere: neither
    /// it nor a link that lies in the folder may lead out of it.
    async fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let (root, name) = (self.path.clone(), name.to_owned());
        match tokio::task::spawn_blocking(move || place(&root, &name)).await {
            Ok(place) => place,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn place(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let refused = |why: &str| Error::Failed {
        message: format!("the orchestrator names an output {name:?}, {why}; it was not fetched"),
    };
    let is_hidden = |part: &str| part.starts_with('.');
    let path = name.parse::<ProjectPath>().ok().filter(|_| !name.split('/').any(is_hidden));
    let path = path.ok_or_else(|| refused("which is not a file name"))?;
    let unusable = |source| Error::OutputFolder { path: root.into(), source };
    let to = path.under(root);
    if to.is_dir() {
        return Err(refused("but there is a folder of that name"));
    }
    let Some((folders, _)) = name.rsplit_once('/') else { return Ok(to) };
    let real_root = root.canonicalize().map_err(unusable)?;
    let mut folder = root.to_owned();
    for part in folders.split('/') {
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(error));
            }
            _ => {}
        }
        // Before anything is made below it: where a link leads is only known now.
        match folder.canonicalize() {
            Ok(real) if !real.is_dir() => {
                return Err(refused("but there is a file where its folder would be"));
            }
            Ok(real) if real.starts_with(&real_root) => {}
            Ok(_) => return Err(refused("but a link leads from there to another folder")),
            Err(error) => return Err(refused(&format!("but its folder cannot be used ({error})"))),
        }
    }
    Ok(to)
}

/// `tempfile` names the probe in its message, which means nothing to anybody.
fn plain(error: io::Error) -> io::Error {
    match (error.raw_os_error(), error.kind()) {
        (None, kind) if kind != io::ErrorKind::Other => io::Error::from(kind),
        _ => error,
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
    let mut downloads = Downloads::new(cluster, folder, ATTEMPTS_MAX, on_progress);
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
    let mut downloads = Downloads::new(cluster, folder, u32::MAX, on_progress);
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

/// Brings the movie that a job has made to the file `to`, which is there only when it is whole. `on_bytes` is told
/// how many bytes of how many are there.
///
/// # Errors
/// When the job has made none (yet), the file cannot be written, or the orchestrator stays away.
pub async fn fetch_movie(
    cluster: &Cluster,
    job_id: u64,
    to: &Path,
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
    let brought = bring(cluster.url(), cluster.blobs(), &output, to, ATTEMPTS_MAX, on_bytes).await;
    let movie = brought.map(|fetched| FetchedMovie {
        size_bytes: total_bytes,
        replaced: matches!(fetched, Fetched::Brought { replaced: true, .. }),
    });
    movie.map_err(|error| match error {
        Error::Transfer(TransferError::File { source, .. }) => Error::Failed {
            message: format!(
                "cannot write the movie {}: {source}; free some space or name another file with --movie",
                to.display()
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
    url: String,
    blobs: BlobClient,
    folder: OutputFolder,
    /// At one call, while the orchestrator is away.
    attempts_max: u32,
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
    fn new(cluster: &Cluster, folder: &OutputFolder, attempts_max: u32, on_progress: P) -> Self {
        Self {
            url: cluster.url().into(),
            blobs: cluster.blobs().clone(),
            folder: folder.clone(),
            attempts_max,
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
                Some(error) if error.is_transient() && attempt < self.attempts_max => {
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
            let (url, blobs) = (self.url.clone(), self.blobs.clone());
            let attempts_max = self.attempts_max;
            self.tasks.spawn(async move {
                let fetched = match folder.place(&output.name).await {
                    Ok(place) => bring(&url, &blobs, &output, &place, attempts_max, |_| {}).await,
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
        });
        Err(Error::Incomplete {
            folder: self.folder.path,
            missing: missing.collect(),
            more: self.more_missing,
            progress: self.progress,
        })
    }

    /// What to do about a full disk is said for the folder, not for each file in it.
    fn blame_folder(&self, error: Error) -> Error {
        match error {
            Error::Transfer(TransferError::File { source, .. }) => {
                Error::OutputFolder { path: self.folder.path.clone(), source }
            }
            error => error,
        }
    }
}

async fn bring(
    url: &str,
    blobs: &BlobClient,
    output: &Output,
    to: &Path,
    attempts_max: u32,
    mut on_bytes: impl FnMut(u64) + Send,
) -> Result<Fetched, Error> {
    let digest: Digest = output.digest.parse().map_err(|error| Error::Failed {
        message: format!("the orchestrator names no content for {}: {error}", output.name),
    })?;
    let mut attempt = 0;
    loop {
        if is_there(to, digest, output.size_bytes).await {
            return Ok(Fetched::Kept);
        }
        let replaced = tokio::fs::symlink_metadata(to).await.is_ok();
        match blobs.download_file(digest, output.size_bytes, to, &mut on_bytes).await {
            Ok(()) => {
                return Ok(Fetched::Brought { bytes: output.size_bytes, replaced });
            }
            Err(error) if error.is_transient() && attempt < attempts_max => {
                attempt += 1;
                tokio::time::sleep(pause(attempt, error.status().and_then(retry_after))).await;
            }
            Err(error) => return Err(Error::from_transfer(url, error)),
        }
    }
}

/// Pause before another attempt.
fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    watch::pause(attempt, retry_after).max(PAUSE_MIN)
}

async fn is_there(path: &Path, digest: Digest, size_bytes: u64) -> bool {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.is_file() && metadata.len() == size_bytes => {}
        _ => return false,
    }
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || Digest::of_file(&path)).await;
    matches!(hashed, Ok(Ok((found, _))) if found == digest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_is_made_and_left_empty_by_the_probe() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        OutputFolder::open(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_abandoned_leaves_what_was_there_before_and_what_came_since() {
        let base = tempfile::tempdir().unwrap();
        OutputFolder::open(base.path()).unwrap().abandon();
        OutputFolder::open(&base.path().join("a/b")).unwrap().abandon();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        let used = OutputFolder::open(&base.path().join("c")).unwrap();
        fs::write(used.path().join("0001.png"), b"frame").unwrap();
        used.abandon();
        assert!(base.path().join("c/0001.png").exists());
    }

    #[test]
    fn a_folder_below_a_file_is_refused_with_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("frames");
        let text = OutputFolder::open(&path).unwrap_err().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("-o DIR") && !text.contains("probe"), "{text}");
    }

    #[test]
    fn no_output_name_leads_out_of_the_folder() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(place(base.path(), "0001.png").unwrap(), base.path().join("0001.png"));
        for name in [
            "",
            ".",
            "..",
            "../a",
            "/etc/a",
            "a/../../b",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            ".hidden",
            ".git/config",
            "a/.b",
            "a\0b",
        ] {
            assert!(place(base.path(), name).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "nothing is made");
    }

    #[test]
    fn an_output_in_a_folder_gets_that_folder() {
        let base = tempfile::tempdir().unwrap();
        let to = place(base.path(), "masks/near/0042.png").unwrap();
        fs::write(&to, b"mask").unwrap();
        assert_eq!(to, base.path().join("masks/near/0042.png"));
        assert!(place(base.path(), "masks/near/0043.png").is_ok());
        for (name, what) in [("masks/near/0042.png/a.png", "file"), ("masks", "folder")] {
            let text = place(base.path(), name).unwrap_err().to_string();
            assert!(text.contains(&format!("there is a {what}")), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn no_link_in_the_folder_leads_an_output_out_of_it() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().unwrap();
        let (inside, outside) = (base.path().join("in"), base.path().join("out"));
        fs::create_dir_all(inside.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("away")).unwrap();
        symlink("../../out", inside.join("real/up")).unwrap();
        symlink(inside.join("real"), inside.join("near")).unwrap();
        for name in ["away/a.png", "away/new/a.png", "real/up/a.png", "near/up/a.png"] {
            let text = place(&inside, name).unwrap_err().to_string();
            assert!(text.contains("a link leads"), "{name}: {text}");
        }
        assert!(place(&inside, "near/a.png").is_ok());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made there");
    }

    #[tokio::test]
    async fn only_a_file_with_the_right_content_counts_as_there() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("0001.png");
        let digest = Digest::of(b"frame");
        assert!(!is_there(&path, digest, 5).await);
        fs::write(&path, b"fr4me").unwrap();
        assert!(!is_there(&path, digest, 5).await);
        fs::write(&path, b"frame").unwrap();
        assert!(is_there(&path, digest, 5).await);
    }
}
