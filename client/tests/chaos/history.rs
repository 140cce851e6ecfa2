//! What happened, as it happened: a line of JSON for each fault, each answer that a client got, and each finding.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Findings that are kept in full; more of them say nothing new.
const FINDINGS_MAX: usize = 200;

/// The history of one run, and the figures that go into its report.
#[derive(Debug)]
pub(crate) struct History {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lines: BufWriter<File>,
    counts: BTreeMap<String, u64>,
    times: BTreeMap<String, Vec<f64>>,
    findings: Vec<String>,
}

impl History {
    pub(crate) fn create(path: &Path) -> Self {
        let lines = BufWriter::new(File::create(path).unwrap());
        let state =
            State { lines, counts: BTreeMap::new(), times: BTreeMap::new(), findings: Vec::new() };
        Self { begun: Instant::now(), state: Mutex::new(state) }
    }

    /// Writes a line: what, and its particulars.
    pub(crate) fn tell(&self, what: &str, particulars: &Value) {
        let line = json!({ "ms": self.begun.elapsed().as_millis() as u64, what: particulars });
        // Whole lines at once: what is there can be read although the run goes on.
        let mut state = self.state();
        writeln!(state.lines, "{line}").unwrap();
        state.lines.flush().unwrap();
    }

    pub(crate) fn count(&self, what: &str) {
        *self.state().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// A time that something took.
    pub(crate) fn took(&self, what: &str, time: Duration) {
        self.state().times.entry(what.to_owned()).or_default().push(time.as_secs_f64());
        self.tell("took", &json!({ "what": what, "seconds": time.as_secs_f64() }));
    }

    /// Something that must not be.
    pub(crate) fn finding(&self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("FINDING {text}");
        self.tell("finding", &json!(text));
        let mut state = self.state();
        if state.findings.len() < FINDINGS_MAX {
            state.findings.push(text);
        }
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.state().counts.clone()
    }

    pub(crate) fn times(&self) -> BTreeMap<String, Vec<f64>> {
        self.state().times.clone()
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        self.state().findings.clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
