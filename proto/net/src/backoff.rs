//! How long to wait before an attempt.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Doublings after which a pause is as long as any: no pause here is 2^32 times another.
const DOUBLINGS_MAX: u32 = 32;

/// Pauses that double from one attempt to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause before the first repetition.
    pub first: Duration,
    /// The longest pause of all: a peer that is back is noticed within this time.
    pub longest: Duration,
}

impl Backoff {
    /// Pause before attempt number `attempt`, counted from 1. Up to half of it is taken off at random, so that many who
    /// wait for the same peer do not all come back at once.
    #[must_use]
    pub fn pause(&self, attempt: u32) -> Duration {
        // The jitter adds as much again at most.
        let mut pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.first / 2)
            .with_max_delay(self.longest / 2)
            .without_max_times()
            .build();
        let doublings = attempt.saturating_sub(1).min(DOUBLINGS_MAX);
        pauses.nth(doublings as usize).unwrap_or(self.longest)
    }

    /// The same, but not before the peer wants to be asked again. Up to half of its time is added at random.
    #[must_use]
    pub fn pause_or(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.map(|asked| asked.mul_f64(1.0 + fastrand::f64() / 2.0));
        asked.unwrap_or_default().max(self.pause(attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };

    #[test]
    fn pauses_double_and_stay_bounded() {
        let mut whole = BACKOFF.first;
        for attempt in 1..=8 {
            for _ in 0..100 {
                let pause = BACKOFF.pause(attempt);
                assert!((whole / 2..=whole).contains(&pause), "{attempt}: {pause:?}");
            }
            whole = (whole * 2).min(BACKOFF.longest);
        }
        for attempt in [0, 1_000, u32::MAX] {
            assert!(BACKOFF.pause(attempt) <= BACKOFF.longest);
        }
    }

    #[test]
    fn a_peer_that_names_a_time_is_not_asked_before() {
        let asked = Duration::from_secs(60);
        let pause = BACKOFF.pause_or(1, Some(asked));
        assert!((asked..=asked * 3 / 2).contains(&pause));
    }
}
