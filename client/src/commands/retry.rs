use clap::{Args, builder::FalseyValueParser};
use framecrew::{FrameSet, words};

use super::{global::Global, watch};
use crate::console::{Exit, Failure, again, say, say_json};

/// Render failed frames of a job once more, under its number; finished ones stay
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  framecrew retry 7                 all that failed
  framecrew retry 7 -f 13,20-25     only these of them
  framecrew retry 7 --watch         and follow the job until it is over")]
pub(crate) struct Retry {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
    job_id: u64,
    /// Only these frames, as far as they failed, like 1-250,300..400x2 [default: all that failed]
    #[arg(
        short,
        long,
        env = "FRAMECREW_RETRY_FRAMES",
        allow_hyphen_values = true,
        value_name = "FRAMES"
    )]
    frames: Option<FrameSet>,
    /// Follow the job afterwards, until it is over
    #[arg(long, env = "FRAMECREW_RETRY_WATCH", value_parser = FalseyValueParser::new())]
    watch: bool,
}

impl Retry {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job_id = self.job_id;
        let answer = cluster.retry(job_id, self.frames.as_ref()).await?;
        let job = answer.job.clone().unwrap_or_default();
        if answer.reopened == 0 {
            let failed = job.counts.unwrap_or_default().failed;
            return Err(Failure::usage(match &self.frames {
                Some(frames) if failed > 0 => format!(
                    "of job {job_id}, none of the frames {frames} has failed; `{}` tells which have",
                    again(&cluster, &format!("job {job_id}"))
                ),
                _ => format!("job {job_id} is {} and has no failed frames", words::state(&job)),
            }));
        }
        if global.json {
            say_json(&answer)?;
        } else {
            let is = if answer.reopened == 1 { "is" } else { "are" };
            let watch = again(&cluster, &format!("watch {job_id}"));
            let next =
                if self.watch { String::new() } else { format!("; follow it with `{watch}`") };
            say(format_args!(
                "{} of job {job_id} {is} rendered once more{next}",
                words::frames(answer.reopened)
            ))?;
        }
        if self.watch {
            return watch::follow(&cluster, job_id, global.json).await;
        }
        Ok(Exit::Success)
    }
}
