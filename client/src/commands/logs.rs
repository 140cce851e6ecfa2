use clap::Args;
use framecrew::{Error, LogEvent, proto::LogLine, words};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use super::global::Global;
use crate::console::{Exit, Failure, note, of_known_job, say, say_json};

/// Show what Blender wrote while it rendered a job
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
    job_id: u64,
    /// Only lines of this frame
    #[arg(long, env = "FRAMECREW_FRAME", allow_hyphen_values = true, value_name = "FRAME")]
    frame: Option<i32>,
    /// Go on with new lines until the job is over
    #[arg(short, long, env = "FRAMECREW_FOLLOW", value_parser = clap::builder::FalseyValueParser::new())]
    follow: bool,
    // `-f 12` used to name the frame. This argument takes the 12 so that the answer can name the new option.
    #[arg(hide = true, value_name = "FRAME", allow_negative_numbers = true)]
    frame_of_old: Option<String>,
}

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let id = self.job_id;
        if let Some(frame) = &self.frame_of_old {
            return Err(Failure::usage(format!(
                "`framecrew logs {id} --frame {frame}` shows the lines of one frame; -f follows the log"
            )));
        }
        let cluster = global.connect().await?;
        if !self.follow {
            let log = cluster.log(id, self.frame).await?;
            if show(log, global.json).await? == 0 && !global.json {
                note(no_lines(id, self.frame));
            }
            return Ok(Exit::Success);
        }
        let log = cluster.follow_log(self.job_id, self.frame).await?;
        show(log.map_err(of_known_job), global.json).await?;
        Ok(Exit::Success)
    }
}

/// Returns a note that there are no lines, since an empty output would not say why.
fn no_lines(job_id: u64, frame: Option<i32>) -> String {
    let of = frame.map_or_else(|| "it".to_owned(), |frame| format!("frame {frame}"));
    format!(
        "no lines of job {job_id}: Blender has written none for {of} yet, or they are no longer kept; \
         --follow waits for new ones"
    )
}

/// Prints a log and returns the number of lines, including the lost ones.
async fn show(
    log: impl Stream<Item = Result<LogEvent, Error>>,
    json: bool,
) -> Result<u64, Failure> {
    let mut log = std::pin::pin!(log);
    let mut count = 0;
    while let Some(event) = log.next().await {
        match event? {
            LogEvent::Lines { lines, dropped } => {
                if dropped > 0 {
                    note(format_args!("… {} lost to a bound", words::plural(dropped, "line")));
                }
                lines.iter().try_for_each(|line| show_line(line, json))?;
                count += lines.len() as u64 + dropped;
            }
            // Once in each outage.
            LogEvent::Reconnecting { attempt: 1, reason, .. } => {
                note(format_args!("reconnecting … ({})", words::printable(&reason)));
            }
            LogEvent::Reconnecting { .. } => {}
        }
    }
    Ok(count)
}

fn show_line(line: &LogLine, json: bool) -> Result<(), Failure> {
    if json {
        return say_json(line);
    }
    let frame = line.frame.map_or_else(|| "-".to_owned(), |frame| frame.to_string());
    let node = words::printable(&line.node);
    say(format_args!("{node} {frame:>5}  {}", words::printable(&line.text)))
}
