//! Hands a .blend to a Framecrew cluster and shows its frames as they happen.
//!
//! This is the library behind the `framecrew` command; everything the command does, a program can do:
//!
//! ```no_run
//! use framecrew::{Cluster, JobSpec};
//!
//! # async fn example() -> Result<(), framecrew::Error> {
//! let cluster = Cluster::connect("http://127.0.0.1:4000").await?;
//! let job = cluster.submit(JobSpec::animation("shot.blend").frames(1..=250)).await?;
//! println!("job {} is durable", job.id());
//! # Ok(())
//! # }
//! ```
//!
//! [`Cluster`] submits, watches and fetches; [`JobView`] folds a watch into the state of a job; [`view`]
//! shows that state to people; `LocalCluster` (feature `local`) is a whole cluster in this process.

mod cluster;
pub mod contact_sheet;
mod error;
pub mod fetch;
mod folder;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod job;
mod live;
#[cfg(feature = "local")]
pub mod local;
mod log;
mod progress;
mod project;
mod spec;
mod state;
mod submit;
pub mod view;
mod watch;
pub mod words;
mod written;

pub use cluster::Cluster;
pub use error::{Error, Missing, Violation};
pub use folder::{OutputFile, OutputFolder};
pub use framecrew_model::{BlenderVersion, FRAMES_MAX, FrameRange, FrameSet, InvalidFrames};
pub use framecrew_proto::v1 as proto;
pub use framecrew_proto::v1::{ImageFormat, RenderEngine};
pub use inspect::{Inspection, Problem, ReferenceFacts, SceneFacts, ViewLayerFacts, inspect};
pub use job::Job;
pub use live::{Lane, Link, Live, Pace, Rest};
#[cfg(feature = "local")]
pub use local::{LocalCluster, LocalConfig};
pub use log::LogEvent;
pub use progress::{FetchProgress, SubmitProgress};
pub use project::Project;
pub use spec::JobSpec;
pub use state::{JobView, TROUBLED_MAX};
pub use watch::{Watch, WatchEvent};

/// The README's Rust, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
