//! Deadlines and pauses of calls.

use std::time::Duration;

use tonic::Status;

/// How long a node may take to answer a call; the streams themselves are not bounded by it.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to reach a node, or up to half of it less, so that the attempts of many batches spread.
/// Doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Waits for a call's answer, for `limit` at most.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the node did not answer")))
}

/// Pauses that grow.
pub(super) struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(RETRY_MIN)
    }
}

impl Retry {
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}
