use std::{
    io::{self, Stdout},
    time::Duration,
};

use framecrew::{Live, view::Panel};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend};

/// Rows of the terminal left to what was printed before, so that the panel never takes all of it.
const ROWS_SPARED: u16 = 2;

/// The panel on a terminal, below what was printed before it.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    rows: u16,
    color: bool,
    _quiet: Quiet,
}

impl Screen {
    /// Takes rows for the panel as it is now.
    pub(crate) fn open(live: &Live, now: Duration, color: bool) -> io::Result<Self> {
        let quiet = Quiet::start();
        let rows = fitting(Panel::new(live, now).height())?;
        Ok(Self { terminal: inline(rows)?, rows, color, _quiet: quiet })
    }

    /// Draws the panel as it is now, with more rows or fewer where its height has changed.
    pub(crate) fn draw(&mut self, live: &Live, now: Duration) -> io::Result<()> {
        let panel = Panel::new(live, now).color(self.color);
        let rows = fitting(panel.height())?;
        if rows != self.rows {
            self.terminal.clear()?;
            self.terminal = inline(rows)?;
            self.rows = rows;
        }
        self.terminal.draw(|frame| frame.render_widget(panel, frame.area()))?;
        Ok(())
    }
}

/// Takes the panel away, the cursor where it began.
impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.clear();
        let _ = self.terminal.show_cursor();
    }
}

fn inline(rows: u16) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let viewport = Viewport::Inline(rows);
    Terminal::with_options(CrosstermBackend::new(io::stdout()), TerminalOptions { viewport })
}

fn fitting(rows: u16) -> io::Result<u16> {
    let (_, height) = crossterm::terminal::size()?;
    Ok(rows.min(height.saturating_sub(ROWS_SPARED)).max(1))
}

/// While this lives, keys pressed do not show: an Enter would push the panel up. Ctrl-C works as ever.
#[derive(Debug)]
struct Quiet {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Quiet {
    #[cfg(unix)]
    fn start() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = before.clone() {
            quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            // A terminal that refuses shows what is typed; the next redraw covers it.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &quiet);
        }
        Self { before }
    }

    #[cfg(not(unix))]
    fn start() -> Self {
        Self {}
    }
}

#[cfg(unix)]
impl Drop for Quiet {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};

        if let Some(before) = &self.before {
            // Flush: what was typed meanwhile was for nobody, least of all for the shell.
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
