use std::{
    io::{self, Stdout, Write as _},
    time::Duration,
};

use crossterm::{
    cursor::{MoveTo, MoveToColumn},
    execute,
    terminal::{Clear, ClearType},
};
use framecrew::{Live, view::Panel, words};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};

/// Rows of the terminal left to what was printed before, so that the panel never takes all of it.
const ROWS_SPARED: u16 = 2;

/// The panel on a terminal, below what was printed before it.
///
/// Between two drawings the cursor stands at its first cell: wherever a resize moves the panel, that is where it
/// begins.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// Rows taken, and the size of the terminal they were taken of.
    shape: Shape,
    color: bool,
    _quiet: Quiet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: u16,
    terminal: (u16, u16),
}

impl Shape {
    /// What a panel of `height` lines takes of the terminal as it is now.
    fn of(height: u16) -> io::Result<Self> {
        let terminal = crossterm::terminal::size()?;
        let rows = height.min(terminal.1.saturating_sub(ROWS_SPARED)).max(1);
        Ok(Self { rows, terminal })
    }
}

impl Screen {
    /// Takes rows for the panel as it is now.
    pub(crate) fn open(live: &Live, now: Duration, color: bool) -> io::Result<Self> {
        let quiet = Quiet::start();
        let shape = Shape::of(Panel::new(live, now).height())?;
        Ok(Self { terminal: inline(shape.rows)?, shape, color, _quiet: quiet })
    }

    /// Prints a line above the panel, where it stays.
    pub(crate) fn print(&mut self, line: &str) -> io::Result<()> {
        erase()?;
        writeln!(io::stdout().lock(), "{}", words::printable_lines(line))?;
        self.terminal = inline(self.shape.rows)?;
        Ok(())
    }

    /// Draws the panel as it is now, anew where its height or the terminal's size has changed.
    pub(crate) fn draw(&mut self, live: &Live, now: Duration) -> io::Result<()> {
        let panel = Panel::new(live, now).color(self.color);
        let shape = Shape::of(panel.height())?;
        if shape != self.shape {
            erase()?;
            self.terminal = inline(shape.rows)?;
            self.shape = shape;
        }
        let mut area = Rect::ZERO;
        self.terminal.draw(|frame| {
            area = frame.area();
            frame.render_widget(panel, area);
        })?;
        execute!(io::stdout(), MoveTo(area.x, area.y))
    }
}

/// Takes the panel away, the cursor where it began.
impl Drop for Screen {
    fn drop(&mut self) {
        let _ = erase();
        let _ = self.terminal.show_cursor();
    }
}

/// Clears from the panel's first row down.
fn erase() -> io::Result<()> {
    execute!(io::stdout(), MoveToColumn(0), Clear(ClearType::FromCursorDown))
}

fn inline(rows: u16) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let viewport = Viewport::Inline(rows);
    Terminal::with_options(CrosstermBackend::new(io::stdout()), TerminalOptions { viewport })
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
