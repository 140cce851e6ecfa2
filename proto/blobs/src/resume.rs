//! How often and when a transfer whose link broke is tried again.

use std::time::Duration;

/// Broken links in a row, with nothing new arrived between them, before a transfer gives up: together with the
/// pauses about five seconds, long enough for a store that restarts.
pub(crate) const RESUMES_MAX: u32 = 6;

/// Pause before the first resume; it doubles with each one, and a random half of it is taken off so that a
/// crew that lost its store does not return in step.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait after `broken` broken links in a row, 1 or more.
pub(crate) fn pause(broken: u32) -> Duration {
    let whole = FIRST_PAUSE * (1 << (broken - 1).min(RESUMES_MAX));
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_last_longer_than_told() {
        let mut whole = FIRST_PAUSE;
        for broken in 1..=RESUMES_MAX {
            assert!((whole / 2..=whole).contains(&pause(broken)));
            whole *= 2;
        }
    }
}
