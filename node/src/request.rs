//! Parses what the orchestrator asks for, once, naming every fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use framecrew_blobs::{Chunk, FileDigest, ProjectPath, check_paths};
use framecrew_proto::v1::{
    Encoding as ProtoEncoding, FrameRange, ImageFormat, MovieFormat, Project as ProtoProject,
    ProjectFile, RenderBatchRequest, RenderEngine, RenderSettings, TimeLimits,
};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    batch::{Limits, Work},
    movie::{self, Encoding},
    outbox::Origin,
    project::Project,
    renderer::{self, Settings, Span},
    version::Version,
};

/// Slices in one batch.
const SLICES_MAX: usize = 1_024;

/// Files of one project.
const FILES_MAX: usize = 100_000;

/// Chunks of one file.
const CHUNKS_MAX: usize = 65_536;

/// Samples per pixel.
const SAMPLES_MAX: u32 = 1_000_000;

/// Resolution percentage.
const SCALE_PERCENT_MAX: u32 = 1_000;

/// Bytes of a scene's, camera's or view layer's name; Blender allows 63, from 5.0 on 255.
const NAME_BYTES_MAX: usize = 255;

/// Maximum number of add-ons of a job, as the protocol limits it.
const ADDONS_MAX: usize = 16;

/// Bytes of a movie's name without its extension: file systems take 255 with it.
const MOVIE_NAME_BYTES_MAX: usize = 240;

/// Seconds of a job's limits, as the protocol allows them.
const NODE_SILENCE_SECONDS: RangeInclusive<u32> = 15..=86_400;
const FRAME_SILENCE_SECONDS: RangeInclusive<u32> = 10..=86_400;
const FRAME_SECONDS: RangeInclusive<u32> = 1..=2_592_000;

/// Bytes of a store's name.
const STORE_ID_BYTES_MAX: usize = 255;

/// Faults that are named: a request with more of them is not read by people.
const FAULTS_MAX: usize = 100;

/// Collects the faults of a request.
#[derive(Debug, Default)]
struct Faults(Vec<(String, String)>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, description: impl ToString) {
        if self.0.len() < FAULTS_MAX {
            self.0.push((field.into(), description.to_string()));
        }
    }

    fn check(&mut self, good: bool, field: &str, description: &str) {
        if !good {
            self.add(field, description);
        }
    }

    fn into_status(self) -> Option<Status> {
        if self.0.is_empty() {
            return None;
        }
        let fields: Vec<_> =
            self.0.iter().map(|(field, text)| format!("{field}: {text}")).collect();
        let message = fields.join("; ");
        let mut details = ErrorDetails::new();
        for (field, description) in self.0 {
            details.add_bad_request_violation(field, description);
        }
        Some(Status::with_error_details(tonic::Code::InvalidArgument, message, details))
    }
}

/// Reads a RenderBatch request, or answers with every fault it has.
pub(crate) fn parse(request: RenderBatchRequest) -> Result<Work, Box<Status>> {
    let mut faults = Faults::default();
    faults.check(request.batch_id > 0, "batch_id", "must be 1 or more");
    faults.check(request.job_id > 0, "job_id", "must be 1 or more");

    let mut seen = BTreeSet::new();
    let slices = request.slices;
    faults.check(!slices.is_empty(), "slices", "must name at least one");
    faults.check(slices.len() <= SLICES_MAX, "slices", "may be 1,024 at most");
    for (n, slice) in slices.iter().enumerate().take(SLICES_MAX) {
        if slice.index != 0 {
            faults.add(format!("slices[{n}].index"), "must be 0: a frame has one slice");
        }
        if !seen.insert((slice.frame, slice.index)) {
            faults.add(format!("slices[{n}]"), "names a slice for the second time");
        }
    }

    let settings = request.settings.unwrap_or_default();
    check_settings(&settings, &mut faults);
    let file_version = match request.file_version.as_str() {
        "" => None,
        text => text.parse::<Version>().map_err(|error| faults.add("file_version", error)).ok(),
    };
    let project = match request.project {
        Some(project) => parse_project(project, &mut faults),
        None => {
            faults.add("project", "is missing");
            None
        }
    };
    let color_config = parse_color_config(&settings, project.as_ref(), &mut faults);
    let addons = parse_addons(&settings, project.as_ref(), &mut faults);
    let encoding = request.encoding.and_then(|encoding| {
        faults.check(slices.len() == 1, "slices", "must be one: a movie is one slice");
        parse_encoding(encoding, project.as_ref(), &mut faults)
    });
    let span =
        request.span.and_then(|range| match Span::parse(range.first, range.last, range.step) {
            Ok(span) => span,
            Err(fault) => {
                faults.add("span", fault);
                None
            }
        });
    let holds_all = |span: Span| slices.iter().all(|slice| span.holds(slice.frame));
    faults.check(span.is_none_or(holds_all), "span", "must hold every slice");
    let limits = parse_limits(request.limits.unwrap_or_default(), &mut faults);
    faults.check(
        request.store_id.len() <= STORE_ID_BYTES_MAX,
        "store_id",
        "may have 255 bytes at most",
    );
    match (faults.into_status(), project) {
        (None, Some(project)) => Ok(Work {
            origin: Origin {
                store_id: request.store_id,
                job_id: request.job_id,
                batch_id: request.batch_id,
            },
            limits,
            project,
            settings: parse_settings(settings),
            color_config,
            addons,
            slices,
            file_version,
            strict: request.strict,
            encoding,
            span,
        }),
        (Some(status), _) => Err(Box::new(status)),
        // No project without a fault.
        (None, None) => Err(Box::new(Status::internal("a fault was not named"))),
    }
}

