use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use framecrew::{
    proto::Job,
    view::{Table, words},
};

use super::Global;
use crate::console::{Exit, Failure, say, say_json};

/// List the latest jobs, newest first
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Jobs to list
    #[arg(short = 'n', long, env = "FRAMECREW_LIMIT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    limit: u32,
}

impl Jobs {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let jobs = cluster.jobs(self.limit as usize).await?;
        if global.json {
            jobs.iter().try_for_each(say_json)?;
            return Ok(Exit::Success);
        }
        if jobs.is_empty() {
            say("no jobs yet; submit one with `framecrew render FILE`")?;
            return Ok(Exit::Success);
        }
        let mut table =
            Table::new(["JOB", "NAME", "STATE", "FRAMES", "FAILED", "PRIORITY", "SUBMITTED"]);
        for job in &jobs {
            let counts = job.counts.unwrap_or_default();
            let spec = job.spec.clone().unwrap_or_default();
            table.row([
                job.job_id.to_string(),
                named(job),
                words::state(job).into(),
                format!("{}/{}", counts.finished, words::total(&counts)),
                counts.failed.to_string(),
                spec.priority.to_string(),
                ago(job.submitted_at_ms),
            ]);
        }
        say(table)?;
        Ok(Exit::Success)
    }
}

/// The job's name; of one that makes a movie, with the job whose frames it is of.
fn named(job: &Job) -> String {
    match &job.spec {
        Some(spec) if spec.movie_of_job_id != 0 => {
            format!("{} (movie of {})", spec.name, spec.movie_of_job_id)
        }
        Some(spec) => spec.name.clone(),
        None => String::new(),
    }
}

/// How long ago a stamp of the orchestrator's clock was, by this machine's.
pub(super) fn ago(at_ms: i64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    let passed = SystemTime::now().duration_since(at).unwrap_or_default();
    format!("{} ago", words::duration(passed))
}
