//! Between the protocol and the domain. What comes in is checked here, all faults of a request at once, and
//! nowhere else.

use std::{ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use framecrew_blobs::{Digest, check_paths};
use framecrew_proto::v1 as wire;

use crate::{
    domain::{
        Blender, BlenderVersion, Chunk, Failure, FailureReason, Frame, FrameCounts, FrameRange,
        FrameSet, FrameState, JobId, JobSpec, JobState, MovieOf, NodeDescription, Output, Preview,
        Project, ProjectFile, RenderSettings, Rendered, Slice, TimeLimits, Warning,
    },
    driver::{Adoption, BatchNews},
    feed::{ActiveSlice, NodeState, NodeView, Progress},
    movie,
    service::faults::Faults,
    store::{JobRecord, JobStanding, LogRecord},
};

/// Characters in a job's name.
const NAME_MAX: usize = 200;
/// Characters in the names of nodes and tags.
const SHORT_NAME_MAX: usize = 100;
/// Bytes in the names of scenes, cameras and view layers: what Blender's longest names have.
const BLENDER_NAME_BYTES_MAX: usize = 255;
/// Characters in a request's id.
const REQUEST_ID_MAX: usize = 64;
/// Files in a project.
const FILES_MAX: usize = 100_000;
/// Chunks of a file.
const CHUNKS_MAX: usize = 65_536;
/// Blobs that the files of a project come in, all together: 2 TB in chunks of 4 MiB.
const BLOBS_MAX: usize = 500_000;
/// Ranges in a job's frames: enough for any list that a person makes.
const RANGES_MAX: usize = 10_000;
/// Tags of a job or a node.
const TAGS_MAX: usize = 32;
/// Maximum number of add-ons of a job.
const ADDONS_MAX: usize = 16;
/// Frames that a node hands in at once; the protocol says so.
const ORPHANS_MAX: usize = 512;
/// Slots of a node; the protocol says so.
const SLOTS_MAX: u32 = 64;
/// Blenders of a node.
const BLENDERS_MAX: usize = 64;

/// Bytes in a line that a renderer wrote; the protocol says so.
const LINE_BYTES_MAX: usize = 2_000;
/// Lines in a failure's log tail; the protocol says so.
const LOG_TAIL_MAX: usize = 20;
/// Lines that one message may say were dropped: more than a renderer writes in a day.
const DROPPED_MAX: u64 = 1 << 32;
/// Files that a frame produced: more than the views and File Output nodes of any scene we know write.
const OUTPUTS_MAX: usize = 1_000;
/// Bytes of a preview; the protocol says so.
const PREVIEW_BYTES_MAX: usize = 32_768;
/// Width and height of a preview in pixels; the protocol says so.
const PREVIEW_PIXELS_MAX: u32 = 256;
/// From the cluster's lease to a day.
const NODE_SILENCE_SECONDS: RangeInclusive<u32> = 15..=86_400;
/// Up to a day without a line of a renderer.
const FRAME_SILENCE_SECONDS: RangeInclusive<u32> = 10..=86_400;
/// Up to thirty days for a frame.
const FRAME_SECONDS: RangeInclusive<u32> = 1..=2_592_000;
/// Bytes in a warning's text; the protocol says so.
const WARNING_BYTES_MAX: usize = 500;

impl Faults {
    fn text(&mut self, field: &str, text: &str, max: usize) {
        let chars = text.chars().count();
        if chars == 0 || chars > max {
            self.add(field, format!("must have 1 to {max} characters, has {chars}"));
        } else if text.chars().any(char::is_control) {
            self.add(field, "must not have control characters");
        }
    }

    fn tags(&mut self, field: &str, tags: &[String]) {
        if tags.len() > TAGS_MAX {
            self.add(field, format!("has {} tags, {TAGS_MAX} at most", tags.len()));
        }
        for (n, tag) in tags.iter().take(TAGS_MAX).enumerate() {
            self.text(&format!("{field}[{n}]"), tag, SHORT_NAME_MAX);
        }
    }
}

/// A job as submitted. `None` only with faults; the request is good only without any.
pub(crate) fn job_spec(spec: wire::JobSpec, faults: &mut Faults) -> Option<JobSpec> {
    faults.text("spec.name", &spec.name, NAME_MAX);
    if !(-100..=100).contains(&spec.priority) {
        faults.add("spec.priority", format!("must be -100 to 100, is {}", spec.priority));
    }
    faults.tags("spec.tags", &spec.tags);
    let frames = frame_set("spec.frames", &spec.frames, faults);
    let project = match spec.project {
        Some(project) => parse_project(project, faults),
        None => {
            faults.add("spec.project", "is missing");
            None
        }
    };
    let settings = parse_settings(spec.settings.unwrap_or_default(), faults);
    let limits = parse_limits(spec.limits.unwrap_or_default(), faults);
    if spec.movie_of_job_id != 0 {
        faults.add("spec.movie_of_job_id", "is set by the orchestrator alone: leave it 0");
    }
    if let Some(project) = &project {
        check_named_files(&settings, project, faults);
    }
    if let Some(wanted) = &spec.movie {
        check_movie(wanted, settings.format, project.as_ref(), frames.as_ref(), faults);
    }
    Some(JobSpec {
        name: spec.name,
        project: project?,
        frames: if settings.in_order { frames?.in_order() } else { frames? },
        settings,
        priority: spec.priority,
        tags: spec.tags,
        strict: spec.strict,
        movie: spec.movie.map(|movie| movie.format),
        movie_of: None,
        limits,
    })
}

/// Reports settings that name files which are not in the project.
fn check_named_files(settings: &RenderSettings, project: &Project, faults: &mut Faults) {
    let is_there = |path: &str| project.files.iter().any(|file| file.path == path);
    let fault = |path: &str| format!("`{path}` is not one of the project's files");
    let config = &settings.color_config;
    if !config.is_empty() && !is_there(config) {
        faults.add("spec.settings.color_config", fault(config));
    }
    if settings.addons.len() > ADDONS_MAX {
        let message = format!("has {} add-ons, {ADDONS_MAX} at most", settings.addons.len());
        faults.add("spec.settings.addons", message);
        return;
    }
    for (n, addon) in settings.addons.iter().enumerate().filter(|(_, addon)| !is_there(addon)) {
        faults.add(format!("spec.settings.addons[{n}]"), fault(addon));
    }
}

fn parse_limits(limits: wire::TimeLimits, faults: &mut Faults) -> TimeLimits {
    let mut check = |field, value: Option<u32>, range: RangeInclusive<u32>| {
        if let Some(seconds) = value.filter(|seconds| !range.contains(seconds)) {
            let (first, last) = (range.start(), range.end());
            let message = format!("must be {first} to {last} seconds, is {seconds}");
            faults.add(format!("spec.limits.{field}"), message);
        }
        value
    };
    TimeLimits {
        node_silence_seconds: check(
            "node_silence_seconds",
            limits.node_silence_seconds,
            NODE_SILENCE_SECONDS,
        ),
        frame_silence_seconds: check(
            "frame_silence_seconds",
            limits.frame_silence_seconds,
            FRAME_SILENCE_SECONDS,
        ),
        frame_seconds: check("frame_seconds", limits.frame_seconds, FRAME_SECONDS),
    }
}

fn check_movie(
    wanted: &wire::Movie,
    frames_format: i32,
    project: Option<&Project>,
    frames: Option<&FrameSet>,
    faults: &mut Faults,
) {
    use wire::{ImageFormat, MovieFormat};
    const FIELD: &str = "spec.movie";
    if MovieFormat::try_from(wanted.format).map_or(true, |it| it == MovieFormat::Unspecified) {
        faults.add(format!("{FIELD}.format"), format!("{} is no movie format", wanted.format));
    }
    if let Ok(ImageFormat::OpenExr | ImageFormat::OpenExrMultilayer) = frames_format.try_into() {
        let message = "is made of frames with 8 or 16 bits a channel, not of OpenEXR: choose \
                       another format for the frames, or leave the movie out";
        faults.add(FIELD, message);
    }
    let (Some(project), Some(frames)) = (project, frames) else { return };
    let (files, frames) = (project.files.len() as u64, frames.len());
    if files + frames > FILES_MAX as u64 {
        let message = format!(
            "is made by a job whose project has the {files} files and the {frames} frames of this one: \
             {FILES_MAX} together at most"
        );
        faults.add(FIELD, message);
    }
    let taken = project.files.iter().enumerate().filter(|(_, f)| movie::is_in_folder(&f.path));
    for (n, _) in taken {
        let message = format!("is in {}, where the movie's frames will be", MovieOf::FOLDER);
        faults.add(format!("spec.project.files[{n}].path"), message);
    }
}

fn frame_set(field: &str, ranges: &[wire::FrameRange], faults: &mut Faults) -> Option<FrameSet> {
    if ranges.is_empty() {
        faults.add(field, "is empty: name at least one frame");
        return None;
    }
    if ranges.len() > RANGES_MAX {
        faults.add(field, format!("has {} ranges, {RANGES_MAX} at most", ranges.len()));
        return None;
    }
    let mut checked = Vec::with_capacity(ranges.len());
    for (n, &wire::FrameRange { first, last, step }) in ranges.iter().enumerate() {
        if first > last {
            let message = format!("is reversed: {first} lies after {last}");
            faults.add(format!("{field}[{n}]"), message);
        } else if step == 0 {
            faults.add(format!("{field}[{n}].step"), "must be 1 or more, is 0");
        } else {
            checked.push(FrameRange { first, last, step });
        }
    }
    if checked.len() < ranges.len() {
        return None;
    }
    let frames: u64 = checked.iter().map(FrameRange::len).sum();
    if frames > FrameSet::FRAMES_MAX {
        faults.add(field, format!("has {frames} frames, {} at most", FrameSet::FRAMES_MAX));
        return None;
    }
    let set = FrameSet::new(checked);
    if set.is_none() {
        faults.add(field, "names a frame twice");
    }
    set
}

/// Frames of a job to be tried again; `None`: all that failed. Those that the job does not have are faults.
pub(crate) fn frames_to_retry(
    ranges: &[wire::FrameRange],
    of_job: &FrameSet,
    faults: &mut Faults,
) -> Option<FrameSet> {
    const FIELD: &str = "frames";
    if ranges.is_empty() {
        return None;
    }
    let frames = frame_set(FIELD, ranges, faults)?;
    let mut has: Vec<i32> = of_job.iter().collect();
    has.sort_unstable();
    for (n, range) in frames.ranges().iter().enumerate() {
        if let Some(frame) = range.iter().find(|frame| has.binary_search(frame).is_err()) {
            faults.add(format!("{FIELD}[{n}]"), format!("the job has no frame {frame}"));
        }
    }
    Some(frames)
}

/// Finished frames that a node has, each with its job; good only without faults.
pub(crate) fn orphaned_frames(
    frames: Vec<wire::OrphanedFrame>,
    faults: &mut Faults,
) -> Vec<(JobId, Slice, Rendered)> {
    if frames.len() > ORPHANS_MAX {
        faults.add("frames", format!("are {}, {ORPHANS_MAX} at most", frames.len()));
        return Vec::new();
    }
    let mut orphans = Vec::with_capacity(frames.len());
    for (n, wire::OrphanedFrame { job_id, finished }) in frames.into_iter().enumerate() {
        let field = format!("frames[{n}]");
        if !(1..=i64::MAX as u64).contains(&job_id) {
            faults
                .add(format!("{field}.job_id"), format!("must be 1 to {}, is {job_id}", i64::MAX));
        }
        let Some(finished) = finished else {
            faults.add(format!("{field}.finished"), "is missing");
            continue;
        };
        let slice = finished.slice.as_ref().map(slice);
        if slice.is_none() {
            faults.add(format!("{field}.finished.slice"), "is missing");
        }
        match (slice, parse_finished(finished)) {
            (_, Err(fault)) => faults.add(format!("{field}.finished.outputs"), fault),
            (Some(slice), Ok(rendered)) => orphans.push((JobId(job_id), slice, rendered)),
            (None, Ok(_)) => {}
        }
    }
    orphans
}

fn parse_project(project: wire::Project, faults: &mut Faults) -> Option<Project> {
    const FIELD: &str = "spec.project.files";
    if project.files.is_empty() || project.files.len() > FILES_MAX {
        let message = format!("must have 1 to {FILES_MAX} files, has {}", project.files.len());
        faults.add(FIELD, message);
        return None;
    }
    for (n, fault) in check_paths(project.files.iter().map(|file| &*file.path)) {
        faults.add(format!("{FIELD}[{n}].path"), fault.to_string());
    }
    let blobs: usize = project.files.iter().map(|file| file.chunks.len().max(1)).sum();
    if blobs > BLOBS_MAX {
        faults.add(FIELD, format!("come in {blobs} blobs, {BLOBS_MAX} at most"));
        return None;
    }
    let mut files = Vec::with_capacity(project.files.len());
    for (n, file) in project.files.iter().enumerate() {
        let digest = faults.digest(format!("{FIELD}[{n}].digest"), &file.digest);
        let chunks = parse_chunks(&format!("{FIELD}[{n}]"), file, faults);
        if let (Some(digest), Some(chunks)) = (digest, chunks) {
            let (path, size_bytes) = (file.path.clone(), file.size_bytes);
            files.push(ProjectFile { path, digest, size_bytes, chunks });
        }
    }
    if !project.files.iter().any(|file| file.path == project.blend_path) {
        faults.add("spec.project.blend_path", "is not one of the project's files");
        return None;
    }
    Some(Project { blend_path: project.blend_path, files })
}

fn parse_chunks(field: &str, file: &wire::ProjectFile, faults: &mut Faults) -> Option<Vec<Chunk>> {
    if file.chunks.len() > CHUNKS_MAX {
        let fault = format!("has {} chunks, {CHUNKS_MAX} at most", file.chunks.len());
        faults.add(format!("{field}.chunks"), fault);
        return None;
    }
    let mut chunks = Vec::with_capacity(file.chunks.len());
    let mut sum_bytes: u64 = 0;
    for (n, chunk) in file.chunks.iter().enumerate() {
        if chunk.size_bytes == 0 {
            faults.add(format!("{field}.chunks[{n}].size_bytes"), "must be 1 or more, is 0");
        }
        sum_bytes = sum_bytes.saturating_add(chunk.size_bytes);
        let digest = faults.digest(format!("{field}.chunks[{n}].digest"), &chunk.digest)?;
        chunks.push(Chunk { digest, size_bytes: chunk.size_bytes });
    }
    if !chunks.is_empty() && sum_bytes != file.size_bytes {
        let fault = format!("is {}, but its chunks have {sum_bytes} bytes", file.size_bytes);
        faults.add(format!("{field}.size_bytes"), fault);
    }
    Some(chunks)
}

fn parse_settings(settings: wire::RenderSettings, faults: &mut Faults) -> RenderSettings {
    const FIELD: &str = "spec.settings";
    for (field, text) in [
        ("scene", &settings.scene),
        ("camera", &settings.camera),
        ("view_layer", &settings.view_layer),
    ] {
        if text.len() > BLENDER_NAME_BYTES_MAX {
            let message =
                format!("must have {BLENDER_NAME_BYTES_MAX} bytes at most, has {}", text.len());
            faults.add(format!("{FIELD}.{field}"), message);
        } else if !text.is_empty() {
            faults.text(&format!("{FIELD}.{field}"), text, BLENDER_NAME_BYTES_MAX);
        }
    }
    if wire::RenderEngine::try_from(settings.engine).is_err() {
        faults.add(format!("{FIELD}.engine"), format!("{} is no engine", settings.engine));
    }
    if wire::ImageFormat::try_from(settings.format).is_err() {
        faults.add(format!("{FIELD}.format"), format!("{} is no image format", settings.format));
    }
    if let Some(samples) = settings.samples
        && !(1..=1_000_000).contains(&samples)
    {
        faults.add(format!("{FIELD}.samples"), format!("must be 1 to 1,000,000, is {samples}"));
    }
    if let Some(percent) = settings.scale_percent
        && !(1..=1_000).contains(&percent)
    {
        faults.add(format!("{FIELD}.scale_percent"), format!("must be 1 to 1,000, is {percent}"));
    }
    if let Some(depth) = settings.color_depth
        && !matches!(depth, 8 | 10 | 12 | 16 | 32)
    {
        let message = format!("must be 8, 10, 12, 16 or 32 bits, is {depth}");
        faults.add(format!("{FIELD}.color_depth"), message);
    }
    let blender = if settings.blender.is_empty() {
        None
    } else {
        let version = settings.blender.parse::<BlenderVersion>().ok();
        if version.is_none() {
            let message = format!("\"{}\" is no version; write 4.5 or 4.5.15", settings.blender);
            faults.add(format!("{FIELD}.blender"), message);
        }
        version
    };
    RenderSettings {
        scene: settings.scene,
        camera: settings.camera,
        engine: settings.engine,
        samples: settings.samples,
        scale_percent: settings.scale_percent,
        format: settings.format,
        denoise: settings.denoise,
        blender,
        view_layer: settings.view_layer,
        color_depth: settings.color_depth,
        run_scripts: settings.run_scripts,
        color_config: settings.color_config,
        addons: settings.addons,
        cold: settings.cold,
        in_order: settings.in_order,
    }
}

pub(crate) fn adoption_to_wire(adoption: Adoption) -> wire::Adoption {
    match adoption {
        Adoption::Adopted => wire::Adoption::Adopted,
        Adoption::Unwanted => wire::Adoption::Unwanted,
        Adoption::BlobsMissing => wire::Adoption::BlobsMissing,
    }
}

/// Checks a node's name.
pub(crate) fn node_name(name: &str, faults: &mut Faults) {
    faults.text("name", name, SHORT_NAME_MAX);
}

/// Checks a request's id.
pub(crate) fn request_id(request_id: &str, faults: &mut Faults) {
    faults.text("request_id", request_id, REQUEST_ID_MAX);
    if request_id.starts_with(movie::REQUEST_PREFIX) {
        let message =
            format!("must not begin with {}, as the orchestrator's own do", movie::REQUEST_PREFIX);
        faults.add("request_id", message);
    }
}

pub(crate) fn node_description(
    description: Option<wire::NodeDescription>,
    faults: &mut Faults,
) -> Option<NodeDescription> {
    let Some(description) = description else {
        faults.add("description", "is missing");
        return None;
    };
    if !(1..=SLOTS_MAX).contains(&description.slots) {
        let message = format!("must be 1 to {SLOTS_MAX}, is {}", description.slots);
        faults.add("description.slots", message);
    }
    // None: it is still looking for them.
    if description.blenders.len() > BLENDERS_MAX {
        let message = format!("must be {BLENDERS_MAX} at most, are {}", description.blenders.len());
        faults.add("description.blenders", message);
    }
    faults.tags("description.tags", &description.tags);
    let mut blenders = Vec::new();
    for (n, blender) in description.blenders.into_iter().enumerate().take(BLENDERS_MAX) {
        let version = match wire::BlenderKind::try_from(blender.kind) {
            Ok(wire::BlenderKind::Synthetic) => None,
            // The node is still finding out which version it is.
            _ if blender.version.is_empty() && !blender.unusable.is_empty() => None,
            _ => match blender.version.parse() {
                Ok(version) => Some(version),
                Err(_) => {
                    let message = format!("\"{}\" is no version", blender.version);
                    faults.add(format!("description.blenders[{n}].version"), message);
                    continue;
                }
            },
        };
        blenders.push(Blender {
            version,
            kind: blender.kind,
            path: blender.path,
            unusable: shortened(&blender.unusable),
        });
    }
    Some(NodeDescription {
        platform: description.platform,
        cores: description.cores,
        memory_bytes: description.memory_bytes,
        slots: description.slots,
        blenders,
        tags: description.tags,
        version: description.version,
        ffmpeg: description.ffmpeg,
        allows_scripts: description.allows_scripts,
        confines: description.confines,
    })
}

pub(crate) fn slice(wire: &wire::Slice) -> Slice {
    Slice { frame: wire.frame, index: wire.index }
}

/// An event of a node that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidEvent {
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// What a node says; `None` for what a later version of it may say.
pub(crate) fn batch_news(event: wire::BatchEvent) -> Result<Option<BatchNews>, InvalidEvent> {
    use wire::batch_event::Event;
    let slice = |wire: Option<wire::Slice>| {
        wire.as_ref().map(slice).ok_or(InvalidEvent::Missing("a slice"))
    };
    let event_sequence = event.sequence;
    let Some(event) = event.event else { return Ok(None) };
    Ok(Some(match event {
        Event::Started(started) => BatchNews::Started(slice(started.slice)?),
        Event::Progress(progress) => BatchNews::Progress(
            slice(progress.slice)?,
            Progress {
                samples_done: progress.samples_done,
                samples_total: progress.samples_total,
                fraction: progress.fraction.filter(|fraction| (0.0..=1.0).contains(fraction)),
                remaining_seconds: progress.remaining_seconds.filter(|seconds| *seconds >= 0.0),
                memory_bytes: progress.memory_bytes,
            },
        ),
        Event::Finished(finished) => {
            let slice = slice(finished.slice)?;
            match parse_finished(finished) {
                Ok(rendered) => BatchNews::Finished(slice, rendered),
                Err(message) => {
                    let reason = FailureReason::InvalidOutput;
                    BatchNews::Failed(slice, Failure { reason, message, log_tail: Vec::new() })
                }
            }
        }
        Event::Failed(failed) => {
            let slice = slice(failed.slice)?;
            let failure = failed.failure.ok_or(InvalidEvent::Missing("a failure"))?;
            BatchNews::Failed(
                slice,
                Failure {
                    reason: failure_reason(failure.reason()),
                    message: shortened(&failure.message),
                    log_tail: failure
                        .log_tail
                        .iter()
                        .take(LOG_TAIL_MAX)
                        .map(|l| shortened(l))
                        .collect(),
                },
            )
        }
        Event::Log(log) => BatchNews::Log {
            sequence: event_sequence,
            lines: log.lines.iter().map(|line| (line.frame, shortened(&line.text))).collect(),
            dropped: log.dropped.min(DROPPED_MAX),
        },
        Event::Warning(warning) => match parse_warning(&warning) {
            Some(warning) => BatchNews::Warning(warning),
            None => return Ok(None),
        },
        Event::Ended(_) => BatchNews::Ended,
    }))
}

/// What a finished frame came to. A fault is told in a sentence.
fn parse_finished(finished: wire::SliceFinished) -> Result<Rendered, String> {
    let seconds = finished.render_seconds;
    Ok(Rendered {
        outputs: parse_outputs(finished.outputs)?,
        render_seconds: if seconds.is_finite() { seconds.max(0.0) } else { 0.0 },
        peak_memory_bytes: finished.peak_memory_bytes,
        preview: finished.preview.and_then(parse_preview),
    })
}

/// What a frame produced. A fault is told in a sentence: the frame is not taken then.
fn parse_outputs(outputs: Vec<wire::Output>) -> Result<Vec<Output>, String> {
    if outputs.is_empty() || outputs.len() > OUTPUTS_MAX {
        let count = outputs.len();
        return Err(format!("a finished frame has 1 to {OUTPUTS_MAX} outputs, not {count}"));
    }
    // They become files under these names, in one folder.
    let faults = check_paths(outputs.iter().map(|output| &*output.name));
    if let Some((n, fault)) = faults.first() {
        return Err(format!("the name of output {n}, {:?}, {fault}", shortened(&outputs[*n].name)));
    }
    let parse = |output: wire::Output| {
        let digest: Digest =
            output.digest.parse().map_err(|error| format!("output {}: {error}", output.name))?;
        Ok(Output {
            digest,
            name: output.name,
            size_bytes: output.size_bytes,
            width: output.width,
            height: output.height,
            channels: output.channels,
        })
    };
    outputs.into_iter().map(parse).collect()
}

/// A frame's preview; `None` where it is not what it says: the frame is good without it.
fn parse_preview(preview: wire::Preview) -> Option<Preview> {
    let wire::Preview { digest, size_bytes, width, height, data } = preview;
    let is_sound = (1..=PREVIEW_BYTES_MAX).contains(&data.len())
        && size_bytes == data.len() as u64
        && [width, height].iter().all(|side| (1..=PREVIEW_PIXELS_MAX).contains(side))
        && digest.parse() == Ok(Digest::of(&data));
    // A copy: a slice of the message would keep all of it in memory.
    let data = Bytes::copy_from_slice(&data);
    is_sound.then(|| Preview { digest: Digest::of(&data), size_bytes, width, height, data })
}

/// A warning in one line of bounded length; `None` where nothing is said.
fn parse_warning(warning: &wire::Warning) -> Option<Warning> {
    let spaced = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = warning.text.chars().map(spaced).take(WARNING_BYTES_MAX).collect();
    let text = text[..text.floor_char_boundary(WARNING_BYTES_MAX)].trim();
    // A kind that only a later version of the node knows is none.
    let kind = wire::WarningKind::try_from(warning.kind).unwrap_or_default();
    (!text.is_empty()).then(|| Warning { kind: kind.into(), text: text.to_owned() })
}

/// A line of a node, with no more bytes than the protocol says.
fn shortened(line: &str) -> String {
    line[..line.floor_char_boundary(LINE_BYTES_MAX)].to_owned()
}

fn failure_reason(reason: wire::FailureReason) -> FailureReason {
    use wire::FailureReason as Wire;
    match reason {
        Wire::Renderer | Wire::Unspecified => FailureReason::Renderer,
        Wire::InvalidOutput => FailureReason::InvalidOutput,
        Wire::Timeout => FailureReason::Timeout,
        Wire::OutOfMemory => FailureReason::OutOfMemory,
        Wire::NodeLost => FailureReason::NodeLost,
        Wire::Infrastructure => FailureReason::Infrastructure,
        Wire::Permanent => FailureReason::Permanent,
    }
}

fn failure_to_wire(failure: &Failure) -> wire::Failure {
    use wire::FailureReason as Wire;
    let reason = match failure.reason {
        FailureReason::Renderer => Wire::Renderer,
        FailureReason::InvalidOutput => Wire::InvalidOutput,
        FailureReason::Timeout => Wire::Timeout,
        FailureReason::OutOfMemory => Wire::OutOfMemory,
        FailureReason::NodeLost => Wire::NodeLost,
        FailureReason::Infrastructure => Wire::Infrastructure,
        FailureReason::Permanent => Wire::Permanent,
    };
    wire::Failure {
        reason: reason.into(),
        message: failure.message.clone(),
        log_tail: failure.log_tail.clone(),
    }
}

pub(crate) fn project_to_wire(project: &Project) -> wire::Project {
    wire::Project {
        blend_path: project.blend_path.clone(),
        files: project
            .files
            .iter()
            .map(|file| wire::ProjectFile {
                path: file.path.clone(),
                digest: file.digest.to_string(),
                size_bytes: file.size_bytes,
                chunks: file
                    .chunks
                    .iter()
                    .map(|chunk| wire::Chunk {
                        digest: chunk.digest.to_string(),
                        size_bytes: chunk.size_bytes,
                    })
                    .collect(),
            })
            .collect(),
    }
}

pub(crate) fn settings_to_wire(settings: &RenderSettings) -> wire::RenderSettings {
    wire::RenderSettings {
        scene: settings.scene.clone(),
        camera: settings.camera.clone(),
        engine: settings.engine,
        samples: settings.samples,
        scale_percent: settings.scale_percent,
        format: settings.format,
        denoise: settings.denoise,
        blender: settings.blender.map(|version| version.to_string()).unwrap_or_default(),
        view_layer: settings.view_layer.clone(),
        color_depth: settings.color_depth,
        run_scripts: settings.run_scripts,
        color_config: settings.color_config.clone(),
        addons: settings.addons.clone(),
        cold: settings.cold,
        in_order: settings.in_order,
    }
}

fn spec_to_wire(spec: &JobSpec, with_project: bool) -> wire::JobSpec {
    wire::JobSpec {
        name: spec.name.clone(),
        project: with_project.then(|| project_to_wire(&spec.project)),
        frames: spec.frames.ranges().iter().map(range_to_wire).collect(),
        settings: Some(settings_to_wire(&spec.settings)),
        priority: spec.priority,
        tags: spec.tags.clone(),
        strict: spec.strict,
        movie: spec.movie.map(|format| wire::Movie { format }),
        movie_of_job_id: spec.movie_of.as_ref().map_or(0, |movie| movie.job.0),
        limits: Some(limits_to_wire(spec.limits)),
    }
}

/// The movie that a job makes, if it makes one.
pub(crate) fn encoding_to_wire(spec: &JobSpec) -> Option<wire::Encoding> {
    let movie = spec.movie_of.as_ref()?;
    Some(wire::Encoding {
        format: spec.movie?,
        name: movie::file_name(&spec.name),
        frames_folder: MovieOf::FOLDER.into(),
        frames: movie.frames.ranges().iter().map(range_to_wire).collect(),
    })
}

pub(crate) fn limits_to_wire(limits: TimeLimits) -> wire::TimeLimits {
    wire::TimeLimits {
        node_silence_seconds: limits.node_silence_seconds,
        frame_silence_seconds: limits.frame_silence_seconds,
        frame_seconds: limits.frame_seconds,
    }
}

pub(crate) fn range_to_wire(range: &FrameRange) -> wire::FrameRange {
    wire::FrameRange { first: range.first, last: range.last, step: range.step }
}

/// How much of a job's spec a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpecDetail {
    Whole,
    WithoutProject,
    Nothing,
}

