//! What tests ask of the machine, and what they say where it has not got it.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

#[cfg(all(unix, feature = "local"))]
pub mod servers;

use std::io::Write as _;

use framecrew_node::blender::{self, FoundBlender};

/// Tells, aloud, that a test is skipped for want of something, which `forbidden_by` forbids where it is set.
pub fn skip(what: &str, forbidden_by: &str) {
    assert!(std::env::var_os(forbidden_by).is_none(), "{what} was not found");
    // Not eprintln, which the test harness keeps to itself.
    let _ = writeln!(std::io::stderr(), "skipped: no {what}");
}

/// The Blenders to draw with, newest first. Where there is none the test is skipped.
pub fn blenders() -> Vec<FoundBlender> {
    let found = blender::find(&[], &blender::default_cache());
    if found.is_empty() {
        skip("Blender", "FRAMECREW_REQUIRE_BLENDER");
    }
    found
}

/// A number that whoever runs the tests may choose.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}
