//! What the orchestrator sends: jobs, frames and nodes to watchers, work to nodes.

use std::sync::Arc;

use bytes::Bytes;
use framecrew_proto::v1 as wire;

use crate::{
    domain::{
        ActiveSlice, Failure, FailureReason, Frame, FrameCounts, FrameRange, FrameState, JobSpec,
        JobState, MovieOf, NodeState, NodeView, Project, RenderSettings, TimeLimits, Warning, Work,
    },
    jobs::movie,
    mailbox::Adoption,
    store::{JobRecord, JobStatus, LogRecord},
};

/// How much of a job's specification a message carries.
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
    let JobStatus { state, counts, revision, started_at_ms, ended_at_ms, warnings, movie_job } =
        &record.status;
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
            .map(|Warning { kind, text }| wire::Warning {
                kind: (*kind).into(),
                text: text.clone(),
            })
            .collect(),
        movie_job_id: movie_job.map_or(0, |job| job.0),
    }
}

fn spec_to_wire(spec: &JobSpec, with_project: bool) -> wire::JobSpec {
    let (movie, movie_of) = match &spec.work {
        Work::Frames { movie } => (*movie, None),
        Work::Movie { format, of } => (Some(*format), Some(of)),
    };
    wire::JobSpec {
        name: spec.name.clone(),
        project: with_project.then(|| project_to_wire(&spec.project)),
        frames: spec.frames.ranges().iter().map(range_to_wire).collect(),
        settings: Some(settings_to_wire(&spec.settings)),
        priority: spec.priority,
        tags: spec.tags.clone(),
        strict: spec.strict,
        movie: movie.map(|format| wire::Movie { format: format.into() }),
        movie_of_job_id: movie_of.map_or(0, |of| of.job.0),
        limits: Some(limits_to_wire(spec.limits)),
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
        engine: settings.engine.into(),
        samples: settings.samples,
        scale_percent: settings.scale_percent,
        format: settings.format.into(),
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

/// The movie that a job encodes, if it encodes one.
pub(crate) fn encoding_to_wire(spec: &JobSpec) -> Option<wire::Encoding> {
    let Work::Movie { format, of } = &spec.work else { return None };
    Some(wire::Encoding {
        format: (*format).into(),
        name: movie::file_name(&spec.name),
        frames_folder: MovieOf::FOLDER.into(),
        frames: of.frames.ranges().iter().map(range_to_wire).collect(),
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

pub(crate) fn frame_state_to_wire(state: FrameState) -> wire::FrameState {
    match state {
        FrameState::Open => wire::FrameState::Open,
        FrameState::Finished => wire::FrameState::Finished,
        FrameState::Failed => wire::FrameState::Failed,
        FrameState::Cancelled => wire::FrameState::Cancelled,
    }
}

/// A frame. `preview_data`: the bytes of its preview, or nothing.
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
                    kind: blender.kind.into(),
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

pub(crate) fn adoption_to_wire(adoption: Adoption) -> wire::Adoption {
    match adoption {
        Adoption::Adopted => wire::Adoption::Adopted,
        Adoption::Unwanted => wire::Adoption::Unwanted,
        Adoption::BlobsMissing => wire::Adoption::BlobsMissing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlenderKind, ImageFormat, MovieFormat, RenderEngine, WarningKind};

    /// Asserts that both enums have the same numbers and names. 0 is left out: the domain gives it its own name.
    fn agree<D, W>()
    where
        D: TryFrom<i32> + std::fmt::Debug,
        W: TryFrom<i32> + std::fmt::Debug,
    {
        for number in 1..100 {
            let (domain, wire) = (D::try_from(number).ok(), W::try_from(number).ok());
            assert_eq!(domain.map(|it| format!("{it:?}")), wire.map(|it| format!("{it:?}")));
        }
    }

    #[test]
    fn kinds_have_the_numbers_of_the_protocol() {
        agree::<RenderEngine, wire::RenderEngine>();
        agree::<ImageFormat, wire::ImageFormat>();
        agree::<MovieFormat, wire::MovieFormat>();
        agree::<BlenderKind, wire::BlenderKind>();
        agree::<WarningKind, wire::WarningKind>();
    }
}
