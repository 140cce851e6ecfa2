//! Between the commands and the person: what is printed, drawn, interrupted, and how it ends.

mod display;
mod failure;
mod follow;
mod interrupt;
pub(crate) mod paths;
mod progress;
mod screen;

pub(crate) use failure::{Exit, Failure, of_known_job};
pub(crate) use follow::{Ending, Follow};
pub(crate) use interrupt::{Interrupts, Left, leave, leave_to_others};
pub(crate) use progress::ProgressLine;

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use framecrew::{Cluster, view, words};
use serde::Serialize;

/// Where the orchestrator of this machine listens.
pub(crate) const CLUSTER_DEFAULT: &str = "http://127.0.0.1:4000";

/// Writes a line of output to stdout. Control characters are replaced here and in [`note`], the two functions that
/// print text from elsewhere.
pub(crate) fn say(text: impl Display) -> Result<(), Failure> {
    let text = words::printable_lines(&text.to_string());
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Writes a message as a line of JSON to stdout.
pub(crate) fn say_json(message: &impl Serialize) -> Result<(), Failure> {
    let line = view::json_line(message).map_err(|error| Failure {
        exit: Exit::JobFailed,
        text: format!("cannot write a message as JSON: {error}"),
    })?;
    say(view::escaped_json(&line))
}

/// Writes a remark to stderr, where it is in nobody's way. A stderr that is gone is no reason to stop.
pub(crate) fn note(text: impl Display) {
    let text = words::printable_lines(&text.to_string());
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Notes how many earlier files were replaced by outputs.
pub(crate) fn note_replaced(files: u64) {
    if files > 0 {
        note(format_args!(
            "note: overwrote {} of the same name",
            words::plural(files, "existing file")
        ));
    }
}

/// A command to type next, at the same cluster.
pub(crate) fn again(cluster: &Cluster, command: &str) -> String {
    if cluster.url() == CLUSTER_DEFAULT {
        format!("framecrew {command}")
    } else {
        format!("framecrew {command} --cluster {}", cluster.url())
    }
}

/// A path as a shell takes it for one word.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether stdout is a terminal that can move its cursor.
pub(crate) fn can_draw() -> bool {
    let term = std::env::var_os("TERM");
    let dumb = term.is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && (!dumb || cfg!(windows))
}

/// Whether colours are wanted: the NO_COLOR convention.
pub(crate) fn wants_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("a/b-frames")), "a/b-frames");
        assert_eq!(quoted(Path::new("shot 1")), "'shot 1'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
