//! How many frames fit in a message.

use crate::domain::Frame;

/// How many frames of these sizes fit in `bytes_max`; at least one.
pub(crate) fn fitting(frames: impl IntoIterator<Item = usize>, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fit = frames.into_iter().take_while(|frame_bytes| {
        bytes += frame_bytes;
        bytes <= bytes_max
    });
    fit.count().max(1)
}

/// Size of a frame in a message, in bytes, about.
pub(crate) fn bytes_of(frame: &Frame) -> usize {
    /// A frame without its texts and outputs: numbers, the node's name, a digest.
    const FRAME_BYTES: usize = 200;
    /// An output without its name: a digest, numbers.
    const OUTPUT_BYTES: usize = 100;
    let failure = frame.failure.as_ref().map_or(0, |failure| {
        failure.message.len() + failure.log_tail.iter().map(String::len).sum::<usize>()
    });
    let outputs = frame.rendered.as_ref().map_or(0, |rendered| {
        rendered.outputs.iter().map(|output| OUTPUT_BYTES + output.name.len()).sum()
    });
    FRAME_BYTES + failure + outputs
}
