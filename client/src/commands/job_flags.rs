//! The flags that describe a job, in groups as `--help` shows them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::FalseyValueParser};
use framecrew::{JobSpec, RenderEngine};
use framecrew_model::time;

/// How the frames are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Render settings (default: the file's own)")]
pub(super) struct Settings {
    /// Render engine
    #[arg(long, env = "FRAMECREW_ENGINE", ignore_case = true, value_name = "ENGINE")]
    engine: Option<Engine>,
    /// Samples per pixel
    #[arg(long, env = "FRAMECREW_SAMPLES", value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "COUNT")]
    samples: Option<u32>,
    /// Size of the frames in percent of the file's resolution
    #[arg(long, env = "FRAMECREW_SCALE", value_parser = percent, value_name = "PERCENT")]
    scale: Option<u32>,
    /// Scene to render
    #[arg(long, env = "FRAMECREW_SCENE", value_name = "NAME")]
    scene: Option<String>,
    /// View layer to render, alone
    #[arg(long, env = "FRAMECREW_VIEW_LAYER", value_name = "NAME")]
    view_layer: Option<String>,
    /// Camera to render from
    #[arg(long, env = "FRAMECREW_CAMERA", value_name = "NAME")]
    camera: Option<String>,
    /// Whether to denoise
    #[arg(long, env = "FRAMECREW_DENOISE", ignore_case = true, value_name = "WHETHER")]
    denoise: Option<Switch>,
}

impl Settings {
    /// Sets what was asked for.
    pub(super) fn apply(&self, mut spec: JobSpec) -> JobSpec {
        if let Some(engine) = self.engine {
            spec = spec.engine(match engine {
                Engine::Cycles => RenderEngine::Cycles,
                Engine::Eevee => RenderEngine::Eevee,
                Engine::Workbench => RenderEngine::Workbench,
            });
        }
        if let Some(samples) = self.samples {
            spec = spec.samples(samples);
        }
        if let Some(percent) = self.scale {
            spec = spec.scale_percent(percent);
        }
        if let Some(scene) = &self.scene {
            spec = spec.scene(scene);
        }
        if let Some(view_layer) = &self.view_layer {
            spec = spec.view_layer(view_layer);
        }
        if let Some(camera) = &self.camera {
            spec = spec.camera(camera);
        }
        if let Some(switch) = self.denoise {
            spec = spec.denoise(matches!(switch, Switch::On));
        }
        spec
    }
}

/// What of the project is sent and run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Project")]
pub(super) struct Trust {
    /// Run the file's own Python (registered texts, driver expressions); only on nodes started with --allow-scripts
    #[arg(long, env = "FRAMECREW_RUN_SCRIPTS", value_parser = FalseyValueParser::new())]
    run_scripts: bool,
    /// Fail a frame where otherwise there would be a warning: a missing file, a script that was not run
    #[arg(long, env = "FRAMECREW_STRICT", value_parser = FalseyValueParser::new())]
    strict: bool,
    /// Upload what symbolic links in the project lead to, outside of it too
    #[arg(long, env = "FRAMECREW_FOLLOW_LINKS", value_parser = FalseyValueParser::new())]
    follow_links: bool,
    /// Colour configuration (OpenColorIO, a config.ocio or .ocioz) to send and draw with [default: the one in the
    /// variable OCIO if the file needs it, otherwise Blender's own]
    #[arg(long, env = "FRAMECREW_OCIO", value_name = "FILE")]
    ocio: Option<PathBuf>,
    /// Add-on or extension to send and enable, as a .zip that Blender can install; only for nodes started with
    /// --allow-scripts; may be repeated
    #[arg(
        long = "addon",
        env = "FRAMECREW_ADDONS",
        value_delimiter = ',',
        value_name = "FILE.zip"
    )]
    addons: Vec<PathBuf>,
}

impl Trust {
    /// Sets what was asked for.
    pub(super) fn apply(&self, spec: JobSpec) -> JobSpec {
        let mut spec =
            spec.run_scripts(self.run_scripts).strict(self.strict).follow_links(self.follow_links);
        if let Some(config) = &self.ocio {
            spec = spec.color_config(config);
        }
        self.addons.iter().fold(spec, JobSpec::addon)
    }

    /// Whether the job runs Python that comes with it.
    pub(super) fn runs_python(&self) -> bool {
        self.run_scripts || !self.addons.is_empty()
    }
}

