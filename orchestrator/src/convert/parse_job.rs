//! Requests of clients: jobs, and the frames of jobs.

use std::ops::RangeInclusive;

use framecrew_blobs::check_paths;
use framecrew_proto::{
    limits::{
        ADDONS_MAX, CHUNKS_MAX, FILES_MAX, FRAME_SECONDS, FRAME_SILENCE_SECONDS, FRAMES_MAX,
        JOB_NAME_CHARS, NODE_SILENCE_SECONDS, PRIORITIES, REQUEST_ID_CHARS, SAMPLES, SCALE_PERCENT,
    },
    v1 as wire,
};

use super::violations::Violations;
use crate::{
    domain::{
        BlenderVersion, Chunk, FrameRange, FrameSet, ImageFormat, JobSpec, MovieFormat, MovieOf,
        Project, ProjectFile, RenderSettings, TimeLimits, Work,
    },
    jobs::movie,
};

/// Bytes in the names of scenes, cameras and view layers: Blender's own limit.
const BLENDER_NAME_BYTES_MAX: usize = 255;
/// Blobs of all files of a project: 2 TB in chunks of 4 MiB.
const BLOBS_MAX: usize = 500_000;
/// Ranges in a job's frames: enough for any list that a person writes.
const RANGES_MAX: usize = 10_000;
/// Parses a job. The result is valid only if there are no violations; without any it is never `None`.
pub(crate) fn job_spec(spec: wire::JobSpec, violations: &mut Violations) -> Option<JobSpec> {
    violations.text("spec.name", &spec.name, *JOB_NAME_CHARS.end());
    if !PRIORITIES.contains(&spec.priority) {
        violations.add("spec.priority", format!("must be -100 to 100, is {}", spec.priority));
    }
    violations.tags("spec.tags", &spec.tags);
    let frames = frame_set("spec.frames", &spec.frames, violations);
    let project = match spec.project {
        Some(project) => parse_project(project, violations),
        None => {
            violations.add("spec.project", "is missing");
            None
        }
    };
    let settings = parse_settings(spec.settings.unwrap_or_default(), violations);
    let limits = parse_limits(spec.limits.unwrap_or_default(), violations);
    if spec.movie_of_job_id != 0 {
        violations.add("spec.movie_of_job_id", "is set by the orchestrator: leave it 0");
    }
    if let Some(project) = &project {
        check_named_files(&settings, project, violations);
    }
    let mut movie = None;
    if let Some(wanted) = &spec.movie {
        movie = parse_movie(wanted, settings.format, project.as_ref(), frames.as_ref(), violations);
    }
    Some(JobSpec {
        name: spec.name,
        project: project?,
        frames: if settings.in_order { frames?.in_order() } else { frames? },
        settings,
        priority: spec.priority,
        tags: spec.tags,
        strict: spec.strict,
        work: Work::Frames { movie },
        limits,
    })
}

/// Checks that the files named in the settings are in the project.
fn check_named_files(settings: &RenderSettings, project: &Project, violations: &mut Violations) {
    let is_there = |path: &str| project.files.iter().any(|file| file.path == path);
    let fault = |path: &str| format!("`{path}` is not one of the project's files");
    let config = &settings.color_config;
    if !config.is_empty() && !is_there(config) {
        violations.add("spec.settings.color_config", fault(config));
    }
    if settings.addons.len() > ADDONS_MAX {
        let message = format!("has {} add-ons, {ADDONS_MAX} at most", settings.addons.len());
        violations.add("spec.settings.addons", message);
        return;
    }
    for (n, addon) in settings.addons.iter().enumerate().filter(|(_, addon)| !is_there(addon)) {
        violations.add(format!("spec.settings.addons[{n}]"), fault(addon));
    }
}

