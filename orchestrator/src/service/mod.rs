//! The RPCs: parse, ask, answer.

pub(crate) mod blob_store;
pub(crate) mod faults;
mod jobs;
mod members;
pub(crate) mod orchestrator;
