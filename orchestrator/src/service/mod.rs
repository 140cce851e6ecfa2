//! The RPCs: parse, ask, answer.

pub(crate) mod blob_store;
