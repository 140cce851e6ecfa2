use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use framecrew::{
    Cluster, Error, FrameRange, FrameSet, JobView, OutputFile, WatchEvent,
    contact_sheet::{self, ContactSheet, SheetError},
    proto::{self, FailureReason, FrameState},
    view, words,
};
use futures::StreamExt as _;

use super::{global::Global, jobs::ago, movie::ending};
use crate::console::{Exit, Failure, again, note, paths, say, say_json};

/// Failed frames of each kind that are shown with Blender's last lines; more of them rarely tell more.
const FAILED_SHOWN: usize = 5;
/// Runs of failed frames of each kind that are named.
const RUNS_NAMED_MAX: usize = 20;

/// Show a job: what was asked for, how it stands, what failed and why
#[derive(Debug, Args)]
pub(crate) struct Job {
    /// Number of the job
    #[arg(value_name = "JOB", value_parser = super::global::job_number)]
    job_id: u64,
    /// Lay the small pictures of its frames out on one sheet, as a PNG [default: the job's name with -sheet.png]
    #[arg(long, env = "FRAMECREW_CONTACT_SHEET", value_name = "FILE")]
    contact_sheet: Option<Option<PathBuf>>,
    /// Replace an existing file, including one that Framecrew did not write or that was changed since
    #[arg(long, env = "FRAMECREW_JOB_OVERWRITE", value_parser = clap::builder::FalseyValueParser::new())]
    overwrite: bool,
}

impl Job {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let cluster = global.connect().await?;
        let job = cluster.job(self.job_id).await?;
        let info = job.info();
        let sheet = self.contact_sheet.map(|path| sheet_path(path, info)).transpose()?;
        if global.json {
            say_json(info)?;
        } else {
            show(&cluster, info).await?;
        }
        if let Some(path) = sheet {
            make_sheet(&cluster, self.job_id, &path, self.overwrite, global.json).await?;
        }
        Ok(Exit::Success)
    }
}

async fn show(cluster: &Cluster, job: &proto::Job) -> Result<(), Failure> {
    for (name, value) in facts(job) {
        if !value.is_empty() {
            say(format_args!("{name:<11}{}", words::printable(&value)))?;
        }
    }
    for warning in &job.warnings {
        say(words::warning(warning))?;
    }
    show_failures(cluster, job).await?;
    show_retried(cluster, job).await
}

/// Shows why frames are being retried. The counts do not say so when the failures are not the frames' fault.
async fn show_retried(cluster: &Cluster, job: &proto::Job) -> Result<(), Failure> {
    if job.counts.unwrap_or_default().open == 0 {
        return Ok(());
    }
    // A watch starts with the frames that have trouble, however many others there are.
    let mut watch = cluster.watch(job.job_id);
    let snapshot = loop {
        match watch.next().await {
            Some(Ok(WatchEvent::Update(update))) => break update,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        }
    };
    let mut view = JobView::default();
    view.apply(&snapshot);
    view::retried(&view).into_iter().try_for_each(say)?;
    Ok(())
}

/// Why frames failed, by kind of failure, and what to do about each.
async fn show_failures(cluster: &Cluster, job: &proto::Job) -> Result<(), Failure> {
    let mut left = job.counts.unwrap_or_default().failed;
    if left == 0 {
        return Ok(());
    }
    let mut kinds: BTreeMap<FailureReason, (FrameNames, Vec<proto::Frame>)> = BTreeMap::new();
    let mut pages = std::pin::pin!(cluster.frames(job.job_id));
    while let Some(page) = pages.next().await {
        let failed = |frame: &proto::Frame| frame.state() == FrameState::Failed;
        for frame in page?.into_iter().filter(failed) {
            left = left.saturating_sub(1);
            let reason =
                frame.failure.as_ref().map_or(FailureReason::Unspecified, |it| it.reason());
            let (names, shown) = kinds.entry(reason).or_default();
            names.add(frame.frame);
            if shown.len() < FAILED_SHOWN {
                shown.push(frame);
            }
        }
        if left == 0 {
            break;
        }
    }
    for (reason, (names, shown)) in &kinds {
        let (kind, advice) = (words::failure_reason(*reason), words::failure_advice(*reason));
        say(format_args!("{} failed ({kind}): {names}; {advice}", words::frames(names.count)))?;
        shown.iter().try_for_each(|frame| show_failure(job, frame))?;
    }
    if kinds.keys().any(|reason| *reason != FailureReason::Permanent) {
        let id = job.job_id;
        note(format_args!(
            "render them once more with `{}`; single ones with -f",
            again(cluster, &format!("retry {id}"))
        ));
    }
    Ok(())
}

