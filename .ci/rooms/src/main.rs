//! Checks the structure of this workspace: `cargo run --package rooms`, from anywhere in it.
//!
//! It refuses
//!
//! - a **circle** between modules of a crate. A module is a file. An arrow goes from a file to the file that defines
//!   what a path in it names, in a `use`, in code, in a macro's arguments or in an attribute; re-exports are followed to
//!   the definition. `mod x;` is no arrow, and neither is a file's `pub use` (of any visibility) from a module below it.
//!   A name of the file's own parent module is an arrow as any other.
//! - a **file** above [`sizes::FILE_LINES_MAX`] lines or a **function** above [`sizes::FUNCTION_LINES_MAX`]. Code under
//!   `#[cfg(test)]` does not count; a file of tests has [`sizes::TEST_FILE_LINES_MAX`] lines.
//! - an **impure** name: [`purity::RULES`] lists what a room must not name (clocks, locks, wire messages, `async`).
//!
//! `exceptions.txt` lists what may stay, each with its reason; an exception that is not needed any more is refused, too.
//!
//! What it cannot see: method calls and trait implementations (no path names their module), types that are only
//! inferred, paths inside strings (`#[serde(with = "…")]`), and what macros expand to. A `use` inside a function counts
//! for its whole module. `proto/fuzz`, a workspace of its own, is not read.
//!
//! Why not `cargo modules dependencies --acyclic`: its graph is one of items with the arrows of ownership in it, so a
//! child that uses its parent's type and a façade that re-exports its children are circles to it; it stops at the first
//! one; it knows neither sizes nor purity; and building rust-analyzer costs CI more than all the rest of the lints.

mod circles;
mod exceptions;
mod finding;
mod names;
mod purity;
mod sizes;
#[cfg(test)]
mod tests;
mod tree;
mod workspace;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{exceptions::Exceptions, finding::Finding, tree::Crate};

/// All findings that no exception covers, and the exceptions that cover nothing.
fn check(crates: &[Crate], exceptions: &str) -> anyhow::Result<Vec<Finding>> {
    let exceptions = Exceptions::parse(exceptions)?;
    let mut findings = Vec::new();
    for one in crates {
        findings.extend(sizes::check(one));
        findings.extend(purity::check(one, purity::RULES));
    }
    let mut findings = exceptions.apply(findings);
    for one in crates {
        findings.extend(circles::check(one, &exceptions));
    }
    findings.extend(exceptions.unneeded());
    Ok(findings)
}

fn run() -> anyhow::Result<bool> {
    let root = workspace::root()?;
    let crates = workspace::read(&root)?;
    let exceptions = std::fs::read_to_string(root.join(exceptions::FILE))
        .with_context(|| format!("cannot read {}", exceptions::FILE))?;
    let findings = check(&crates, &exceptions)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    print!("{}", sizes::summary(&crates));
    if !findings.is_empty() {
        eprintln!("rooms: {} to mend, or to justify in {}", findings.len(), exceptions::FILE);
    }
    Ok(findings.is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rooms: {error:#}");
            ExitCode::FAILURE
        }
    }
}