fn parse_limits(limits: TimeLimits, faults: &mut Faults) -> Limits {
    let mut seconds = |field, given: Option<u32>, allowed: RangeInclusive<u32>| {
        let seconds = given?;
        if !allowed.contains(&seconds) {
            let (least, most) = allowed.into_inner();
            faults.add(field, format!("must be {least} to {most}"));
        }
        Some(Duration::from_secs(seconds.into()))
    };
    let silence =
        seconds("limits.node_silence_seconds", limits.node_silence_seconds, NODE_SILENCE_SECONDS);
    let frame_silence = seconds(
        "limits.frame_silence_seconds",
        limits.frame_silence_seconds,
        FRAME_SILENCE_SECONDS,
    );
    let frame = seconds("limits.frame_seconds", limits.frame_seconds, FRAME_SECONDS);
    let usual = Limits::default();
    Limits {
        node_silence: silence.unwrap_or(usual.node_silence),
        frame_silence: frame_silence.unwrap_or(usual.frame_silence),
        frame,
    }
}

fn check_settings(settings: &RenderSettings, faults: &mut Faults) {
    for (field, name) in [
        ("settings.scene", &settings.scene),
        ("settings.camera", &settings.camera),
        ("settings.view_layer", &settings.view_layer),
    ] {
        faults.check(name.len() <= NAME_BYTES_MAX, field, "may have 255 bytes at most");
    }
    faults.check(
        RenderEngine::try_from(settings.engine).is_ok(),
        "settings.engine",
        "is not an engine",
    );
    faults.check(
        ImageFormat::try_from(settings.format).is_ok(),
        "settings.format",
        "is not an image format",
    );
    faults.check(
        settings.samples.is_none_or(|n| (1..=SAMPLES_MAX).contains(&n)),
        "settings.samples",
        "must be 1 to 1,000,000",
    );
    faults.check(
        settings.scale_percent.is_none_or(|n| (1..=SCALE_PERCENT_MAX).contains(&n)),
        "settings.scale_percent",
        "must be 1 to 1,000",
    );
    faults.check(
        settings.color_depth.is_none_or(|bits| matches!(bits, 8 | 10 | 12 | 16 | 32)),
        "settings.color_depth",
        "must be 8, 10, 12, 16 or 32",
    );
    if !settings.blender.is_empty()
        && let Err(error) = settings.blender.parse::<Version>()
    {
        faults.add("settings.blender", error);
    }
}

fn parse_settings(settings: RenderSettings) -> Settings {
    Settings {
        engine: match settings.engine() {
            RenderEngine::Unspecified => None,
            RenderEngine::Cycles => Some(renderer::Engine::Cycles),
            RenderEngine::Eevee => Some(renderer::Engine::Eevee),
            RenderEngine::Workbench => Some(renderer::Engine::Workbench),
        },
        format: match settings.format() {
            ImageFormat::Unspecified => None,
            ImageFormat::Png => Some(renderer::ImageFormat::Png),
            ImageFormat::Jpeg => Some(renderer::ImageFormat::Jpeg),
            ImageFormat::OpenExr => Some(renderer::ImageFormat::OpenExr),
            ImageFormat::Tiff => Some(renderer::ImageFormat::Tiff),
            ImageFormat::OpenExrMultilayer => Some(renderer::ImageFormat::OpenExrMultilayer),
            ImageFormat::Webp => Some(renderer::ImageFormat::Webp),
        },
        scene: settings.scene,
        camera: settings.camera,
        view_layer: settings.view_layer,
        samples: settings.samples,
        scale_percent: settings.scale_percent,
        color_depth: settings.color_depth,
        denoise: settings.denoise,
        blender: settings.blender,
        run_scripts: settings.run_scripts,
        cold: settings.cold,
    }
}

