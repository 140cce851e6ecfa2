//! Messages of nodes: registrations, events of batches, finished frames.

use bytes::Bytes;
use framecrew_blobs::{Digest, check_paths};
use framecrew_proto::{
    limits::{
        LINE_BYTES_MAX, LOG_TAIL_MAX, ORPHANS_MAX, PREVIEW_BYTES_MAX, PREVIEW_PIXELS_MAX, SLOTS,
        WARNING_BYTES_MAX,
    },
    v1 as wire,
};

use super::violations::{SHORT_NAME_MAX, Violations};
use crate::{
    domain::{
        Blender, BlenderKind, Failure, FailureReason, JobId, NodeDescription, Output, Preview,
        Progress, Rendered, Slice, Warning, WarningKind,
    },
    mailbox::BatchReport,
};

/// Blenders of a node.
const BLENDERS_MAX: usize = 64;
/// Dropped lines that one message may report: more than a renderer writes in a day.
const DROPPED_MAX: u64 = 1 << 32;
/// Outputs of a frame: more than the views and File Output nodes of any known scene produce.
const OUTPUTS_MAX: usize = 1_000;
/// Checks a node's name.
pub(crate) fn node_name(name: &str, violations: &mut Violations) {
    violations.text("name", name, SHORT_NAME_MAX);
}

