//! Follows a job: shows it, fetches its frames meanwhile and its movie afterwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use framecrew::{
    Cluster, Error, FetchProgress, JobView, Live, OutputFile, OutputFolder, WatchEvent,
    fetch::{self, FetchedMovie},
    proto::JobState,
    view, words,
};
use framecrew_net::signals::Signal;
use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Exit, Failure, Interrupts, Left, ProgressLine, again, display::Display, note, note_replaced,
    of_known_job, quoted, say,
};

/// Time between two drawings of the panel: fast enough to look alive, cheap enough for any terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Time between two looks at how the nodes stand.
const NODES_EVERY: Duration = Duration::from_secs(5);

/// Shows a job until it is over, and brings its frames meanwhile and its movie then.
#[derive(Clone, Copy)]
pub(crate) struct Follow<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) job_id: u64,
    /// Where frames go; without it none are fetched.
    pub(crate) folder: Option<&'a OutputFolder>,
    /// Where the movie of the frames goes, which a job of its own makes; without it none is waited for.
    pub(crate) movie: Option<&'a OutputFile>,
    /// Whether the job goes on when this command ends.
    pub(crate) outlives: bool,
    /// Messages as JSON instead of text for people.
    pub(crate) json: bool,
}

/// How following a job ended.
pub(crate) enum Ending {
    /// The job (or the one that makes its movie) is over, and everything it made is fetched.
    Over(Box<JobView>),
    /// From outside; the job goes on, unless it is over and only its frames were still coming.
    Interrupted(Left),
}

