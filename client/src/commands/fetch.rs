use std::path::PathBuf;

use clap::Args;
use framecrew::{FrameRange, FrameSet, OutputFolder, fetch, proto, view::words};

use super::Global;
use crate::console::{Exit, Failure, again, note, paths, say, say_json};

/// Bring a job's finished frames into a folder; what is there already is not fetched again
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Number of the job
    #[arg(value_name = "JOB")]
    job_id: u64,
    /// Folder for the frames [default: the job's name with -frames]
    #[arg(short, long, env = "FRAMECREW_FETCH_OUTPUT", value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only these frames, like 1-250,300..400x2
    #[arg(
        short,
        long,
        env = "FRAMECREW_FETCH_FRAMES",
        allow_hyphen_values = true,
        value_name = "FRAMES"
    )]
    frames: Option<FrameSet>,
}

impl Fetch {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job = cluster.job(self.job_id).await?;
        let info = job.info();
        let name = info.spec.as_ref().map_or("", |spec| spec.name.as_str());
        if let Some(wanted) = &self.frames {
            check_frames(self.job_id, info, wanted)?;
        }
        let path = self.output.unwrap_or_else(|| paths::frames_of(name));
        let folder = OutputFolder::open(&path)?;
        let done =
            fetch::fetch(&cluster, self.job_id, &folder, self.frames.as_ref(), |_| {}).await?;
        if global.json {
            let object = serde_json::json!({
                "folder": path, "fetched": done.fetched, "kept": done.kept, "bytes": done.bytes,
            });
            say_json(&object)?;
        } else {
            say(format_args!(
                "{} brought ({}), {} there already: {}",
                words::plural(done.fetched, "file"),
                words::bytes(done.bytes),
                done.kept,
                path.display()
            ))?;
        }
        let counts = info.counts.unwrap_or_default();
        if counts.open > 0 {
            note(format_args!(
                "{} of job {} still to come; fetch again later",
                words::frames(counts.open),
                self.job_id
            ));
        }
        let never = [(counts.failed, "failed"), (counts.cancelled, "cancelled")];
        let never = never.iter().filter(|(count, _)| *count > 0);
        let never: Vec<_> = never.map(|(count, what)| format!("{count} {what}")).collect();
        if !never.is_empty() {
            note(format_args!(
                "of job {}, {} will not come; `{}` tells more",
                self.job_id,
                never.join(", "),
                again(&cluster, &format!("job {}", self.job_id))
            ));
        }
        Ok(Exit::Success)
    }
}

/// Refuses frames that the job does not have: each part of what is wanted must name one of its frames.
fn check_frames(job_id: u64, job: &proto::Job, wanted: &FrameSet) -> Result<(), Failure> {
    let ranges = job.spec.iter().flat_map(|spec| &spec.frames);
    let ranges = ranges.map(|range| FrameRange::try_from(*range)).collect::<Result<_, _>>();
    let frames = ranges.and_then(FrameSet::new).map_err(framecrew::Error::from)?;
    let is_strange = |range: &&FrameRange| !range.iter().any(|frame| frames.contains(frame));
    match wanted.ranges().iter().find(is_strange) {
        None => Ok(()),
        Some(range) => Err(Failure {
            exit: Exit::Usage,
            text: format!("job {job_id} has no frame {range}; it has {frames}"),
        }),
    }
}
