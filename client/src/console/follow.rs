use std::time::{Duration, SystemTime, UNIX_EPOCH};

use framecrew::{
    Cluster, Error, FetchProgress, JobView, Link, Live, OutputFile, OutputFolder, WatchEvent,
    fetch::{self, FetchedMovie},
    proto::{JobState, WatchJobResponse},
    view::{self, Lines, Warned, words},
};
use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Exit, Failure, Interrupt, Interrupts, Left, ProgressLine, again, can_draw, note, note_replaced,
    of_known_job, quoted, say, say_json, screen::Screen, wants_color,
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
        let began = Instant::now();
        let mut live = Live::default();
        let mut display = Display::new(self.json, self.folder.is_some() || self.movie.is_some());
        let mut watch = self.cluster.watch(self.job_id);
        let fetching = async {
            match self.folder {
                Some(folder) => {
                    let progress = |progress| {
                        on_fetched.send_replace(progress);
                    };
                    let fetching = fetch::follow(self.cluster, self.job_id, folder, progress);
                    fetching.await.map(drop)
                }
                None => Ok(()),
            }
        };
        let mut fetching = std::pin::pin!(fetching);
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
                    Some(event) => match event.map_err(of_known_job)? {
                        WatchEvent::Update(update) => {
                            live.apply(began.elapsed(), unix_ms(), &update);
                            display.update(&live, began.elapsed(), &update)?;
                        }
                        WatchEvent::StartingOver { reason } => {
                            display.starting_over(&reason)?;
                            live.disconnected(began.elapsed(), reason);
                        }
                        WatchEvent::Reconnecting { reason, attempt, .. } => {
                            live.disconnected(began.elapsed(), reason);
                            display.disconnected(&live, attempt)?;
                        }
                    },
                },
                result = &mut fetching, if !all_fetched => {
                    match result {
                        Ok(()) => {}
                        // All is fetched that can be.
                        Err(error @ Error::Incomplete { .. }) => incomplete = Some(error),
                        Err(error) => {
                            let fetch = again(self.cluster, &format!("fetch {} -o DIR", self.job_id));
                            let is = if is_over(live.view()) { "is over" } else { "renders on" };
                            let how = format!("{is}: get its frames with `{fetch}`");
                            return Err(self.unfetched(error, how));
                        }
                    }
                    all_fetched = true;
                }
                Ok(()) = fetched.changed() => live.fetched(*fetched.borrow_and_update()),
                // What cannot be learnt now can be later.
                Some(Ok(nodes)) = nodes.next(), if display.has_lanes() => {
                    live.nodes(began.elapsed(), unix_ms(), &nodes);
                }
                _ = ticks.tick() => display.redraw(&live, began.elapsed())?,
                by = interrupts.next() => {
                    display.close(&live, None)?;
                    return Ok(Ending::Interrupted(self.left(by, live.view())));
                }
            }
        }
        let place =
            self.folder.filter(|_| live.view().counts().finished > 0 && incomplete.is_none());
        display.close(&live, place)?;
        if self.outlives && live.view().state() == JobState::Failed {
            let id = self.job_id;
            let tells = again(self.cluster, &format!("job {id}"));
            let retry = again(self.cluster, &format!("retry {id}"));
            match view::may_be_retried(live.view()) {
                true => note(format_args!(
                    "`{tells}` tells more of what failed, `{retry}` renders it once more"
                )),
                false => note(format_args!("`{tells}` tells more of what failed")),
            }
        }
        if let Some(error) = incomplete {
            return Err(error.into());
        }
        Ok(Ending::Over(Box::new(live.view().clone())))
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

    fn left(&self, by: Interrupt, view: &JobView) -> Left {
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

/// Whether nothing about the job changes any more.
fn is_over(view: &JobView) -> bool {
    matches!(view.state(), JobState::Finished | JobState::Failed | JobState::Cancelled)
}

/// What the person sees.
struct Display {
    form: Form,
    /// Whether there is more to do than to show.
    outlasts_reader: bool,
}

enum Form {
    /// Opened at the first drawing, when its height is known. Warnings go above it, where they stay.
    Panel(Option<Screen>, Warned),
    Lines(Lines),
    Json,
    /// Nobody reads any more.
    Mute,
}

impl Display {
    fn new(json: bool, outlasts_reader: bool) -> Self {
        let form = if json {
            Form::Json
        } else if can_draw() {
            Form::Panel(None, Warned::default())
        } else {
            Form::Lines(Lines::default())
        };
        Self { form, outlasts_reader }
    }

    /// Whether it shows what each node does.
    fn has_lanes(&self) -> bool {
        matches!(self.form, Form::Panel(..))
    }

    /// Goes on without a reader, where there is more to do.
    fn said(&mut self, said: Result<(), Failure>) -> Result<(), Failure> {
        match said {
            Err(failure) if failure.is_unread() && self.outlasts_reader => {
                self.form = Form::Mute;
                Ok(())
            }
            said => said,
        }
    }

    fn update(
        &mut self,
        live: &Live,
        now: Duration,
        message: &WatchJobResponse,
    ) -> Result<(), Failure> {
        let said = match &mut self.form {
            Form::Mute => Ok(()),
            Form::Panel(screen, warned) => {
                warned.fresh(live.view()).into_iter().try_for_each(|line| match screen {
                    Some(screen) => screen.print(&line).map_err(Failure::from),
                    None => say(line),
                })
            }
            Form::Lines(lines) => lines.update(live, now, message).into_iter().try_for_each(say),
            Form::Json => say_json(message),
        };
        self.said(said)
    }

    /// `attempt` counts from 1 in each outage.
    fn disconnected(&mut self, live: &Live, attempt: u32) -> Result<(), Failure> {
        let said = match &mut self.form {
            Form::Panel(..) | Form::Mute => Ok(()),
            Form::Lines(lines) => lines.disconnected(live).map_or(Ok(()), say),
            Form::Json => {
                if let (1, Link::Down { reason, .. }) = (attempt, live.link()) {
                    note(format_args!("reconnecting … ({})", words::printable(reason)));
                }
                Ok(())
            }
        };
        self.said(said)
    }

    /// What was told so far is not true any more.
    fn starting_over(&mut self, reason: &str) -> Result<(), Failure> {
        let line = format!(
            "the orchestrator remembers less than was shown here ({}): starting over with what it has",
            words::printable(reason)
        );
        let said = match &mut self.form {
            Form::Mute => Ok(()),
            Form::Panel(Some(screen), _) => screen.print(&line).map_err(Failure::from),
            Form::Panel(None, _) | Form::Lines(_) => say(line),
            Form::Json => {
                note(line);
                Ok(())
            }
        };
        self.said(said)
    }

    fn redraw(&mut self, live: &Live, now: Duration) -> Result<(), Failure> {
        let Form::Panel(screen, _) = &mut self.form else { return Ok(()) };
        // Before the first message there is nothing to draw.
        if live.view().job().job_id == 0 {
            return Ok(());
        }
        let drawn = match screen {
            Some(screen) => screen.draw(live, now),
            None => Screen::open(live, now, wants_color())
                .and_then(|opened| screen.insert(opened).draw(live, now)),
        };
        // A terminal that does not say where its cursor is can still print.
        if let Err(error) = drawn {
            tracing::debug!(%error, "the panel cannot be drawn");
            self.form = Form::Lines(Lines::default());
            return self.said(say(view::summary(live.view())));
        }
        Ok(())
    }

    /// Ends the display; a panel leaves a line behind. `folder` is where frames are, if any.
    fn close(mut self, live: &Live, folder: Option<&OutputFolder>) -> Result<(), Failure> {
        let mut lines = Vec::new();
        if let Form::Panel(screen, _) = &mut self.form {
            drop(screen.take());
            lines.push(view::summary(live.view()));
            lines.extend(view::failures(live.view()));
        }
        if let Some(folder) = folder
            && !matches!(self.form, Form::Json | Form::Mute)
        {
            lines.push(format!("frames are in {}", folder.path().display()));
        }
        let said = lines.into_iter().try_for_each(say);
        self.said(said)
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