pub(crate) fn job_to_wire(
    record: &JobRecord,
    detail: SpecDetail,
    waiting_reason: String,
) -> wire::Job {
    let JobStanding { state, counts, revision, started_at_ms, ended_at_ms, warnings, movie_job } =
        &record.standing;
    let FrameCounts { open, finished, failed, cancelled } = *counts;
    wire::Job {
        job_id: record.job.0,
        spec: match detail {
            SpecDetail::Whole => Some(spec_to_wire(&record.spec, true)),
            SpecDetail::WithoutProject => Some(spec_to_wire(&record.spec, false)),
            SpecDetail::Nothing => None,
        },
        state: match state {
            JobState::Queued => wire::JobState::Queued,
            JobState::Rendering => wire::JobState::Rendering,
            JobState::Finished => wire::JobState::Finished,
            JobState::Failed => wire::JobState::Failed,
            JobState::Cancelled => wire::JobState::Cancelled,
        }
        .into(),
        counts: Some(wire::FrameCounts { open, finished, failed, cancelled }),
        revision: *revision,
        submitted_at_ms: record.submitted_at_ms,
        started_at_ms: *started_at_ms,
        ended_at_ms: *ended_at_ms,
        file_version: record.file_version.to_string(),
        waiting_reason,
        warnings: warnings
            .iter()
            .map(|Warning { kind, text }| wire::Warning { kind: *kind, text: text.clone() })
            .collect(),
        movie_job_id: movie_job.map_or(0, |job| job.0),
    }
}

