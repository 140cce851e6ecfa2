//! The file in which a batch's finished frames are written down: entries that tell whether they are whole.
//!
//! An entry is its length (4 bytes, little-endian), the first 8 bytes of its content's BLAKE3 hash, and its content,
//! a protobuf message: first the origin, then one finished frame after the other. Whatever follows the last whole
//! entry is ignored: it is what a process that was killed had not written to its end.

use framecrew_proto::v1::SliceFinished;
use prost::Message;

/// Bytes of one entry: a frame of 512 files with the longest names, and its preview, take a third of it.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Bytes of the hash that stand before an entry.
const CHECK_BYTES: usize = 8;

/// Bytes before the content of an entry.
const HEAD_BYTES: usize = 4 + CHECK_BYTES;

/// Whose frames a journal holds.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Origin {
    /// Store of the orchestrator that asked for them.
    #[prost(string, tag = "1")]
    pub(crate) store_id: String,
    #[prost(uint64, tag = "2")]
    pub(crate) job_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) batch_id: u64,
}

/// Adds an entry. False: it is too long to be read again, and was not added.
pub(super) fn append(to: &mut Vec<u8>, message: &impl Message) -> bool {
    let begin = to.len();
    to.resize(begin + HEAD_BYTES, 0);
    // A vector grows as it must.
    let encoded = message.encode(to);
    let content_bytes = to.len() - begin - HEAD_BYTES;
    let length = u32::try_from(content_bytes).ok().filter(|_| content_bytes <= ENTRY_BYTES_MAX);
    let (Some(length), Ok(())) = (length, encoded) else {
        to.truncate(begin);
        return false;
    };
    let (head, content) = to[begin..].split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&check(content));
    true
}

/// Reads a journal as far as it is whole; `None`: not even its origin is.
pub(super) fn read(mut bytes: &[u8]) -> Option<(Origin, Vec<SliceFinished>)> {
    let origin = Origin::decode(next(&mut bytes)?).ok()?;
    let mut frames = Vec::new();
    while let Some(content) = next(&mut bytes) {
        let Ok(frame) = SliceFinished::decode(content) else { break };
        frames.push(frame);
    }
    Some((origin, frames))
}

/// Takes the next whole entry off.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (length, hash) = head.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if length > ENTRY_BYTES_MAX {
        return None;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    (check(content) == hash).then_some(content)
}

fn check(content: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(content).as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_proto::v1::{Output, Slice};

    use super::*;

    fn frame(frame: i32) -> SliceFinished {
        SliceFinished {
            slice: Some(Slice { frame, index: 0 }),
            outputs: vec![Output { name: "x".repeat(300), ..Output::default() }],
            ..SliceFinished::default()
        }
    }

    fn written() -> (Vec<u8>, Origin) {
        let origin = Origin { store_id: "store".into(), job_id: 7, batch_id: 9 };
        let mut bytes = Vec::new();
        assert!(append(&mut bytes, &origin));
        for n in 1..=3 {
            assert!(append(&mut bytes, &frame(n)));
        }
        (bytes, origin)
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, origin) = written();
        assert_eq!(read(&bytes).unwrap(), (origin, vec![frame(1), frame(2), frame(3)]));
    }

    #[test]
    fn a_torn_tail_costs_only_what_was_torn_wherever_it_was_cut() {
        let (bytes, origin) = written();
        let mut entries = 0;
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                None => assert_eq!(entries, 0),
                Some((read, frames)) => {
                    assert_eq!(read, origin);
                    assert!(frames.len() >= entries && frames.len() < 3, "{length}");
                    entries = frames.len();
                }
            }
        }
        assert_eq!(entries, 2);
    }

    #[test]
    fn no_byte_that_flips_makes_a_frame_of_another() {
        let (bytes, _) = written();
        let all = read(&bytes).unwrap().1;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let frames = read(&damaged).map(|(_, frames)| frames).unwrap_or_default();
            assert!(all.starts_with(&frames) && frames.len() < 3, "byte {at}");
        }
    }

    #[test]
    fn an_entry_that_could_not_be_read_again_is_not_written() {
        let mut bytes = vec![1, 2, 3];
        let long = Origin { store_id: "x".repeat(ENTRY_BYTES_MAX), ..Origin::default() };
        assert!(!append(&mut bytes, &long));
        assert_eq!(bytes, [1, 2, 3]);
    }
}
