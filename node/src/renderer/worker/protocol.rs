//! What the node and `worker.py`, its other end, write to each other: a line of JSON for each request and answer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    failure::FailureReason,
    output::{FileOutput, PromisedImage},
    renderer::{
        scene::{Engine, ImageFormat, Scene},
        span::Span,
        warning::WarningKind,
    },
};

/// What a worker must load. Two equal ones need it once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Request {
    pub(super) blend: String,
    pub(super) scene: String,
    pub(super) camera: String,
    pub(super) view_layer: String,
    pub(super) engine: Option<Engine>,
    pub(super) samples: Option<u32>,
    pub(super) scale_percent: Option<u32>,
    pub(super) format: Option<ImageFormat>,
    pub(super) color_depth: Option<u32>,
    pub(super) denoise: Option<bool>,
    pub(super) scripts: bool,
    pub(super) addons: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct DrawRequest<'a> {
    pub(super) load: &'a Request,
    pub(super) frame: i32,
    /// What it draws goes there, and nowhere else.
    pub(super) folder: &'a Path,
    /// Name of the frame's image there, without an extension.
    pub(super) stem: String,
    /// The animation that the frame belongs to.
    pub(super) span: Option<Span>,
}

#[derive(Debug, Serialize)]
pub(super) struct SoundtrackRequest<'a> {
    pub(super) load: &'a Request,
    pub(super) soundtrack: Mix<'a>,
}

/// The scene's sound from its first frame to its last one; with no frames only its rate is asked for.
#[derive(Debug, Serialize)]
pub(super) struct Mix<'a> {
    pub(super) span: Option<(i32, i32)>,
    pub(super) to: &'a Path,
}

#[derive(Debug, Serialize)]
pub(super) struct DevelopRequest<'a> {
    pub(super) develop: Develop<'a>,
}

#[derive(Debug, Serialize)]
pub(super) struct Develop<'a> {
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Ready {
        version: String,
    },
    Loading {},
    Drawing {
        #[serde(default)]
        scene: String,
    },
    Note {
        text: String,
    },
    Warning {
        kind: WarningKind,
        text: String,
    },
    /// Will be among what the frame produced.
    Image(PromisedImage),
    /// May be among what the frame produced.
    FileOutput(FileOutput),
    /// The name that Blender would give the frame's image, without an extension; empty if it would write none.
    Named {
        name: String,
    },
    /// A frame of an animation that nobody wants was drawn again.
    Passed {
        frame: i32,
    },
    Done {
        seconds: f64,
        peak_memory_bytes: u64,
        memory_bytes: u64,
    },
    Developed {},
    Soundtrack {
        fps: u32,
        fps_base: f64,
        sound: bool,
        delay_frames: u32,
    },
    Failed {
        reason: FailureReason,
        message: String,
    },
}

impl Request {
    pub(super) fn new(scene: &Scene) -> Self {
        let settings = &scene.settings;
        Self {
            blend: scene.blend.to_string_lossy().into_owned(),
            scene: settings.scene.clone(),
            camera: settings.camera.clone(),
            view_layer: settings.view_layer.clone(),
            engine: settings.engine,
            samples: settings.samples,
            scale_percent: settings.scale_percent,
            format: settings.format,
            color_depth: settings.color_depth,
            denoise: settings.denoise,
            scripts: settings.run_scripts,
            addons: scene.addons.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        }
    }
}
