use std::time::{Duration, SystemTime, UNIX_EPOCH};

use framecrew::{
    Cluster, FetchProgress, JobView, Live, OutputFolder, WatchEvent, fetch,
    proto::WatchJobResponse,
    view::{self, Lines},
};
use futures::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Failure, Interrupts, again, can_draw, note, say, say_json, screen::Screen, wants_color,
};

/// Time between two drawings of the panel: fast enough to look alive, cheap enough for any terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Shows a job until it is over, and brings its frames meanwhile.
pub(crate) struct Follow<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) job_id: u64,
    /// Where frames go; without it none are fetched.
    pub(crate) folder: Option<&'a OutputFolder>,
    /// Whether the job goes on when this command ends.
    pub(crate) outlives: bool,
    /// Messages as JSON instead of text for people.
    pub(crate) json: bool,
}

/// How following a job ended.
pub(crate) enum Ending {
    /// The job is over, and everything it made is fetched.
    Over(Box<JobView>),
    /// By the person; the job goes on.
    Interrupted,
}

impl Follow<'_> {
    /// Follows the job until it is over or the person has seen enough.
    pub(crate) async fn run(self, interrupts: &mut Interrupts) -> Result<Ending, Failure> {
        let began = Instant::now();
        let mut live = Live::default();
        let mut display = Display::new(self.json);
        let mut watch = self.cluster.watch(self.job_id);
        let (on_fetched, mut fetched) = tokio::sync::watch::channel(FetchProgress::default());
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
        let mut ticks = tokio::time::interval(REDRAW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut job_over, mut all_fetched) = (false, false);
        while !(job_over && all_fetched) {
            tokio::select! {
                event = watch.next(), if !job_over => match event {
                    None => job_over = true,
                    Some(event) => match event? {
                        WatchEvent::Update(update) => {
                            live.apply(began.elapsed(), unix_ms(), &update);
                            display.update(&live, began.elapsed(), &update)?;
                        }
                        WatchEvent::Reconnecting { reason, .. } => {
                            live.disconnected(began.elapsed(), reason);
                            display.disconnected(&live)?;
                        }
                    },
                },
                result = &mut fetching, if !all_fetched => {
                    result.map_err(|error| self.unfetched(error))?;
                    all_fetched = true;
                }
                Ok(()) = fetched.changed() => live.fetched(*fetched.borrow_and_update()),
                _ = ticks.tick() => display.redraw(&live, began.elapsed())?,
                () = interrupts.next() => {
                    display.close(&live)?;
                    return Ok(Ending::Interrupted);
                }
            }
        }
        display.close(&live)?;
        if let Some(folder) = self.folder
            && live.view().counts().finished > 0
            && !self.json
        {
            say(format_args!("frames are in {}", folder.path().display()))?;
        }
        Ok(Ending::Over(Box::new(live.view().clone())))
    }

    /// The job does not suffer from what is wrong here.
    fn unfetched(&self, error: framecrew::Error) -> Failure {
        let mut failure = Failure::from(error);
        if self.outlives {
            let id = self.job_id;
            let fetch = again(self.cluster, &format!("fetch {id} -o DIR"));
            failure.text += &format!("\njob {id} renders on; get its frames with `{fetch}`");
        }
        failure
    }
}

/// What the person sees.
enum Display {
    /// Opened at the first drawing, when its height is known.
    Panel(Option<Screen>),
    Lines(Lines),
    Json,
}

impl Display {
    fn new(json: bool) -> Self {
        if json {
            Self::Json
        } else if can_draw() {
            Self::Panel(None)
        } else {
            Self::Lines(Lines::default())
        }
    }

    fn update(
        &mut self,
        live: &Live,
        now: Duration,
        message: &WatchJobResponse,
    ) -> Result<(), Failure> {
        match self {
            Self::Panel(_) => Ok(()),
            Self::Lines(lines) => lines.update(live, now, message).into_iter().try_for_each(say),
            Self::Json => say_json(message),
        }
    }

    fn disconnected(&mut self, live: &Live) -> Result<(), Failure> {
        match self {
            Self::Panel(_) => {}
            Self::Lines(lines) => {
                if let Some(line) = lines.disconnected(live) {
                    say(line)?;
                }
            }
            Self::Json => note("reconnecting …"),
        }
        Ok(())
    }

    fn redraw(&mut self, live: &Live, now: Duration) -> Result<(), Failure> {
        let Self::Panel(screen) = self else { return Ok(()) };
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
            *self = Self::Lines(Lines::default());
            say(view::summary(live.view()))?;
        }
        Ok(())
    }

    /// Ends the display; a panel leaves a line behind.
    fn close(self, live: &Live) -> Result<(), Failure> {
        match self {
            Self::Panel(screen) => {
                drop(screen);
                say(view::summary(live.view()))?;
                view::failures(live.view()).into_iter().try_for_each(say)
            }
            Self::Lines(_) | Self::Json => Ok(()),
        }
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
