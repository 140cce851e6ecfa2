//! The orchestrator: decides which node renders which frame, stores every result, and keeps watchers up to date.
//!
//! In reading order: [`domain`] is the vocabulary, [`scheduler`] decides, `jobs` names what follows a finished job,
//! `mailbox` carries requests to the `driver`, which commits decisions to the `store` and then shows them: `dispatch`
//! talks to nodes, `feed` keeps watchers up to date, `service` answers calls, which `convert` parses. `observe` sees it
//! all and decides nothing.

mod blobs;
mod clock;
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
pub mod invariants;
mod jobs;
mod limits;
mod mailbox;
mod neighbour;
mod observe;
pub mod scheduler;
mod serve;
mod service;
mod store;

#[cfg(any(test, feature = "history"))]
pub use observe::history;
pub use serve::{Config, ServeError, serve};
pub use service::StreamLimits;
pub use store::sqlite::{Backup, BackupError, Checked, NoStore, backup, check};
