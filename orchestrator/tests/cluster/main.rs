//! The orchestrator over real sockets, with a client on one side and nodes on the other that do just what a
//! test tells them.
#![allow(clippy::unwrap_used, missing_docs)]

mod crowd;
mod harness;
mod membership;
mod movie;
mod placement;
mod projects;
mod restart;
mod scripted_node;
mod second_chances;
mod submit;
mod watch;
