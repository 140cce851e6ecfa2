//! Turns what the node's rooms say into messages of the protocol.

use framecrew_proto::v1;

use crate::{
    blender::{Offered, OfferedKind},
    failure::FailureReason,
    output::{Checked, Content, Preview},
    renderer::{Progress, Warning, WarningKind},
};

impl From<FailureReason> for v1::FailureReason {
    fn from(reason: FailureReason) -> Self {
        match reason {
            FailureReason::Renderer => Self::Renderer,
            FailureReason::InvalidOutput => Self::InvalidOutput,
            FailureReason::Timeout => Self::Timeout,
            FailureReason::OutOfMemory => Self::OutOfMemory,
            FailureReason::Infrastructure => Self::Infrastructure,
            FailureReason::Permanent => Self::Permanent,
        }
    }
}

/// The number that stands for a reason in a message.
impl From<FailureReason> for i32 {
    fn from(reason: FailureReason) -> Self {
        v1::FailureReason::from(reason).into()
    }
}

impl From<WarningKind> for v1::WarningKind {
    fn from(kind: WarningKind) -> Self {
        match kind {
            WarningKind::MissingFile => Self::MissingFile,
            WarningKind::MissingLibrary => Self::MissingLibrary,
            WarningKind::ScriptBlocked => Self::ScriptBlocked,
            WarningKind::Engine => Self::Engine,
            WarningKind::Denoiser => Self::Denoiser,
            WarningKind::Format => Self::Format,
            WarningKind::Unbaked => Self::Unbaked,
            WarningKind::Color => Self::Color,
            WarningKind::Incomplete => Self::Incomplete,
            WarningKind::Addon => Self::Addon,
            WarningKind::Blender => Self::Blender,
        }
    }
}

impl From<Warning> for v1::Warning {
    fn from(Warning { kind, text }: Warning) -> Self {
        Self { kind: v1::WarningKind::from(kind).into(), text }
    }
}

/// The slice is left out: the renderer does not know it.
impl From<Progress> for v1::SliceProgress {
    fn from(progress: Progress) -> Self {
        let Progress { samples_done, samples_total, fraction, remaining_seconds, memory_bytes } =
            progress;
        Self { slice: None, samples_done, samples_total, fraction, remaining_seconds, memory_bytes }
    }
}

impl From<&Checked> for v1::Output {
    fn from(checked: &Checked) -> Self {
        let (width, height) = checked.size;
        Self {
            name: checked.name.clone(),
            digest: checked.blob.digest.to_string(),
            size_bytes: checked.blob.size_bytes,
            width,
            height,
            channels: checked.channels,
        }
    }
}

impl From<&Preview> for v1::Preview {
    fn from(Preview { size: (width, height), blob }: &Preview) -> Self {
        let data = match &blob.content {
            Content::Memory(data) => data.to_vec(),
            Content::File(_) => Vec::new(),
        };
        Self {
            digest: blob.digest.to_string(),
            size_bytes: blob.size_bytes,
            width: *width,
            height: *height,
            data: data.into(),
        }
    }
}

impl From<Offered> for v1::Blender {
    fn from(offered: Offered) -> Self {
        let kind = match offered.kind {
            OfferedKind::Executable => v1::BlenderKind::Executable,
            OfferedKind::Module => v1::BlenderKind::Module,
            OfferedKind::Provisionable => v1::BlenderKind::Provisionable,
            OfferedKind::Synthetic => v1::BlenderKind::Synthetic,
        };
        Self {
            version: offered.version.map_or_else(String::new, |version| version.to_string()),
            kind: kind.into(),
            path: offered.path.to_string_lossy().into_owned(),
            unusable: offered.unusable,
        }
    }
}
