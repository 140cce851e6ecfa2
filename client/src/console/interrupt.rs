use std::{io, time::Duration};

use framecrew::Cluster;

use super::{Exit, Failure, again, note};

/// How long a second Ctrl-C cancels the job instead of only leaving it.
const SECOND_WITHIN: Duration = Duration::from_secs(2);

/// Ctrl-C, and on Unix a polite request to terminate.
#[derive(Debug)]
pub(crate) struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// From now on neither ends the process by itself.
    pub(crate) fn listen() -> Result<Self, Failure> {
        #[cfg(unix)]
        let listen = || -> io::Result<Self> {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        };
        #[cfg(not(unix))]
        let listen = || -> io::Result<Self> { Ok(Self {}) };
        listen().map_err(|error| Failure {
            exit: Exit::JobFailed,
            text: format!("cannot listen for Ctrl-C: {error}"),
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Leaves a job that renders on, unless the person asks once more: then it is cancelled.
pub(crate) async fn leave(
    cluster: &Cluster,
    job_id: u64,
    interrupts: &mut Interrupts,
) -> Result<Exit, Failure> {
    let watch = again(cluster, &format!("watch {job_id}"));
    note(format_args!(
        "job {job_id} renders on; come back with `{watch}`. Ctrl-C within 2 s cancels it."
    ));
    if tokio::time::timeout(SECOND_WITHIN, interrupts.next()).await.is_err() {
        return Ok(Exit::Interrupted);
    }
    cluster.cancel(job_id).await?;
    note(format_args!("job {job_id} is cancelled"));
    Ok(Exit::Cancelled)
}
