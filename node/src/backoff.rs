//! Pauses between retries.

use std::time::Duration;

/// Between half of `pause` and all of it, so that nodes that lost their orchestrator at once do not all return at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
