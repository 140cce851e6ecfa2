//! Decides who renders what, remembers everything, and tells every watcher.
//!
//! In reading order: [`scheduler`] decides, `driver` performs, `store` remembers, `dispatch` talks to nodes,
//! `feed` tells watchers, `service` answers.

mod blobs;
pub mod domain;
pub mod scheduler;
mod service;