pub(crate) fn node_description(
    description: Option<wire::NodeDescription>,
    violations: &mut Violations,
) -> Option<NodeDescription> {
    let Some(description) = description else {
        violations.add("description", "is missing");
        return None;
    };
    if !SLOTS.contains(&description.slots) {
        let message =
            format!("must be {} to {}, is {}", SLOTS.start(), SLOTS.end(), description.slots);
        violations.add("description.slots", message);
    }
    // There are none while the node looks for them.
    if description.blenders.len() > BLENDERS_MAX {
        let message = format!("must be {BLENDERS_MAX} at most, are {}", description.blenders.len());
        violations.add("description.blenders", message);
    }
    violations.tags("description.tags", &description.tags);
    let mut blenders = Vec::new();
    for (n, blender) in description.blenders.into_iter().enumerate().take(BLENDERS_MAX) {
        // A node of a later version may send a kind that is unknown here.
        let kind = BlenderKind::try_from(blender.kind).unwrap_or_default();
        let version = match kind {
            BlenderKind::Synthetic => None,
            // The node has not found out the version yet.
            _ if blender.version.is_empty() && !blender.unusable.is_empty() => None,
            _ => match blender.version.parse() {
                Ok(version) => Some(version),
                Err(_) => {
                    let message = format!("\"{}\" is no version", blender.version);
                    violations.add(format!("description.blenders[{n}].version"), message);
                    continue;
                }
            },
        };
        blenders.push(Blender {
            version,
            kind,
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

/// An invalid event of a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidEvent {
    #[error("{0} is missing")]
    Missing(&'static str),
}

/// Parses an event; `None` if only a later version knows it.
pub(crate) fn batch_report(event: wire::BatchEvent) -> Result<Option<BatchReport>, InvalidEvent> {
    use wire::batch_event::Event;
    let slice = |wire: Option<wire::Slice>| {
        wire.as_ref().map(slice).ok_or(InvalidEvent::Missing("a slice"))
    };
    let event_sequence = event.sequence;
    let Some(event) = event.event else { return Ok(None) };
    Ok(Some(match event {
        Event::Started(started) => BatchReport::Started(slice(started.slice)?),
        Event::Progress(progress) => BatchReport::Progress(
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
                Ok(rendered) => BatchReport::Finished(slice, rendered),
                Err(message) => {
                    let reason = FailureReason::InvalidOutput;
                    BatchReport::Failed(slice, Failure { reason, message, log_tail: Vec::new() })
                }
            }
        }
        Event::Failed(failed) => {
            let slice = slice(failed.slice)?;
            let failure = failed.failure.ok_or(InvalidEvent::Missing("a failure"))?;
            BatchReport::Failed(
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
        Event::Log(log) => BatchReport::Log {
            sequence: event_sequence,
            lines: log.lines.iter().map(|line| (line.frame, shortened(&line.text))).collect(),
            dropped: log.dropped.min(DROPPED_MAX),
        },
        Event::Warning(warning) => match parse_warning(&warning) {
            Some(warning) => BatchReport::Warning(warning),
            None => return Ok(None),
        },
        Event::Ended(_) => BatchReport::Ended,
    }))
}

/// Parses finished frames that a node hands in, each with its job. The result is valid only without violations.
pub(crate) fn orphaned_frames(
    frames: Vec<wire::OrphanedFrame>,
    violations: &mut Violations,
) -> Vec<(JobId, Slice, Rendered)> {
    if frames.len() > ORPHANS_MAX {
        violations.add("frames", format!("are {}, {ORPHANS_MAX} at most", frames.len()));
        return Vec::new();
    }
    let mut orphans = Vec::with_capacity(frames.len());
    for (n, wire::OrphanedFrame { job_id, finished }) in frames.into_iter().enumerate() {
        let field = format!("frames[{n}]");
        if !(1..=i64::MAX as u64).contains(&job_id) {
            violations
                .add(format!("{field}.job_id"), format!("must be 1 to {}, is {job_id}", i64::MAX));
        }
        let Some(finished) = finished else {
            violations.add(format!("{field}.finished"), "is missing");
            continue;
        };
        let slice = finished.slice.as_ref().map(slice);
        if slice.is_none() {
            violations.add(format!("{field}.finished.slice"), "is missing");
        }
        match (slice, parse_finished(finished)) {
            (_, Err(fault)) => violations.add(format!("{field}.finished.outputs"), fault),
            (Some(slice), Ok(rendered)) => orphans.push((JobId(job_id), slice, rendered)),
            (None, Ok(_)) => {}
        }
    }
    orphans
}

/// Parses a finished frame. The error is a sentence.
fn parse_finished(finished: wire::SliceFinished) -> Result<Rendered, String> {
    let seconds = finished.render_seconds;
    Ok(Rendered {
        outputs: parse_outputs(finished.outputs)?,
        render_seconds: if seconds.is_finite() { seconds.max(0.0) } else { 0.0 },
        peak_memory_bytes: finished.peak_memory_bytes,
        preview: finished.preview.and_then(parse_preview),
    })
}

/// Parses the outputs of a frame. The error is a sentence; the frame is not accepted then.
fn parse_outputs(outputs: Vec<wire::Output>) -> Result<Vec<Output>, String> {
    if outputs.is_empty() || outputs.len() > OUTPUTS_MAX {
        let count = outputs.len();
        return Err(format!("a finished frame has 1 to {OUTPUTS_MAX} outputs, not {count}"));
    }
    // The outputs of a frame become files in one folder, so their names must be unique.
    let violations = check_paths(outputs.iter().map(|output| &*output.name));
    if let Some((n, fault)) = violations.first() {
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

/// Parses a preview; `None` if it is invalid, because the frame is complete without it.
fn parse_preview(preview: wire::Preview) -> Option<Preview> {
    let wire::Preview { digest, size_bytes, width, height, data } = preview;
    let is_valid = (1..=PREVIEW_BYTES_MAX).contains(&data.len())
        && size_bytes == data.len() as u64
        && [width, height].iter().all(|side| (1..=PREVIEW_PIXELS_MAX).contains(side))
        && digest.parse() == Ok(Digest::of(&data));
    // A copy: a slice of the message would keep all of it in memory.
    let data = Bytes::copy_from_slice(&data);
    is_valid.then(|| Preview { digest: Digest::of(&data), size_bytes, width, height, data })
}

/// Parses a warning into one line of bounded length; `None` if it has no text.
fn parse_warning(warning: &wire::Warning) -> Option<Warning> {
    let spaced = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = warning.text.chars().map(spaced).take(WARNING_BYTES_MAX).collect();
    let text = text[..text.floor_char_boundary(WARNING_BYTES_MAX)].trim();
    // A node of a later version may send a kind that is unknown here.
    let kind = WarningKind::try_from(warning.kind).unwrap_or_default();
    (!text.is_empty()).then(|| Warning { kind, text: text.to_owned() })
}

/// Cuts a line to the bytes that the protocol allows.
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