fn parse_limits(limits: wire::TimeLimits, violations: &mut Violations) -> TimeLimits {
    let mut check = |field, value: Option<u32>, range: RangeInclusive<u32>| {
        if let Some(seconds) = value.filter(|seconds| !range.contains(seconds)) {
            let (first, last) = (range.start(), range.end());
            let message = format!("must be {first} to {last} seconds, is {seconds}");
            violations.add(format!("spec.limits.{field}"), message);
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

fn parse_movie(
    wanted: &wire::Movie,
    frames_format: ImageFormat,
    project: Option<&Project>,
    frames: Option<&FrameSet>,
    violations: &mut Violations,
) -> Option<MovieFormat> {
    const FIELD: &str = "spec.movie";
    let format = violations.kind(format!("{FIELD}.format"), wanted.format);
    if frames_format.is_open_exr() {
        let message = "cannot be encoded from OpenEXR (scene-linear HDR) frames: choose \
                       another format for the frames, or leave the movie out";
        violations.add(FIELD, message);
    }
    let (Some(project), Some(frames)) = (project, frames) else { return format };
    let (files, frames) = (project.files.len() as u64, frames.count());
    if files + frames > FILES_MAX as u64 {
        let message = format!(
            "needs a project with the {files} files and the {frames} frames of this job: \
             {FILES_MAX} together at most"
        );
        violations.add(FIELD, message);
    }
    let taken = project.files.iter().enumerate().filter(|(_, f)| movie::is_in_folder(&f.path));
    for (n, _) in taken {
        let message =
            format!("is in {}, which is reserved for the movie's frames", MovieOf::FOLDER);
        violations.add(format!("spec.project.files[{n}].path"), message);
    }
    format
}

fn frame_set(
    field: &str,
    ranges: &[wire::FrameRange],
    violations: &mut Violations,
) -> Option<FrameSet> {
    if ranges.is_empty() {
        violations.add(field, "is empty: name at least one frame");
        return None;
    }
    if ranges.len() > RANGES_MAX {
        violations.add(field, format!("has {} ranges, {RANGES_MAX} at most", ranges.len()));
        return None;
    }
    let mut checked = Vec::with_capacity(ranges.len());
    for (n, &wire::FrameRange { first, last, step }) in ranges.iter().enumerate() {
        if first > last {
            let message = format!("runs backwards: {first} lies after {last}");
            violations.add(format!("{field}[{n}]"), message);
        } else if step == 0 {
            violations.add(format!("{field}[{n}].step"), "must be 1 or more, is 0");
        } else {
            checked.push(FrameRange { first, last, step });
        }
    }
    if checked.len() < ranges.len() {
        return None;
    }
    let frames: u64 = checked.iter().map(FrameRange::count).sum();
    if frames > FRAMES_MAX {
        violations.add(field, format!("has {frames} frames, {} at most", FRAMES_MAX));
        return None;
    }
    FrameSet::new(checked).map_err(|error| violations.add(field, error.to_string())).ok()
}

/// Parses the frames to retry; `None` means all failed ones. A frame that the job does not have is a violation.
pub(crate) fn frames_to_retry(
    ranges: &[wire::FrameRange],
    of_job: &FrameSet,
    violations: &mut Violations,
) -> Option<FrameSet> {
    const FIELD: &str = "frames";
    if ranges.is_empty() {
        return None;
    }
    let frames = frame_set(FIELD, ranges, violations)?;
    let mut has: Vec<i32> = of_job.iter().collect();
    has.sort_unstable();
    for (n, range) in frames.ranges().iter().enumerate() {
        if let Some(frame) = range.iter().find(|frame| has.binary_search(frame).is_err()) {
            violations.add(format!("{FIELD}[{n}]"), format!("the job has no frame {frame}"));
        }
    }
    Some(frames)
}

fn parse_project(project: wire::Project, violations: &mut Violations) -> Option<Project> {
    const FIELD: &str = "spec.project.files";
    if project.files.is_empty() || project.files.len() > FILES_MAX {
        let message = format!("must have 1 to {FILES_MAX} files, has {}", project.files.len());
        violations.add(FIELD, message);
        return None;
    }
    for (n, fault) in check_paths(project.files.iter().map(|file| &*file.path)) {
        violations.add(format!("{FIELD}[{n}].path"), fault.to_string());
    }
    let blobs: usize = project.files.iter().map(|file| file.chunks.len().max(1)).sum();
    if blobs > BLOBS_MAX {
        violations.add(FIELD, format!("consist of {blobs} blobs, {BLOBS_MAX} at most"));
        return None;
    }
    let mut files = Vec::with_capacity(project.files.len());
    for (n, file) in project.files.iter().enumerate() {
        let digest = violations.digest(format!("{FIELD}[{n}].digest"), &file.digest);
        let chunks = parse_chunks(&format!("{FIELD}[{n}]"), file, violations);
        if let (Some(digest), Some(chunks)) = (digest, chunks) {
            let (path, size_bytes) = (file.path.clone(), file.size_bytes);
            files.push(ProjectFile { path, digest, size_bytes, chunks });
        }
    }
    if !project.files.iter().any(|file| file.path == project.blend_path) {
        violations.add("spec.project.blend_path", "is not one of the project's files");
        return None;
    }
    Some(Project { blend_path: project.blend_path, files })
}

fn parse_chunks(
    field: &str,
    file: &wire::ProjectFile,
    violations: &mut Violations,
) -> Option<Vec<Chunk>> {
    if file.chunks.len() > CHUNKS_MAX {
        let fault = format!("has {} chunks, {CHUNKS_MAX} at most", file.chunks.len());
        violations.add(format!("{field}.chunks"), fault);
        return None;
    }
    let mut chunks = Vec::with_capacity(file.chunks.len());
    let mut sum_bytes: u64 = 0;
    for (n, chunk) in file.chunks.iter().enumerate() {
        if chunk.size_bytes == 0 {
            violations.add(format!("{field}.chunks[{n}].size_bytes"), "must be 1 or more, is 0");
        }
        sum_bytes = sum_bytes.saturating_add(chunk.size_bytes);
        let digest = violations.digest(format!("{field}.chunks[{n}].digest"), &chunk.digest)?;
        chunks.push(Chunk { digest, size_bytes: chunk.size_bytes });
    }
    if !chunks.is_empty() && sum_bytes != file.size_bytes {
        let fault = format!("is {}, but its chunks have {sum_bytes} bytes", file.size_bytes);
        violations.add(format!("{field}.size_bytes"), fault);
    }
    Some(chunks)
}

fn parse_settings(settings: wire::RenderSettings, violations: &mut Violations) -> RenderSettings {
    const FIELD: &str = "spec.settings";
    for (field, text) in [
        ("scene", &settings.scene),
        ("camera", &settings.camera),
        ("view_layer", &settings.view_layer),
    ] {
        if text.len() > BLENDER_NAME_BYTES_MAX {
            let message =
                format!("must have {BLENDER_NAME_BYTES_MAX} bytes at most, has {}", text.len());
            violations.add(format!("{FIELD}.{field}"), message);
        } else if !text.is_empty() {
            violations.text(&format!("{FIELD}.{field}"), text, BLENDER_NAME_BYTES_MAX);
        }
    }
    let engine = violations.kind(format!("{FIELD}.engine"), settings.engine);
    let format = violations.kind(format!("{FIELD}.format"), settings.format);
    if let Some(samples) = settings.samples
        && !SAMPLES.contains(&samples)
    {
        violations.add(format!("{FIELD}.samples"), format!("must be 1 to 1,000,000, is {samples}"));
    }
    if let Some(percent) = settings.scale_percent
        && !SCALE_PERCENT.contains(&percent)
    {
        violations
            .add(format!("{FIELD}.scale_percent"), format!("must be 1 to 1,000, is {percent}"));
    }
    if let Some(depth) = settings.color_depth
        && !matches!(depth, 8 | 10 | 12 | 16 | 32)
    {
        let message = format!("must be 8, 10, 12, 16 or 32 bits, is {depth}");
        violations.add(format!("{FIELD}.color_depth"), message);
    }
    let blender = if settings.blender.is_empty() {
        None
    } else {
        let version = settings.blender.parse::<BlenderVersion>().ok();
        if version.is_none() {
            let message = format!("\"{}\" is no version; write 4.5 or 4.5.15", settings.blender);
            violations.add(format!("{FIELD}.blender"), message);
        }
        version
    };
    RenderSettings {
        scene: settings.scene,
        camera: settings.camera,
        engine: engine.unwrap_or_default(),
        samples: settings.samples,
        scale_percent: settings.scale_percent,
        format: format.unwrap_or_default(),
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

/// Checks a request's id.
pub(crate) fn request_id(request_id: &str, violations: &mut Violations) {
    violations.text("request_id", request_id, *REQUEST_ID_CHARS.end());
    if request_id.starts_with(movie::REQUEST_PREFIX) {
        let message = format!(
            "must not begin with {}, which is reserved for the orchestrator",
            movie::REQUEST_PREFIX
        );
        violations.add("request_id", message);
    }
}
