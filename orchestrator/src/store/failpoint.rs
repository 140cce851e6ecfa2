//! Points at which a test can abort the process.

/// Aborts the process here, as `kill -9` would, when a test asks for it: `FAILPOINTS=commit-before=1%return`.
#[cfg(feature = "failpoints")]
pub(crate) fn point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Does nothing in release builds.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn point(_: &'static str) {}