/// Frames in few words: `13, 20-25 and 7 more`.
#[derive(Debug, Default)]
struct FrameNames {
    count: u64,
    runs: Vec<(i32, i32)>,
    more: u64,
}

impl FrameNames {
    /// The next one, by number.
    fn add(&mut self, frame: i32) {
        self.count += 1;
        if self.more > 0 || self.runs.len() >= RUNS_NAMED_MAX {
            self.more += 1;
            return;
        }
        match self.runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(frame) => *last = frame,
            _ => self.runs.push((frame, frame)),
        }
    }
}

impl fmt::Display for FrameNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges =
            self.runs.iter().filter_map(|(first, last)| FrameRange::new(*first, *last, 1).ok());
        let names: Vec<_> = ranges.map(|range| range.to_string()).collect();
        f.write_str(&names.join(", "))?;
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Where the contact sheet goes.
fn sheet_path(path: Option<PathBuf>, job: &proto::Job) -> Result<PathBuf, Failure> {
    if words::makes_movie(job) {
        let source = job.spec.as_ref().map_or(0, |spec| spec.movie_of_job_id);
        return Err(Failure::usage(format!(
            "job {} makes a movie and has no frames; name job {source}, whose frames they are",
            job.job_id
        )));
    }
    let name = job.spec.as_ref().map_or("", |spec| spec.name.as_str());
    let Some(path) = path else { return Ok(paths::sheet_of(name)) };
    let is_png = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    if path.is_dir() || !is_png {
        return Err(Failure::usage(format!(
            "{} is no file for a contact sheet, which is a PNG; name one that ends in .png",
            path.display()
        )));
    }
    Ok(path)
}

async fn make_sheet(
    cluster: &Cluster,
    job_id: u64,
    path: &Path,
    overwrite: bool,
    json: bool,
) -> Result<(), Failure> {
    let file = OutputFile::open(path).map_err(|error| match error {
        Error::OutputFolder { source, .. } => {
            SheetError::Write { path: path.into(), source }.into()
        }
        error => Failure::from(error),
    })?;
    let made = contact_sheet::make(cluster, job_id, &file.overwriting(overwrite)).await;
    let ContactSheet { frames, shown, unseen } = made?;
    if json {
        return say_json(&serde_json::json!({
            "contactSheet": path, "frames": frames, "shown": shown, "unseen": unseen,
        }));
    }
    say(format_args!("the contact sheet is {}", path.display()))?;
    if shown < frames {
        note(format_args!(
            "it shows {shown} of {frames} frames, at even distances: on more, nothing could be seen"
        ));
    }
    if unseen > 0 {
        let frames = words::frames(unseen as u64);
        note(format_args!("{frames} of it stay grey: there is no picture of them to show"));
    }
    Ok(())
}

fn show_failure(job: &proto::Job, frame: &proto::Frame) -> Result<(), Failure> {
    let failure = frame.failure.clone().unwrap_or_default();
    let tries = words::plural(frame.failed_attempts.into(), "failed attempt");
    say(format_args!(
        "  {} failed on {} after {tries}: {}",
        words::piece(job, frame.frame),
        words::printable(&frame.node),
        words::printable(&failure.message)
    ))?;
    failure
        .log_tail
        .iter()
        .try_for_each(|line| say(format_args!("      {}", words::printable(line))))
}

