//! Content-addressed bytes: `<data>/blobs/ab/cdef…`.
//!
//! A blob bears its name only when it is whole and durable. A client that learns that one is there has most of an hour
//! (`collect::UNUSED_MIN`) to name it in a job: before that nothing removes it. Both are what lets [`Blobs::contains`]
//! answer from memory.
//!
//! A [`backend::Backend`] keeps the bytes, and nothing else; when a blob was last used is in the ledger, where `collect` saves
//! it. A new kind of backend passes the suite in `conformance`.

mod backend;
mod catalog;
#[cfg(test)]
mod conformance;
mod error;
mod folder;
mod handle;
mod incoming;
mod known;
pub(crate) mod layout;
#[cfg(test)]
mod memory;
mod staged;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::{
    backend::Entry,
    error::{BlobError, Broken},
    handle::Blobs,
    incoming::{Ended, Incoming},
};
