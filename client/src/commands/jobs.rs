use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use framecrew::{Cluster, proto::Job, view::Table, words};

use futures::StreamExt as _;

use super::global::Global;
use crate::console::{Exit, Failure, note, say, say_json};

/// List the latest jobs, newest first
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Jobs to list [default: 50; with --json all]
    #[arg(short = 'n', long, env = "FRAMECREW_LIMIT", value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    limit: Option<u32>,
}

/// Number of jobs in the table when no limit is given: two screens full.
const LISTED: usize = 50;
/// Most older jobs that are counted, in one call or two. Above it the note only says "more than".
const OLDER_COUNTED_MAX: usize = 1_000;

impl Jobs {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let limit = self.limit.map(|limit| limit as usize);
        if global.json {
            return say_all(&cluster, limit.unwrap_or(usize::MAX)).await;
        }
        let limit = limit.unwrap_or(LISTED);
        let mut jobs = cluster.jobs(limit.saturating_add(OLDER_COUNTED_MAX + 1)).await?;
        let all = jobs.len();
        jobs.truncate(limit);
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
        if let Some(more) = and_older(all - jobs.len(), all) {
            note(more);
        }
        Ok(Exit::Success)
    }
}

/// Prints the latest jobs as JSON one page at a time, since all of them may not fit in memory.
async fn say_all(cluster: &Cluster, limit: usize) -> Result<Exit, Failure> {
    let mut pages = std::pin::pin!(cluster.job_pages(limit));
    while let Some(page) = pages.next().await {
        page?.iter().try_for_each(say_json)?;
    }
    Ok(Exit::Success)
}

/// Returns `and 14 older: -n 64`, or `None` if all `count` jobs are listed.
fn and_older(older: usize, count: usize) -> Option<String> {
    match older {
        0 => None,
        older if older > OLDER_COUNTED_MAX => {
            Some(format!("and more than {OLDER_COUNTED_MAX} older: --json lists all"))
        }
        older => Some(format!("and {older} older: -n {count}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_list_says_how_to_see_the_rest() {
        assert_eq!(and_older(0, 50), None);
        assert_eq!(and_older(14, 64).as_deref(), Some("and 14 older: -n 64"));
        let many = and_older(OLDER_COUNTED_MAX + 1, 1_051);
        assert_eq!(many.as_deref(), Some("and more than 1000 older: --json lists all"));
    }
}
