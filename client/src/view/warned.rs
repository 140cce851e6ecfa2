use std::collections::BTreeSet;

use crate::state::JobView;
use crate::words;

/// Tells a job's warnings, each once, whatever a reader that reconnects hears twice.
#[derive(Debug, Clone, Default)]
pub struct Warned(BTreeSet<String>);

impl Warned {
    /// The warnings that were not told before, a line each.
    pub fn fresh(&mut self, view: &JobView) -> Vec<String> {
        let lines = view.warnings().iter().map(words::warning);
        lines.filter(|line| self.0.insert(line.clone())).collect()
    }
}