pub(crate) fn frame_state_to_wire(state: FrameState) -> wire::FrameState {
    match state {
        FrameState::Open => wire::FrameState::Open,
        FrameState::Finished => wire::FrameState::Finished,
        FrameState::Failed => wire::FrameState::Failed,
        FrameState::Cancelled => wire::FrameState::Cancelled,
    }
}

/// A frame, and its preview's bytes where they are at hand.
pub(crate) fn frame_to_wire(frame: &Frame, preview_data: Bytes) -> wire::Frame {
    let rendered = frame.rendered.as_ref();
    wire::Frame {
        frame: frame.frame,
        state: frame_state_to_wire(frame.state).into(),
        revision: frame.revision,
        failed_attempts: frame.attempts.total(),
        outputs: rendered.map_or_else(Vec::new, |rendered| {
            let outputs = rendered.outputs.iter().map(|output| wire::Output {
                name: output.name.clone(),
                digest: output.digest.to_string(),
                size_bytes: output.size_bytes,
                width: output.width,
                height: output.height,
                channels: output.channels,
            });
            outputs.collect()
        }),
        failure: frame.failure.as_ref().map(failure_to_wire),
        node: frame.node.as_ref().map(Arc::<str>::to_string).unwrap_or_default(),
        render_seconds: rendered.map_or(0.0, |rendered| rendered.render_seconds),
        peak_memory_bytes: rendered.map_or(0, |rendered| rendered.peak_memory_bytes),
        preview: rendered.and_then(|rendered| rendered.preview.as_ref()).map(|preview| {
            wire::Preview {
                digest: preview.digest.to_string(),
                size_bytes: preview.size_bytes,
                width: preview.width,
                height: preview.height,
                data: preview_data,
            }
        }),
    }
}

