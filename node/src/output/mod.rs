//! What a renderer wrote: named, decoded, measured and hashed. A frame counts only when all of that succeeds.

mod blob;
mod check;
pub(crate) mod decode;
mod naming;
mod preview;

pub(crate) use self::{
    blob::{Blob, Content},
    check::{
        Checked, CheckedFrame, InvalidOutput, Promise, PromisedImage, check, check_bytes,
        preview_of_file,
    },
    decode::Size,
    naming::{FileOutput, frame_name},
    preview::{Preview, Small, encode as encode_preview},
};
