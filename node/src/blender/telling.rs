//! Selects the line of a program's output that says why it does not start. Pure.

/// Maximum number of characters that are kept of such a line.
const CHARS_MAX: usize = 300;

/// Words in lines that look like errors but explain nothing. They also occur in successful starts.
const NOISE: [&str; 7] = [
    "not freed memory",
    "EGL Error",
    "ALSA",
    "libdecor",
    "no Python frame",
    "Current thread",
    "AL lib",
];

/// Words in other lines that explain a failure.
const WORDS: [&str; 10] = [
    "error while loading shared libraries",
    "cannot open shared object file",
    "symbol lookup error",
    "cannot execute",
    "not found",
    "Permission denied",
    "No such file",
    "Fatal Python error",
    "Unable to",
    "Error:",
];

/// Remembers the most informative line of those that it observes.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    best: Option<(u8, String)>,
}

impl Telling {
    /// Observes a line. Of equally informative lines the first is kept, because it is the cause of the others.
    pub(crate) fn observe(&mut self, line: &str) {
        let line = line.trim();
        let rank = rank(line);
        let is_better = match &self.best {
            None => !line.is_empty(),
            // Of uninformative lines the last is closest to the end.
            Some((best, _)) => rank < *best || (rank == LAST && *best == LAST && !line.is_empty()),
        };
        if is_better {
            self.best = Some((rank, line.chars().take(CHARS_MAX).collect()));
        }
    }

    /// The most informative line.
    pub(crate) fn line(&self) -> Option<&str> {
        self.best.as_ref().map(|(_, line)| line.as_str())
    }
}

/// Returns the most informative line of a text; empty for an empty text.
pub(crate) fn telling(text: &str) -> String {
    let mut telling = Telling::default();
    text.lines().for_each(|line| telling.observe(line));
    telling.line().unwrap_or_default().to_owned()
}

/// Ranks of uninformative lines and of noise.
const LAST: u8 = 2;
const NEVER: u8 = 3;

fn rank(line: &str) -> u8 {
    if NOISE.iter().any(|noise| line.contains(noise)) {
        return NEVER;
    }
    if is_exception(line) || line.contains("OpenColorIO Error") {
        return 0;
    }
    if WORDS.iter().any(|words| line.contains(words)) { 1 } else { LAST }
}

/// Whether a line is the last of a Python traceback: `ModuleNotFoundError: No module named 'encodings'`.
fn is_exception(line: &str) -> bool {
    let Some((name, text)) = line.split_once(": ") else { return false };
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
    is_name && !text.is_empty() && (name.len() > 5 && name.ends_with("Error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> String {
        telling(&lines.join("\n"))
    }

    #[test]
    fn the_first_informative_line_is_kept() {
        let python = [
            "Python path configuration:",
            "  PYTHONHOME = (not set)",
            "Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem encoding",
            "Python runtime state: core initialized",
            "ModuleNotFoundError: No module named 'encodings'",
            "",
            "Current thread 0x00007f1 (most recent call first):",
            "  <no Python frame>",
        ];
        assert_eq!(told(&python), "ModuleNotFoundError: No module named 'encodings'");
        let without = [python[0], python[2], python[7]];
        assert!(told(&without).starts_with("Fatal Python error: init_fs_encoding"));
        let colour = "OpenColorIO Error: Error could not read '/a/config.ocio' OCIO profile.";
        assert_eq!(told(&["Color management: Using fallback mode", colour, colour, "bye"]), colour);
        let library = "blender: error while loading shared libraries: libXi.so.6: cannot open shared object file";
        assert_eq!(told(&["EGL Error (0x3001): EGL_NOT_INITIALIZED", library, "more"]), library);
        assert_eq!(told(&["a", "b", "<no Python frame>"]), "b");
        assert_eq!(
            told(&["Error: Not freed memory blocks: 3"]),
            "Error: Not freed memory blocks: 3"
        );
        assert_eq!(told(&[]), "");
    }
}