pub(crate) fn active_to_wire(active: &ActiveSlice) -> wire::ActiveSlice {
    let slice = wire::Slice { frame: active.slice.frame, index: active.slice.index };
    wire::ActiveSlice {
        slice: Some(slice),
        node: active.node.to_string(),
        started_at_ms: active.started_at_ms,
        progress: Some(wire::SliceProgress {
            slice: Some(slice),
            samples_done: active.progress.samples_done,
            samples_total: active.progress.samples_total,
            fraction: active.progress.fraction,
            remaining_seconds: active.progress.remaining_seconds,
            memory_bytes: active.progress.memory_bytes,
        }),
    }
}

pub(crate) fn node_to_wire(node: &NodeView) -> wire::Node {
    let description = &node.description;
    wire::Node {
        name: node.name.to_string(),
        incarnation: node.incarnation.0,
        address: node.address.clone(),
        state: match node.state {
            NodeState::Idle => wire::NodeState::Idle,
            NodeState::Rendering => wire::NodeState::Rendering,
            NodeState::Paused => wire::NodeState::Paused,
            NodeState::Lost => wire::NodeState::Lost,
            NodeState::Left => wire::NodeState::Left,
            NodeState::Quarantined => wire::NodeState::Quarantined,
            NodeState::Silent => wire::NodeState::Silent,
            NodeState::Draining => wire::NodeState::Draining,
        }
        .into(),
        description: Some(wire::NodeDescription {
            platform: description.platform.clone(),
            cores: description.cores,
            memory_bytes: description.memory_bytes,
            slots: description.slots,
            blenders: description
                .blenders
                .iter()
                .map(|blender| wire::Blender {
                    version: blender.version.map(|v| v.to_string()).unwrap_or_default(),
                    kind: blender.kind,
                    path: blender.path.clone(),
                    unusable: blender.unusable.clone(),
                })
                .collect(),
            tags: description.tags.clone(),
            version: description.version.clone(),
            ffmpeg: description.ffmpeg.clone(),
            allows_scripts: description.allows_scripts,
            confines: description.confines,
        }),
        unsettled_slices: node.unsettled_slices,
        finished_slices: node.finished_slices,
        seen_at_ms: node.seen_at_ms,
        state_reason: node.state_reason.clone(),
        state_until_ms: node.state_until_ms,
    }
}

pub(crate) fn line_to_wire(record: &LogRecord) -> wire::LogLine {
    wire::LogLine {
        frame: record.frame,
        node: record.node.to_string(),
        at_ms: record.at_ms,
        text: record.text.clone(),
    }
}