fn facts(job: &proto::Job) -> Vec<(&'static str, String)> {
    let spec = job.spec.clone().unwrap_or_default();
    let settings = spec.settings.clone().unwrap_or_default();
    let counts = job.counts.unwrap_or_default();
    let ranges = spec.frames.iter().map(|range| FrameRange::try_from(*range));
    let frames = ranges.collect::<Result<_, _>>().and_then(FrameSet::new);
    let file = spec.project.clone().unwrap_or_default().blend_path;
    let mut state = words::state(job).to_owned();
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
        ("movie", movie(job, &spec)),
        ("frames", frames.map_or_else(|_| String::new(), |frames| frames.to_string())),
        ("file", format!("{file} (saved by Blender {})", job.file_version)),
        ("engine", words::engine(settings.engine()).into()),
        ("samples", optional(settings.samples.map(|samples| samples.to_string()))),
        ("scale", optional(settings.scale_percent.map(|percent| format!("{percent} %")))),
        ("format", words::format(settings.format()).into()),
        ("depth", optional(settings.color_depth.map(|bits| format!("{bits} bits a channel")))),
        ("denoise", optional(settings.denoise.map(|on| if on { "on" } else { "off" }.into()))),
        ("scene", settings.scene),
        ("view layer", settings.view_layer),
        ("camera", settings.camera),
        (
            "scripts",
            if settings.run_scripts { "the file's own are run".into() } else { String::new() },
        ),
        (
            "order",
            if settings.in_order {
                "one node draws the frames in order".into()
            } else {
                String::new()
            },
        ),
        (
            "start",
            if settings.cold { "a fresh Blender for each batch".into() } else { String::new() },
        ),
        ("strict", if spec.strict { "a warning fails its frame".into() } else { String::new() }),
        ("blender", settings.blender),
        ("limits", limits(&spec.limits.unwrap_or_default())),
        ("priority", spec.priority.to_string()),
        ("tags", spec.tags.join(", ")),
        ("submitted", ago(job.submitted_at_ms)),
        ("ended", if job.ended_at_ms > 0 { ago(job.ended_at_ms) } else { String::new() }),
    ]
}

/// How long things may take, where the job says so.
fn limits(limits: &proto::TimeLimits) -> String {
    let limits = [
        ("node silence", limits.node_silence_seconds),
        ("frame silence", limits.frame_silence_seconds),
        ("a frame", limits.frame_seconds),
    ];
    let limits = limits.into_iter().filter_map(|(what, seconds)| {
        let time = words::duration(Duration::from_secs(seconds?.into()));
        Some(format!("{what} {time}"))
    });
    limits.collect::<Vec<_>>().join(" · ")
}

/// What the job has to do with a movie; empty: nothing.
fn movie(job: &proto::Job, spec: &proto::JobSpec) -> String {
    match (spec.movie_of_job_id, job.movie_job_id) {
        (0, 0) => match &spec.movie {
            Some(movie) => {
                let ending = ending(movie.format()).unwrap_or_default();
                format!("a .{ending}, once all frames are finished")
            }
            None => String::new(),
        },
        (0, making) => format!("made by job {making}"),
        (source, _) => format!("of the frames of job {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_named_in_few_words() {
        let named = |frames: &[i32]| {
            let mut names = FrameNames::default();
            frames.iter().for_each(|frame| names.add(*frame));
            (names.to_string(), names.count)
        };
        assert_eq!(named(&[13, 20, 21, 22]), ("13, 20-22".into(), 4));
        let every_other: Vec<i32> = (0..50).map(|n| n * 2).collect();
        let (text, count) = named(&every_other);
        assert!(text.ends_with("36, 38 and 30 more"), "{text}");
        assert_eq!(count, 50);
    }
}
