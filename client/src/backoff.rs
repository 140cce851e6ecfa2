//! How long to wait before an attempt.

use std::time::Duration;

/// Pause before the first attempt to reconnect; doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause: an orchestrator that is back is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Pause before an attempt: the one that the server asked for, or else one that grows. Up to half of it is added or
/// taken off at random, so that those who were told the same do not all come back at once.
pub(crate) fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let asked = retry_after.map(|asked| asked.mul_f64(1.0 + fastrand::f64() / 2.0));
    asked.unwrap_or_default().max(backoff(attempt))
}

/// Doubles with each attempt; up to half of it is taken off at random, so that the watchers of an
/// orchestrator that restarts do not all come back at once.
fn backoff(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let whole = BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert!(backoff(1) <= BACKOFF_MIN);
        assert!(backoff(4) > backoff(1));
        for attempt in [10, 1_000, u32::MAX] {
            assert!((BACKOFF_MAX / 2..=BACKOFF_MAX).contains(&backoff(attempt)));
        }
    }
}
