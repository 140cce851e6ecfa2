//! What a person or a program sees of a job that is followed: a panel, lines, or JSON.

use std::time::Duration;

use framecrew::{
    Link, Live, OutputFolder,
    proto::WatchJobResponse,
    view::{self, Lines, Warned},
    words,
};

use super::{Failure, can_draw, note, say, say_json, screen::Screen, wants_color};

/// Shows a job in the form that the output takes.
pub(super) struct Display {
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
    pub(super) fn new(json: bool, outlasts_reader: bool) -> Self {
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
    pub(super) fn has_lanes(&self) -> bool {
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

    pub(super) fn update(
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
    pub(super) fn disconnected(&mut self, live: &Live, attempt: u32) -> Result<(), Failure> {
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

    /// The messages shown so far are no longer true.
    pub(super) fn starting_over(&mut self, reason: &str) -> Result<(), Failure> {
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

    pub(super) fn redraw(&mut self, live: &Live, now: Duration) -> Result<(), Failure> {
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
    pub(super) fn close(
        mut self,
        live: &Live,
        folder: Option<&OutputFolder>,
    ) -> Result<(), Failure> {
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
