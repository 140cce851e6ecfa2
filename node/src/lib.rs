//! Renders frames on one machine: [`serve`] joins a cluster, takes batches, draws them with Blender and
//! streams what happens.

// In reading order: what a node is told; how it is put together; what it is; how it belongs to the cluster;
// what it is asked; what it does about it; with what.
mod adoption;
mod backoff;
mod batch;
pub mod blender;
mod config;
mod confine;
mod convert;
pub mod core;
mod data;
mod failure;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod goodbye;
mod membership;
mod movie;
mod node;
mod outbox;
mod output;
mod owner;
mod platform;
mod project;
mod renderer;
mod request;
mod serve;
mod service;
mod uploads;
mod version;
mod work;

pub use config::Config;
pub use confine::{Confine, walls};
pub use membership::Expelled;
pub use renderer::{InjectedFaults, InvalidFaults, InvalidRenderer, RendererChoice, prove};
pub use serve::{ServeError, serve, serve_until};
pub use version::{InvalidVersion, Version};