/// Which nodes draw the job, and when.
#[derive(Debug, Args)]
#[command(next_help_heading = "Scheduling")]
pub(super) struct Placing {
    /// Name for people [default: the file's name]
    #[arg(long, env = "FRAMECREW_JOB_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Jobs of higher priority get free slots first
    #[arg(long, env = "FRAMECREW_PRIORITY", default_value_t = 0, value_parser = priority, allow_hyphen_values = true, value_name = "-100..100")]
    priority: i32,
    /// Render only on nodes with this tag; may be repeated
    #[arg(long = "tag", env = "FRAMECREW_JOB_TAGS", value_delimiter = ',', value_name = "TAG")]
    tags: Vec<String>,
    /// Version of Blender, like 4.5; a version older than the file may lose some of it [default: any that is not
    /// older]
    #[arg(long, env = "FRAMECREW_BLENDER", value_parser = blender_version, value_name = "VERSION")]
    blender: Option<String>,
    /// Whether one node draws the frames in ascending order; auto: of a range in which a simulation is not baked, so
    /// that frames equal those that one Blender draws in sequence
    #[arg(
        long,
        env = "FRAMECREW_IN_ORDER",
        ignore_case = true,
        default_value = "auto",
        value_name = "WHETHER"
    )]
    in_order: InOrder,
    /// Start a new Blender for each frame: the first frame that EEVEE draws in a process differs slightly from
    /// later ones
    #[arg(long, env = "FRAMECREW_COLD", value_parser = FalseyValueParser::new())]
    cold: bool,
}

impl Placing {
    /// Sets what was asked for.
    pub(super) fn apply(&self, spec: JobSpec) -> JobSpec {
        let mut spec = spec.priority(self.priority).cold(self.cold);
        spec = match self.in_order {
            InOrder::Auto => spec,
            InOrder::On => spec.in_order(true),
            InOrder::Off => spec.in_order(false),
        };
        if let Some(name) = &self.name {
            spec = spec.name(name);
        }
        if let Some(version) = &self.blender {
            spec = spec.blender(version);
        }
        self.tags.iter().fold(spec, JobSpec::tag)
    }
}

/// How long nodes and frames may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Time limits (like 90s, 10m, 1h30m, 2d)")]
pub(super) struct Limits {
    /// How long a node may be cut off before others get its frames, 15s to 1d: more of it carries a long frame
    /// through an outage, and waits as long for a node that is dead [default: 15s]
    #[arg(long, env = "FRAMECREW_NODE_SILENCE", value_parser = time, value_name = "TIME")]
    node_silence: Option<Duration>,
    /// How long Blender may write nothing before a try is ended as hung, 10s to 1d: more of it for what takes long
    /// to load [default: 10m]
    #[arg(long, env = "FRAMECREW_FRAME_SILENCE", value_parser = time, value_name = "TIME")]
    frame_silence: Option<Duration>,
    /// How long one try at a frame may take in all, 1s to 30d [default: as long as it takes]
    #[arg(long, env = "FRAMECREW_FRAME_LIMIT", value_parser = time, value_name = "TIME")]
    frame_limit: Option<Duration>,
}

impl Limits {
    /// Sets what was asked for.
    pub(super) fn apply(&self, mut spec: JobSpec) -> JobSpec {
        if let Some(time) = self.node_silence {
            spec = spec.node_silence(time);
        }
        if let Some(time) = self.frame_silence {
            spec = spec.frame_silence(time);
        }
        if let Some(time) = self.frame_limit {
            spec = spec.frame_limit(time);
        }
        spec
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    Cycles,
    Eevee,
    Workbench,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InOrder {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Parses `50`, or `50%` as people write it.
fn percent(text: &str) -> Result<u32, &'static str> {
    let number = text.trim().trim_end_matches('%').trim_end();
    let percent = number.parse().ok().filter(|percent| (1..=1_000).contains(percent));
    percent.ok_or("write a whole number of percent, 1 to 1000, like 50")
}

/// Parses a priority.
fn priority(text: &str) -> Result<i32, &'static str> {
    let priority = text.trim().parse().ok().filter(|priority| (-100..=100).contains(priority));
    priority.ok_or("write a number, -100 to 100: higher goes first, 0 is the default, 50 is urgent")
}

/// Parses a version in the form that the cluster accepts.
fn blender_version(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let are_numbers = text.split('.').all(|part| part.parse::<u16>().is_ok());
    let is_version = are_numbers && matches!(text.split('.').count(), 2 | 3);
    is_version.then(|| text.to_owned()).ok_or("write a version like 4.5 or 4.5.15")
}