impl Follow<'_> {
    /// Follows the job, and where a movie is wanted the one that makes it, until it is over or the person has
    /// seen enough. Where something is fetched, a reader that has seen enough, like `head`, does not end it.
    pub(crate) async fn run(&self, interrupts: &mut Interrupts) -> Result<Ending, Failure> {
        let view = match self.follow(interrupts).await? {
            Ending::Over(view) => view,
            interrupted => return Ok(interrupted),
        };
        let Some(file) = self.movie else { return Ok(Ending::Over(view)) };
        if view.state() != JobState::Finished {
            note("no movie is made, as not all of its frames are there");
            return Ok(Ending::Over(view));
        }
        // It is there by the very change that finished this one.
        let job_id = view.job().movie_job_id;
        if job_id == 0 {
            return Err(Failure {
                exit: Exit::JobFailed,
                text: format!(
                    "the orchestrator at {} makes no movies; its version may be older than this command's",
                    self.cluster.url()
                ),
            });
        }
        let making = Follow { job_id, folder: None, ..*self };
        let view = match making.follow(interrupts).await? {
            Ending::Over(view) => view,
            interrupted => return Ok(interrupted),
        };
        if view.state() == JobState::Finished {
            tokio::select! {
                brought = making.bring_movie(file) => brought?,
                by = interrupts.next() => return Ok(Ending::Interrupted(making.left(by, &view))),
            }
        }
        Ok(Ending::Over(view))
    }

    async fn follow(&self, interrupts: &mut Interrupts) -> Result<Ending, Failure> {
        let (on_fetched, fetched) = watch::channel(FetchProgress::default());
        let ending = self.show(interrupts, on_fetched, fetched.clone()).await;
        // However it ended, and of the last file too, which may have come in the very moment.
        note_replaced(fetched.borrow().replaced);
        ending
    }

    async fn show(
        &self,
        interrupts: &mut Interrupts,
        on_fetched: watch::Sender<FetchProgress>,
        mut fetched: watch::Receiver<FetchProgress>,
    ) -> Result<Ending, Failure> {
        let display = Display::new(self.json, self.folder.is_some() || self.movie.is_some());
        let mut shown = Shown { live: Live::default(), display, began: Instant::now() };
        let mut watch = self.cluster.watch(self.job_id);
        let mut fetching = std::pin::pin!(self.fetch_frames(on_fetched));
        let nodes = stream::repeat(()).then(|()| async {
            tokio::time::sleep(NODES_EVERY).await;
            self.cluster.nodes().await
        });
        let mut nodes = std::pin::pin!(nodes);
        let mut ticks = tokio::time::interval(REDRAW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut job_over, mut all_fetched) = (false, false);
        let mut incomplete = None;
        while !(job_over && all_fetched) {
            tokio::select! {
                event = watch.next(), if !job_over => match event {
                    None => job_over = true,
                    Some(event) => shown.take(event.map_err(of_known_job)?)?,
                },
                result = &mut fetching, if !all_fetched => {
                    match result {
                        Ok(()) => {}
                        // Everything that can be fetched is there.
                        Err(error @ Error::Incomplete { .. }) => incomplete = Some(error),
                        Err(error) => return Err(self.not_fetched(error, shown.live.view())),
                    }
                    all_fetched = true;
                }
                Ok(()) = fetched.changed() => shown.live.fetched(*fetched.borrow_and_update()),
                // A failed call is repeated at the next turn.
                Some(Ok(nodes)) = nodes.next(), if shown.display.has_lanes() => {
                    shown.live.nodes(shown.began.elapsed(), unix_ms(), &nodes);
                }
                _ = ticks.tick() => shown.display.redraw(&shown.live, shown.began.elapsed())?,
                by = interrupts.next() => {
                    let Shown { live, display, .. } = shown;
                    display.close(&live, None)?;
                    return Ok(Ending::Interrupted(self.left(by, live.view())));
                }
            }
        }
        let Shown { live, display, .. } = shown;
        let place = self.folder.filter(|_| live.view().counts().finished > 0);
        display.close(&live, place.filter(|_| incomplete.is_none()))?;
        if self.outlives && live.view().state() == JobState::Failed {
            self.note_failed(live.view());
        }
        match incomplete {
            Some(error) => Err(error.into()),
            None => Ok(Ending::Over(Box::new(live.view().clone()))),
        }
    }

    /// Fetches the frames as they finish, until the job is over.
    async fn fetch_frames(&self, on_fetched: watch::Sender<FetchProgress>) -> Result<(), Error> {
        let Some(folder) = self.folder else { return Ok(()) };
        let progress = |progress| {
            on_fetched.send_replace(progress);
        };
        fetch::follow(self.cluster, self.job_id, folder, progress).await.map(drop)
    }

    fn not_fetched(&self, error: Error, view: &JobView) -> Failure {
        let fetch = again(self.cluster, &format!("fetch {} -o DIR", self.job_id));
        let is = if is_over(view) { "is over" } else { "renders on" };
        self.unfetched(error, format!("{is}: get its frames with `{fetch}`"))
    }

    /// Says how to learn more of a failed job, and how to render it again where that may help.
    fn note_failed(&self, view: &JobView) {
        let id = self.job_id;
        let job = again(self.cluster, &format!("job {id}"));
        let retry = again(self.cluster, &format!("retry {id}"));
        match view::may_be_retried(view) {
            true => note(format_args!(
                "`{job}` tells more of what failed, `{retry}` renders it once more"
            )),
            false => note(format_args!("`{job}` tells more of what failed")),
        }
    }

    /// Brings what this job has made, which is a movie.
    async fn bring_movie(&self, file: &OutputFile) -> Result<(), Failure> {
        let mut line = ProgressLine::default();
        let on_bytes = |done, total| line.show("fetching the movie", done, total);
        let brought = fetch::fetch_movie(self.cluster, self.job_id, file, on_bytes).await;
        line.clear();
        let FetchedMovie { size_bytes, replaced } = brought.map_err(|error| {
            let fetch = again(self.cluster, &format!("fetch {} --movie FILE", self.job_id));
            self.unfetched(error, format!("is finished: get the movie with `{fetch}`"))
        })?;
        note_replaced(replaced.into());
        if self.json {
            return Ok(());
        }
        let path = file.path().display();
        match say(format_args!("the movie is {path} ({})", words::bytes(size_bytes))) {
            Err(failure) if !failure.is_unread() => Err(failure),
            _ => Ok(()),
        }
    }

    fn left(&self, by: Signal, view: &JobView) -> Left {
        let id = self.job_id;
        let fetch =
            |what: String| format!("`{}`", again(self.cluster, &format!("fetch {id} {what}")));
        let frames = self.folder.map(|folder| fetch(format!("-o {}", quoted(folder.path()))));
        let movie = self.movie.map(|file| fetch(format!("--movie {}", quoted(file.path()))));
        let rest = match (frames, movie) {
            (Some(frames), Some(movie)) => {
                Some(format!("get the rest with {frames}, and its movie with {movie}"))
            }
            (Some(frames), None) => Some(format!("get the rest with {frames}")),
            (None, Some(movie)) => Some(format!("get the movie with {movie}")),
            (None, None) => None,
        };
        let known = Some(view.job()).filter(|job| job.job_id > 0).cloned().map(Box::new);
        Left { job_id: id, known, by, is_over: is_over(view), rest }
    }

    /// The job does not suffer from what is wrong here, if it is still there; `how` says how it stands and what to do.
    fn unfetched(&self, error: Error, how: String) -> Failure {
        let error = of_known_job(error);
        let is_there = !matches!(error, Error::JobLost { .. });
        let mut failure = Failure::from(error);
        if self.outlives && is_there {
            failure.text += &format!("\njob {} {how}", self.job_id);
        }
        failure
    }
}

/// The job as it is known, and its display.
struct Shown {
    live: Live,
    display: Display,
    began: Instant,
}

impl Shown {
    /// Takes in an event of the watch, and shows it.
    fn take(&mut self, event: WatchEvent) -> Result<(), Failure> {
        let now = self.began.elapsed();
        match event {
            WatchEvent::Update(update) => {
                self.live.apply(now, unix_ms(), &update);
                self.display.update(&self.live, now, &update)
            }
            WatchEvent::StartingOver { reason } => {
                self.display.starting_over(&reason)?;
                self.live.disconnected(now, reason);
                Ok(())
            }
            WatchEvent::Reconnecting { reason, attempt, .. } => {
                self.live.disconnected(now, reason);
                self.display.disconnected(&self.live, attempt)
            }
        }
    }
}

/// Whether nothing about the job changes any more.
fn is_over(view: &JobView) -> bool {
    matches!(view.state(), JobState::Finished | JobState::Failed | JobState::Cancelled)
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
