use clap::Args;
use framecrew::{
    FrameRange, FrameSet,
    proto::{self, FrameState},
    view::words,
};
use futures::StreamExt as _;

use super::{Global, jobs::ago};
use crate::console::{Exit, Failure, say, say_json};

/// Failed frames that are shown with their reasons; more of them have the same few reasons.
const FAILED_SHOWN: usize = 20;

/// Show a job: what was asked for, how it stands, what failed and why
#[derive(Debug, Args)]
pub(crate) struct Job {
    /// Number of the job
    #[arg(value_name = "JOB")]
    job_id: u64,
}

impl Job {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job = cluster.job(self.job_id).await?;
        let info = job.info();
        if global.json {
            say_json(info)?;
            return Ok(Exit::Success);
        }
        for (name, value) in facts(info) {
            if !value.is_empty() {
                say(format_args!("{name:<11}{}", words::printable(&value)))?;
            }
        }
        if info.counts.unwrap_or_default().failed > 0 {
            let mut shown = 0;
            let mut pages = std::pin::pin!(cluster.frames(self.job_id));
            while let Some(page) = pages.next().await {
                let failed = |frame: &proto::Frame| frame.state() == FrameState::Failed;
                for frame in page?.into_iter().filter(failed).take(FAILED_SHOWN - shown) {
                    shown += 1;
                    show_failure(&frame)?;
                }
                if shown == FAILED_SHOWN {
                    break;
                }
            }
        }
        Ok(Exit::Success)
    }
}

fn show_failure(frame: &proto::Frame) -> Result<(), Failure> {
    let failure = frame.failure.clone().unwrap_or_default();
    let tries = words::plural(frame.failed_attempts.into(), "failed attempt");
    say(format_args!(
        "frame {} failed on {} after {tries} ({}): {}",
        frame.frame,
        words::printable(&frame.node),
        words::failure_reason(failure.reason()),
        words::printable(&failure.message)
    ))?;
    failure.log_tail.iter().try_for_each(|line| say(format_args!("    {}", words::printable(line))))
}

fn facts(job: &proto::Job) -> Vec<(&'static str, String)> {
    let spec = job.spec.clone().unwrap_or_default();
    let settings = spec.settings.clone().unwrap_or_default();
    let counts = job.counts.unwrap_or_default();
    let ranges = spec.frames.iter().map(|range| FrameRange::try_from(*range));
    let frames = ranges.collect::<Result<_, _>>().and_then(FrameSet::new);
    let file = spec.project.clone().unwrap_or_default().blend_path;
    let mut state = words::job_state(job.state()).to_owned();
    if !job.waiting_reason.is_empty() {
        state += &format!(" · {}", job.waiting_reason);
    }
    let optional = |value: Option<String>| value.unwrap_or_default();
    vec![
        ("job", words::title(job)),
        ("state", state),
        (
            "progress",
            format!(
                "{} of {} finished · {} open · {} failed · {} cancelled",
                counts.finished,
                words::frames(words::total(&counts)),
                counts.open,
                counts.failed,
                counts.cancelled
            ),
        ),
        ("frames", frames.map_or_else(|_| String::new(), |frames| frames.to_string())),
        ("file", format!("{file} (saved by Blender {})", job.file_version)),
        ("engine", words::engine(settings.engine()).into()),
        ("samples", optional(settings.samples.map(|samples| samples.to_string()))),
        ("scale", optional(settings.scale_percent.map(|percent| format!("{percent} %")))),
        ("format", words::format(settings.format()).into()),
        ("denoise", optional(settings.denoise.map(|on| if on { "on" } else { "off" }.into()))),
        ("scene", settings.scene),
        ("camera", settings.camera),
        ("blender", settings.blender),
        ("priority", spec.priority.to_string()),
        ("tags", spec.tags.join(", ")),
        ("submitted", ago(job.submitted_at_ms)),
        ("ended", if job.ended_at_ms > 0 { ago(job.ended_at_ms) } else { String::new() }),
    ]
}
