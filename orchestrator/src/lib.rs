//! Decides who renders what, remembers everything, and tells every watcher.
//!
//! In reading order: [`scheduler`] decides, `driver` performs, `store` remembers, `dispatch` talks to nodes,
//! `feed` tells watchers, `service` answers.

mod blobs;
mod collect;
mod convert;
mod disk;
mod dispatch;
pub mod domain;
mod driver;
mod feed;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "history"))]
pub mod history;
#[cfg(not(any(test, feature = "history")))]
#[path = "history/none.rs"]
mod history;
#[cfg(any(test, feature = "history"))]
pub mod invariants;
mod movie;
mod neighbour;
mod previews;
pub mod scheduler;
mod serve;
mod service;
mod store;

pub use serve::{Config, ServeError, serve};
pub use service::StreamLimits;
pub use store::sqlite::{Backup, BackupError, Checked, NoStore, backup, check};
