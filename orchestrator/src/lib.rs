//! Decides who renders what, remembers everything, and tells every watcher.

mod blobs;
mod service;
