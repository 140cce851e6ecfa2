use clap::Args;
use framecrew::{proto::JobState, words};

use super::global::Global;
use crate::console::{Exit, Failure, say, say_json};

/// Cancel a job: its renderers are killed, its finished frames stay
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
    job_id: u64,
}

impl Cancel {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job = cluster.cancel(self.job_id).await?;
        if global.json {
            say_json(&job)?;
            return Ok(Exit::Success);
        }
        let counts = job.counts.unwrap_or_default();
        let (finished, total) = (counts.finished, words::frames(words::total(&counts)));
        match job.state() {
            JobState::Cancelled => say(format_args!(
                "job {} is cancelled; {finished} of {total} finished",
                self.job_id
            ))?,
            state => say(format_args!(
                "job {} was over before: {}",
                self.job_id,
                words::job_state(state)
            ))?,
        }
        Ok(Exit::Success)
    }
}
