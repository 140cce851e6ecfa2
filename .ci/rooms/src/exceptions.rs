//! What may stay although a rule forbids it: lines of `RULE PLACE REASON`.

use std::{cell::RefCell, collections::BTreeSet};

use anyhow::bail;

use crate::finding::Finding;

/// The list, relative to the workspace.
pub(crate) const FILE: &str = ".ci/rooms/exceptions.txt";

/// The rules that a line may name.
const RULES: [&str; 5] = ["circle", "file", "function", "impure", "room"];

#[derive(Debug)]
struct Exception {
    rule: String,
    place: String,
    line: usize,
}

/// The list, and which lines of it were needed.
#[derive(Debug)]
pub(crate) struct Exceptions {
    list: Vec<Exception>,
    needed: RefCell<BTreeSet<usize>>,
}

impl Exceptions {
    /// Reads the list: empty lines and lines that begin with `#` say nothing.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut list = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(rule), Some(place), Some(_reason)) =
                (words.next(), words.next(), words.next())
            else {
                bail!("{FILE}:{line_number}: write RULE PLACE REASON");
            };
            if !RULES.contains(&rule) {
                bail!("{FILE}:{line_number}: {rule} is no rule; there are {}", RULES.join(", "));
            }
            list.push(Exception { rule: rule.into(), place: place.into(), line: line_number });
        }
        Ok(Self { list, needed: RefCell::default() })
    }

    /// Whether the list names this place for this rule; if so, the line counts as needed.
    pub(crate) fn covers(&self, rule: &str, place: &str) -> bool {
        let mut covered = false;
        for exception in &self.list {
            if exception.rule == rule && exception.place == place {
                self.needed.borrow_mut().insert(exception.line);
                covered = true;
            }
        }
        covered
    }

    /// The findings that no line covers.
    pub(crate) fn apply(&self, findings: Vec<Finding>) -> Vec<Finding> {
        findings.into_iter().filter(|finding| !self.covers(finding.rule, &finding.place)).collect()
    }

    /// The lines that covered nothing. Ask after all rules were checked.
    pub(crate) fn unneeded(&self) -> Vec<Finding> {
        let needed = self.needed.borrow();
        let unneeded = self.list.iter().filter(|exception| !needed.contains(&exception.line));
        unneeded
            .map(|exception| Finding {
                rule: "exception",
                place: format!("{FILE}:{}", exception.line),
                text: format!(
                    "{} {} breaks no rule any more; delete the line",
                    exception.rule, exception.place
                ),
            })
            .collect()
    }
}
