//! The Blenders that a node announces to the cluster.

use std::path::PathBuf;

use super::{FoundBlender, Kind};
use crate::version::Version;

/// A Blender that jobs can have, or a reason why they cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) kind: OfferedKind,
    /// `None`: not known, or not to be counted on.
    pub(crate) version: Option<Version>,
    /// Empty where there is no program yet.
    pub(crate) path: PathBuf,
    /// Why it cannot be used; empty if it can.
    pub(crate) unusable: String,
}

/// What such a Blender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferedKind {
    Executable,
    Module,
    /// The node can fetch it.
    Provisionable,
    /// A renderer for load tests.
    Synthetic,
}

impl From<Kind> for OfferedKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Executable => Self::Executable,
            Kind::Module => Self::Module,
        }
    }
}

impl Offered {
    /// Something that jobs can have, with no program and of no known version.
    pub(crate) fn new(kind: OfferedKind) -> Self {
        Self { kind, version: None, path: PathBuf::new(), unusable: String::new() }
    }
}

impl From<&FoundBlender> for Offered {
    fn from(blender: &FoundBlender) -> Self {
        let FoundBlender { version, kind, path } = blender.clone();
        Self { version: Some(version), path, ..Self::new(kind.into()) }
    }
}
