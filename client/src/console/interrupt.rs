use std::time::Duration;

use framecrew::{Cluster, proto};
use framecrew_net::signals::{Signal, Signals};

use super::{Exit, Failure, again, note, of_known_job};

/// How long a second Ctrl-C cancels the job instead of only leaving it.
const SECOND_WITHIN: Duration = Duration::from_secs(2);

/// Ctrl-C, and on Unix a polite request to terminate.
#[derive(Debug)]
pub(crate) struct Interrupts(Signals);

impl Interrupts {
    /// From now on neither ends the process by itself.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Signals::listen().map(Self).map_err(|error| Failure {
            exit: Exit::JobFailed,
            text: format!("cannot listen for Ctrl-C: {error}"),
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Signal {
        self.0.next().await
    }
}

/// A job that somebody stopped following.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) job_id: u64,
    /// As it was when it was seen last, if ever.
    pub(crate) known: Option<Box<proto::Job>>,
    pub(crate) by: Signal,
    /// Whether only what it made was still coming.
    pub(crate) is_over: bool,
    /// How to get what has not come, for people.
    pub(crate) rest: Option<String>,
}

/// Leaves a running job that this command did not submit. Only `framecrew cancel` cancels it.
pub(crate) fn leave_to_others(cluster: &Cluster, left: &Left) -> Exit {
    let mut text = still_there(cluster, left);
    if !left.is_over {
        let cancel = again(cluster, &format!("cancel {}", left.job_id));
        text += &format!(", cancel it with `{cancel}`");
    }
    note(text);
    Exit::Interrupted
}

/// Leaves a running job that this command submitted. A second Ctrl-C cancels it.
pub(crate) async fn leave(
    cluster: &Cluster,
    left: Left,
    interrupts: &mut Interrupts,
) -> Result<Exit, Failure> {
    let text = still_there(cluster, &left);
    let Left { job_id, known, by, is_over, .. } = left;
    if is_over || by != Signal::Interrupt {
        note(text);
        return Ok(Exit::Interrupted);
    }
    note(format_args!("{text}. Ctrl-C within 2 s cancels it."));
    match tokio::time::timeout(SECOND_WITHIN, interrupts.next()).await {
        Ok(Signal::Interrupt) => {}
        _ => return Ok(Exit::Interrupted),
    }
    // Its number may belong to another job after a restore of the orchestrator's data.
    if let Some(known) = known {
        cluster.job_again(&known).await.map_err(of_known_job)?;
    }
    cluster.cancel(job_id).await.map_err(of_known_job)?;
    note(format_args!("job {job_id} is cancelled"));
    Ok(Exit::Cancelled)
}

/// Describes the state of the job and how to return to it.
fn still_there(cluster: &Cluster, left: &Left) -> String {
    let Left { job_id, rest, .. } = left;
    if left.is_over {
        let rest = rest.as_ref().map_or_else(String::new, |rest| format!("; {rest}"));
        return format!("job {job_id} is over{rest}");
    }
    let watch = again(cluster, &format!("watch {job_id}"));
    let rest = rest.as_ref().map_or_else(String::new, |rest| format!(" and {rest}"));
    format!("job {job_id} renders on; come back with `{watch}`{rest}")
}
