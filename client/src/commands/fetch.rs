use std::path::PathBuf;

use clap::Args;
use framecrew::{
    Cluster, FetchProgress, FrameRange, FrameSet, OutputFolder,
    fetch::{self, FetchedMovie},
    proto::{self, JobState},
    words,
};

use super::{
    Global,
    movie::{MovieFile, ending},
};
use crate::console::{
    Exit, Failure, ProgressLine, again, note, note_replaced, paths, say, say_json,
};

/// Bring a job's finished frames into a folder; what is there already is not fetched again
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
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
    /// Bring the movie of the job's frames into this file, instead of the frames
    #[arg(long, env = "FRAMECREW_FETCH_MOVIE", value_parser = MovieFile::parser(), value_name = "FILE")]
    movie: Option<MovieFile>,
    /// Replace existing files, including those that Framecrew did not write or that were changed since
    #[arg(long, env = "FRAMECREW_FETCH_OVERWRITE", value_parser = clap::builder::FalseyValueParser::new())]
    overwrite: bool,
}

impl Fetch {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job = cluster.job(self.job_id).await?;
        let info = job.info();
        if let Some(movie) = &self.movie {
            return bring_movie(&cluster, info, movie, self.overwrite, global.json).await;
        }
        let name = info.spec.as_ref().map_or("", |spec| spec.name.as_str());
        if let Some(wanted) = &self.frames {
            check_frames(self.job_id, info, wanted)?;
        }
        let path = self.output.unwrap_or_else(|| paths::frames_of(name));
        let folder = OutputFolder::open(&path)?.overwriting(self.overwrite);
        let mut so_far = FetchProgress::default();
        let on_progress = |progress| so_far = progress;
        let frames = self.frames.as_ref();
        let done = fetch::fetch(&cluster, self.job_id, &folder, frames, on_progress).await;
        let done = done.inspect_err(|_| note_replaced(so_far.replaced))?;
        if global.json {
            let object = serde_json::json!({
                "folder": path, "fetched": done.fetched, "kept": done.kept, "replaced": done.replaced,
                "bytes": done.bytes,
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
        note_replaced(done.replaced);
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

/// Brings the movie that a job makes, or that is made of its frames.
async fn bring_movie(
    cluster: &Cluster,
    job: &proto::Job,
    movie: &MovieFile,
    overwrite: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let making = check_movie(cluster, job, movie).await?;
    let file = movie.check(overwrite)?;
    let mut line = ProgressLine::default();
    let on_bytes = |done, total| line.show("fetching the movie", done, total);
    let brought = fetch::fetch_movie(cluster, making, &file, on_bytes).await;
    line.clear();
    let FetchedMovie { size_bytes, replaced } = match brought {
        Ok(movie) => movie,
        Err(error) => {
            file.abandon();
            return Err(error.into());
        }
    };
    note_replaced(replaced.into());
    if json {
        let object =
            serde_json::json!({ "movie": movie.path(), "bytes": size_bytes, "replaced": replaced });
        say_json(&object)?;
    } else {
        say(format_args!(
            "the movie is {} ({})",
            movie.path().display(),
            words::bytes(size_bytes)
        ))?;
    }
    Ok(Exit::Success)
}

/// The job that has made the movie.
async fn check_movie(
    cluster: &Cluster,
    job: &proto::Job,
    movie: &MovieFile,
) -> Result<u64, Failure> {
    let id = job.job_id;
    let spec = job.spec.clone().unwrap_or_default();
    if let Some(made) = spec.movie.and_then(|made| ending(made.format()))
        && made != ending(movie.format()).unwrap_or_default()
    {
        return Err(Failure::usage(format!(
            "the movie of job {id} is a .{made}; name its file so"
        )));
    }
    let making = match (words::makes_movie(job), job.movie_job_id) {
        (true, _) => job.clone(),
        (false, 0) => {
            let text = match (spec.movie, job.state()) {
                (None, _) => format!("job {id} makes no movie; render it again with --movie FILE"),
                (_, JobState::Failed | JobState::Cancelled) => format!(
                    "there is no movie of job {id}, as not all of its frames are there; `{}` tells why",
                    again(cluster, &format!("job {id}"))
                ),
                _ => format!(
                    "the movie of job {id} is made once all of its frames are there; `{}` follows it",
                    again(cluster, &format!("watch {id}"))
                ),
            };
            return Err(Failure::usage(text));
        }
        (false, making) => cluster.job(making).await?.info().clone(),
    };
    let making_id = making.job_id;
    let (exit, text) = match making.state() {
        JobState::Finished => return Ok(making_id),
        JobState::Failed | JobState::Cancelled => {
            let job = again(cluster, &format!("job {making_id}"));
            let state = words::job_state(making.state());
            (
                Exit::of_job(making.state()),
                format!(
                    "job {making_id}, which was to make the movie, is {state}; `{job}` tells more"
                ),
            )
        }
        _ => {
            let watch = again(cluster, &format!("watch {making_id}"));
            (
                Exit::Usage,
                format!("job {making_id} has not made the movie yet; `{watch}` follows it"),
            )
        }
    };
    Err(Failure { exit, text })
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
