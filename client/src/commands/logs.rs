use clap::Args;
use framecrew::view::words;
use futures::StreamExt as _;

use super::Global;
use crate::console::{Exit, Failure, note, say, say_json};

/// Show what Blender wrote while it rendered a job
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::job_number)]
    job_id: u64,
    /// Only lines of this frame
    #[arg(short, long, env = "FRAMECREW_FRAME", allow_hyphen_values = true, value_name = "FRAME")]
    frame: Option<i32>,
    /// Go on with new lines until the job is over
    #[arg(long, env = "FRAMECREW_FOLLOW", value_parser = clap::builder::FalseyValueParser::new())]
    follow: bool,
}

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let mut messages = cluster.logs(self.job_id, self.frame, self.follow).await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.dropped > 0 {
                note(format_args!("… {} lost to a bound", words::plural(message.dropped, "line")));
            }
            for line in &message.lines {
                if global.json {
                    say_json(line)?;
                    continue;
                }
                let frame = line.frame.map_or_else(|| "-".to_owned(), |frame| frame.to_string());
                let node = words::printable(&line.node);
                say(format_args!("{node} {frame:>5}  {}", words::printable(&line.text)))?;
            }
        }
        Ok(Exit::Success)
    }
}
