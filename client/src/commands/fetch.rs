use std::path::PathBuf;

use clap::Args;
use framecrew::{FrameSet, OutputFolder, fetch, view::words};

use super::Global;
use crate::console::{Exit, Failure, note, paths, say, say_json};

/// Bring a job's finished frames into a folder; what is there already is not fetched again
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Number of the job
    #[arg(value_name = "JOB")]
    job_id: u64,
    /// Folder for the frames [default: the job's name with -frames]
    #[arg(short, long, env = "FRAMECREW_OUTPUT", value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only these frames, like 1-250,300..400x2
    #[arg(
        short,
        long,
        env = "FRAMECREW_FRAMES",
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
        let open = info.counts.unwrap_or_default().open;
        if open > 0 {
            note(format_args!(
                "{} of job {} still to come; fetch again later",
                words::frames(open),
                self.job_id
            ));
        }
        Ok(Exit::Success)
    }
}
