//! How often and when a transfer whose link broke is resumed.

use std::time::Duration;

use framecrew_net::backoff::Backoff;

/// Broken links in a row, with nothing new arrived between them, before a transfer gives up: together with the
/// pauses about five seconds, long enough for a store that restarts.
pub(crate) const RESUMES_MAX: u32 = 6;

/// Pauses after broken links in a row.
pub(crate) const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), longest: Duration::from_millis(3_200) };
