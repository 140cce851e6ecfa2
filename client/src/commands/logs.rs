use clap::Args;
use framecrew::{Error, LogEvent, proto::LogLine, view::words};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use super::Global;
use crate::console::{Exit, Failure, note, of_known_job, say, say_json};

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
        if !self.follow {
            let log = cluster.log(self.job_id, self.frame).await?;
            return show(log, global.json).await;
        }
        let log = cluster.follow_log(self.job_id, self.frame).await?;
        show(log.map_err(of_known_job), global.json).await
    }
}

async fn show(
    log: impl Stream<Item = Result<LogEvent, Error>>,
    json: bool,
) -> Result<Exit, Failure> {
    let mut log = std::pin::pin!(log);
    while let Some(event) = log.next().await {
        match event? {
            LogEvent::Lines { lines, dropped } => {
                if dropped > 0 {
                    note(format_args!("… {} lost to a bound", words::plural(dropped, "line")));
                }
                lines.iter().try_for_each(|line| show_line(line, json))?;
            }
            // Once in each outage.
            LogEvent::Reconnecting { attempt: 1, reason, .. } => {
                note(format_args!("reconnecting … ({})", words::printable(&reason)));
            }
            LogEvent::Reconnecting { .. } => {}
        }
    }
    Ok(Exit::Success)
}

fn show_line(line: &LogLine, json: bool) -> Result<(), Failure> {
    if json {
        return say_json(line);
    }
    let frame = line.frame.map_or_else(|| "-".to_owned(), |frame| frame.to_string());
    let node = words::printable(&line.node);
    say(format_args!("{node} {frame:>5}  {}", words::printable(&line.text)))
}