fn parse_project(project: ProtoProject, faults: &mut Faults) -> Option<Project> {
    faults.check(project.files.len() <= FILES_MAX, "project.files", "may be 100,000 at most");
    let paths = project.files.iter().map(|file| file.path.as_str());
    for (n, fault) in check_paths(paths.take(FILES_MAX)) {
        faults.add(format!("project.files[{n}].path"), fault);
    }
    let mut files = BTreeMap::new();
    for (n, file) in project.files.iter().enumerate().take(FILES_MAX) {
        let digest = file
            .digest
            .parse()
            .map_err(|error| faults.add(format!("project.files[{n}].digest"), error));
        let chunks = parse_chunks(n, file, faults);
        if let (Ok(path), Ok(digest), Some(chunks)) = (file.path.parse(), digest, chunks) {
            files.insert(path, FileDigest { digest, size_bytes: file.size_bytes, chunks });
        }
    }
    let blend = match project.blend_path.parse() {
        Ok(path) if files.contains_key(&path) => Some(path),
        Ok(_) => {
            faults.add("project.blend_path", "is not one of the files");
            None
        }
        Err(error) => {
            faults.add("project.blend_path", error);
            None
        }
    };
    Some(Project { blend: blend?, files })
}

/// Parses the add-ons of the settings. They must be files of the project.
fn parse_addons(
    settings: &RenderSettings,
    project: Option<&Project>,
    faults: &mut Faults,
) -> Vec<ProjectPath> {
    let mut addons = Vec::new();
    faults.check(settings.addons.len() <= ADDONS_MAX, "settings.addons", "may be 16 at most");
    for (n, addon) in settings.addons.iter().take(ADDONS_MAX).enumerate() {
        let field = format!("settings.addons[{n}]");
        match addon.parse() {
            Ok(path) if project.is_some_and(|project| !project.files.contains_key(&path)) => {
                faults.add(field, "is not one of the files");
            }
            Ok(path) => addons.push(path),
            Err(error) => faults.add(field, error),
        }
    }
    addons
}

/// Parses the colour configuration of the settings. It must be a file of the project, because without it Blender
/// would use its own and draw other colours.
fn parse_color_config(
    settings: &RenderSettings,
    project: Option<&Project>,
    faults: &mut Faults,
) -> Option<ProjectPath> {
    const FIELD: &str = "settings.color_config";
    if settings.color_config.is_empty() {
        return None;
    }
    let path = settings.color_config.parse().map_err(|error| faults.add(FIELD, error)).ok()?;
    if project.is_some_and(|project| !project.files.contains_key(&path)) {
        faults.add(FIELD, "is not one of the files");
    }
    Some(path)
}

fn parse_encoding(
    encoding: ProtoEncoding,
    project: Option<&Project>,
    faults: &mut Faults,
) -> Option<Encoding> {
    let format = match encoding.format() {
        MovieFormat::Unspecified => None,
        MovieFormat::Mp4 => Some(movie::Format::Mp4),
        MovieFormat::Mkv => Some(movie::Format::Mkv),
        MovieFormat::Mov => Some(movie::Format::Mov),
        MovieFormat::Webm => Some(movie::Format::Webm),
    };
    faults.check(format.is_some(), "encoding.format", "is not a movie format");
    let name = encoding.name;
    let is_plain = !name.contains(['/', '\\']) && !name.chars().any(char::is_control);
    faults.check(
        is_plain && (1..=MOVIE_NAME_BYTES_MAX).contains(&name.len()),
        "encoding.name",
        "must be a file name without its extension, of 240 bytes at most",
    );
    let folder = format!("{}/", encoding.frames_folder.trim_end_matches('/'));
    let files = project.into_iter().flat_map(|project| project.files.keys());
    let images: Vec<_> = files.filter(|path| path.as_str().starts_with(&folder)).cloned().collect();
    faults.check(!images.is_empty(), "encoding.frames_folder", "holds no file of the project");
    let is_range = |range: &FrameRange| range.step > 0 && range.first <= range.last;
    faults.check(
        encoding.frames.iter().all(is_range),
        "encoding.frames",
        "must be ranges that rise, with a step of 1 or more",
    );
    let span = span(encoding.frames).filter(|(first, last)| {
        // As many frames as there are images; anything else would put the sound in the wrong places.
        usize::try_from(i64::from(*last) - i64::from(*first) + 1) == Ok(images.len())
    });
    Some(Encoding { format: format?, name, images, span })
}

/// First and last of these frames, where there are no gaps between.
fn span(mut ranges: Vec<FrameRange>) -> Option<(i32, i32)> {
    ranges.sort_by_key(|range| range.first);
    let first = ranges.first()?.first;
    let mut next = i64::from(first);
    for range in &ranges {
        if i64::from(range.first) != next || (range.step != 1 && range.first != range.last) {
            return None;
        }
        next = i64::from(range.last) + 1;
    }
    Some((first, i32::try_from(next - 1).ok()?))
}

fn parse_chunks(n: usize, file: &ProjectFile, faults: &mut Faults) -> Option<Vec<Chunk>> {
    if file.chunks.len() > CHUNKS_MAX {
        faults.add(format!("project.files[{n}].chunks"), "may be 65,536 at most");
        return None;
    }
    let mut chunks = Vec::with_capacity(file.chunks.len());
    let mut sum_bytes: u64 = 0;
    for (m, chunk) in file.chunks.iter().enumerate() {
        let field = |name| format!("project.files[{n}].chunks[{m}].{name}");
        if chunk.size_bytes == 0 {
            faults.add(field("size_bytes"), "must be 1 or more");
        }
        sum_bytes = sum_bytes.saturating_add(chunk.size_bytes);
        match chunk.digest.parse() {
            Ok(digest) => chunks.push(Chunk { digest, size_bytes: chunk.size_bytes }),
            Err(error) => faults.add(field("digest"), error),
        }
    }
    if !file.chunks.is_empty() && sum_bytes != file.size_bytes {
        faults.add(format!("project.files[{n}].size_bytes"), "is not the sum of its chunks");
    }
    Some(chunks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_proto::v1::{Chunk as ProtoChunk, Slice};

    use super::*;

    fn good() -> RenderBatchRequest {
        RenderBatchRequest {
            batch_id: 1,
            job_id: 1,
            project: Some(ProtoProject {
                blend_path: "shot.blend".into(),
                files: vec![ProjectFile {
                    path: "shot.blend".into(),
                    digest: "0".repeat(64),
                    size_bytes: 3,
                    chunks: Vec::new(),
                }],
            }),
            slices: vec![Slice { frame: 1, index: 0 }],
            file_version: "3.4".into(),
            ..RenderBatchRequest::default()
        }
    }

    fn fields(request: RenderBatchRequest) -> Vec<String> {
        let status = parse(request).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let details = status.get_details_bad_request().unwrap();
        details.field_violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn a_good_request_is_read() {
        let work = parse(good()).unwrap();
        assert_eq!(work.file_version.unwrap().to_string(), "3.4.0");
        assert_eq!(work.project.files.len(), 1);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let mut request = good();
        request.batch_id = 0;
        request.slices = vec![Slice { frame: 1, index: 0 }; 2];
        request.file_version = "new".into();
        request.limits = Some(TimeLimits {
            node_silence_seconds: Some(14),
            frame_silence_seconds: Some(86_401),
            frame_seconds: Some(0),
        });
        request.store_id = "x".repeat(256);
        request.settings = Some(RenderSettings {
            engine: 99,
            samples: Some(0),
            scale_percent: Some(5_000),
            color_depth: Some(9),
            blender: "latest".into(),
            ..RenderSettings::default()
        });
        let project = request.project.as_mut().unwrap();
        project.files[0].path = "../shot.blend".into();
        project.files[0].digest = "short".into();
        assert_eq!(
            fields(request),
            [
                "batch_id",
                "slices[1]",
                "settings.engine",
                "settings.samples",
                "settings.scale_percent",
                "settings.color_depth",
                "settings.blender",
                "file_version",
                "project.files[0].path",
                "project.files[0].digest",
                "project.blend_path",
                "limits.node_silence_seconds",
                "limits.frame_silence_seconds",
                "limits.frame_seconds",
                "store_id",
            ]
        );
    }

    #[test]
    fn limits_have_defaults() {
        assert_eq!(parse(good()).unwrap().limits, Limits::default());
        let given = TimeLimits { frame_seconds: Some(9), ..TimeLimits::default() };
        let work = parse(RenderBatchRequest { limits: Some(given), ..good() }).unwrap();
        assert_eq!(work.limits.frame, Some(Duration::from_secs(9)));
    }

    #[test]
    fn files_that_cannot_lie_beside_one_another_are_refused() {
        let mut request = good();
        let files = &mut request.project.as_mut().unwrap().files;
        files.push(ProjectFile { path: "SHOT.blend".into(), ..files[0].clone() });
        files.push(ProjectFile { path: "shot.blend/wood.png".into(), ..files[0].clone() });
        assert_eq!(fields(request), ["project.files[1].path"]);
    }

    #[test]
    fn a_movie_is_one_slice_with_images_and_its_sound_needs_frames_without_gaps() {
        let encoding = |ranges: &[(i32, i32, u32)]| ProtoEncoding {
            format: MovieFormat::Mp4.into(),
            name: "shot".into(),
            frames_folder: "frames".into(),
            frames: ranges
                .iter()
                .map(|(first, last, step)| FrameRange { first: *first, last: *last, step: *step })
                .collect(),
        };
        let with = |encoding| {
            let mut request = good();
            let files = &mut request.project.as_mut().unwrap().files;
            for n in 1..=3 {
                files.push(ProjectFile { path: format!("frames/{n}.png"), ..files[0].clone() });
            }
            RenderBatchRequest { encoding: Some(encoding), ..request }
        };
        for (ranges, span) in [
            (&[(-1, 1, 1)][..], Some((-1, 1))),
            (&[(2, 2, 5), (0, 1, 1)], Some((0, 2))),
            (&[(1, 5, 2)], None),
            (&[(1, 2, 1), (4, 4, 1)], None),
            (&[(1, 4, 1)], None),
            (&[(i32::MIN, i32::MAX, 1)], None),
            (&[], None),
        ] {
            let work = parse(with(encoding(ranges))).unwrap();
            let encoding = work.encoding.unwrap();
            assert_eq!(encoding.span, span, "{ranges:?}");
            assert_eq!(encoding.images.len(), 3);
        }
        let wrong = ProtoEncoding {
            format: 0,
            name: "../shot".into(),
            frames_folder: "elsewhere".into(),
            frames: vec![FrameRange::default()],
        };
        let mut request = with(wrong);
        request.slices.push(Slice { frame: 2, index: 0 });
        assert_eq!(
            fields(request),
            [
                "slices",
                "encoding.format",
                "encoding.name",
                "encoding.frames_folder",
                "encoding.frames"
            ]
        );
    }

    #[test]
    fn chunks_that_are_not_the_file_are_named() {
        let mut request = good();
        let file = &mut request.project.as_mut().unwrap().files[0];
        let chunk = |digest: &str, size_bytes| ProtoChunk { digest: digest.into(), size_bytes };
        file.chunks = vec![chunk(&file.digest, file.size_bytes), chunk("short", 0)];
        let field = |name| format!("project.files[0].{name}");
        assert_eq!(
            fields(request.clone()),
            [field("chunks[1].size_bytes"), field("chunks[1].digest")]
        );
        let file = &mut request.project.as_mut().unwrap().files[0];
        file.chunks.truncate(1);
        file.size_bytes += 1;
        assert_eq!(fields(request.clone()), [field("size_bytes")]);
        let file = &mut request.project.as_mut().unwrap().files[0];
        file.chunks = vec![chunk("", 1); CHUNKS_MAX + 1];
        assert_eq!(fields(request), [field("chunks"), "project.blend_path".into()]);
    }

    #[test]
    fn an_empty_request_is_refused_with_what_it_lacks() {
        let lacks = fields(RenderBatchRequest::default());
        assert_eq!(lacks, ["batch_id", "job_id", "slices", "project"]);
    }

    #[test]
    fn a_flood_of_faults_is_cut() {
        let mut request = good();
        request.project.as_mut().unwrap().files = vec![ProjectFile::default(); 50_000];
        assert_eq!(fields(request).len(), FAULTS_MAX);
    }
}
