use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::FalseyValueParser};
use framecrew::{
    Cluster, FrameSet, ImageFormat, Job, JobSpec, OutputFile, OutputFolder, Project, RenderEngine,
    SubmitProgress, view::words,
};

use super::{Global, movie::MovieFile, time::time};
#[cfg(feature = "local")]
use super::{
    renderer::{Here, Plan, Renderer},
    scratch::Scratch,
};
use crate::console::{
    Ending, Exit, Failure, Follow, Interrupts, ProgressLine, again, leave, note, paths, quoted,
    say, say_json,
};

/// Render a .blend on the cluster, and bring its frames as they finish
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  framecrew render shot.blend                         the file's own frame range
  framecrew render shot.blend -f 1-250,300..400x2     other frames
  framecrew render shot.blend -f 42 --samples 16 --scale 25
  framecrew render shot.blend --movie shot.mp4        the frames, and a movie of them
  framecrew render shot.blend --frame-limit 2h        a frame that takes longer has failed
  framecrew render shot.blend --strict                a missing texture fails the frame instead of a warning
  framecrew render shot.blend --detach --json         submit only, and print the job
  framecrew render shot.blend --local=2               on this machine, with two nodes, no cluster needed")]
pub(crate) struct Render {
    /// The .blend to render
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Frames to render, like 1-250,300..400x2 [default: the file's own range and step]
    #[arg(
        short,
        long,
        env = "FRAMECREW_FRAMES",
        allow_hyphen_values = true,
        value_name = "FRAMES",
        help_heading = "Frames"
    )]
    frames: Option<FrameSet>,
    /// Folder for the frames [default: the job's name with -frames]
    #[arg(short, long, env = "FRAMECREW_OUTPUT", value_name = "DIR", help_heading = "Frames")]
    output: Option<PathBuf>,
    /// Replace existing files, including those that Framecrew did not write or that were changed since
    #[arg(long, env = "FRAMECREW_OVERWRITE", value_parser = FalseyValueParser::new(), help_heading = "Frames")]
    overwrite: bool,
    /// Image format of the frames [default: the file's own; PNG for a movie]
    #[arg(
        long,
        env = "FRAMECREW_FORMAT",
        ignore_case = true,
        value_name = "FORMAT",
        help_heading = "Frames"
    )]
    format: Option<Format>,
    /// Bits of a channel, of those that the format has: PNG and TIFF 8 or 16, JPEG and WebP 8, OpenEXR 16 or 32
    /// [default: the file's own]
    #[arg(long = "depth", env = "FRAMECREW_DEPTH", value_name = "BITS", help_heading = "Frames")]
    depth: Option<Depth>,
    /// Make a movie of the frames once all are there, with the scene's sound: .mp4 (H.264), .mkv (H.264, lossless
    /// sound), .mov (ProRes) or .webm (VP9); not from OpenEXR
    #[arg(long, env = "FRAMECREW_MOVIE", value_parser = MovieFile::parser(), value_name = "FILE", help_heading = "Frames")]
    movie: Option<MovieFile>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    placing: Placing,
    #[command(flatten)]
    limits: Limits,
    /// Submit only: print the job and leave
    #[arg(long, env = "FRAMECREW_DETACH", value_parser = FalseyValueParser::new(), help_heading = "Watching")]
    detach: bool,
    #[cfg(feature = "local")]
    #[command(flatten)]
    local: Local,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Render settings (default: the file's own)")]
struct Settings {
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

#[derive(Debug, Args)]
#[command(next_help_heading = "Project")]
struct Trust {
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

#[derive(Debug, Args)]
#[command(next_help_heading = "Scheduling")]
struct Placing {
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

#[derive(Debug, Args)]
#[command(next_help_heading = "Time limits (like 90s, 10m, 1h30m, 2d)")]
struct Limits {
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

#[cfg(feature = "local")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Without a cluster")]
struct Local {
    /// Render on this machine, with as many nodes in this process
    #[arg(long = "local", env = "FRAMECREW_LOCAL", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = clap::value_parser!(u8).range(1..=64), value_name = "NODES")]
    nodes: Option<u8>,
    #[command(flatten)]
    renderer: Renderer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    Cycles,
    Eevee,
    Workbench,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    #[value(name = "PNG")]
    Png,
    #[value(name = "JPEG")]
    Jpeg,
    #[value(name = "OPEN_EXR", alias = "EXR")]
    OpenExr,
    #[value(name = "OPEN_EXR_MULTILAYER", alias = "EXR_MULTILAYER")]
    OpenExrMultilayer,
    #[value(name = "TIFF")]
    Tiff,
    #[value(name = "WEBP")]
    Webp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Depth {
    #[value(name = "8")]
    Bits8,
    #[value(name = "16")]
    Bits16,
    #[value(name = "32")]
    Bits32,
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

impl Render {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        // What can go wrong here is found out before anything is made there.
        self.check_movie()?;
        let project = Project::open(self.spec()).await?;
        project.notes().iter().for_each(|remark| note(format_args!("note: {remark}")));
        #[cfg(feature = "local")]
        if let Some(nodes) = self.local.nodes {
            return self.run_here(nodes, &project, global).await;
        }
        let cluster = global.connect().await?;
        let places = if self.detach { None } else { Some(self.open_places(&project)?) };
        let mut interrupts = Interrupts::listen()?;
        let submitting = async {
            // A submission waits for who is away; at first contact that would only hide a wrong URL.
            cluster.ping().await?;
            submit(&cluster, &project).await
        };
        let submitted = tokio::select! {
            submitted = submitting => submitted,
            _ = interrupts.next() => {
                note(format_args!(
                    "interrupted; perhaps the job is submitted already: `{}` tells",
                    again(&cluster, "jobs")
                ));
                Err(Failure { exit: Exit::Interrupted, text: String::new() })
            }
        };
        let (job, places) = match (submitted, places) {
            (Ok(job), Some(places)) => (job, places),
            (Ok(job), None) => return self.detached(&cluster, &job, global.json),
            (Err(failure), places) => {
                places.into_iter().for_each(Places::abandon);
                return Err(failure);
            }
        };
        let follow = Follow {
            cluster: &cluster,
            job_id: job.id(),
            folder: Some(&places.frames),
            movie: places.movie.as_ref(),
            outlives: true,
            json: global.json,
        };
        match follow.run(&mut interrupts).await? {
            Ending::Over(view) => Ok(Exit::of_job(view.state())),
            Ending::Interrupted(left) => leave(&cluster, left, &mut interrupts).await,
        }
    }

    /// Refuses what is no movie in the making.
    fn check_movie(&self) -> Result<(), Failure> {
        match (&self.movie, self.format) {
            (Some(_), Some(Format::OpenExr | Format::OpenExrMultilayer)) => Err(Failure::usage(
                "a movie cannot be made of OpenEXR frames, whose light has no limits; take another --format, like PNG",
            )),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "local")]
    async fn run_here(
        &self,
        nodes: u8,
        project: &Project,
        global: &Global,
    ) -> Result<Exit, Failure> {
        if self.detach {
            return Err(Failure::usage(
                "--detach leaves the job to a cluster, but --local has one only while this command runs; drop one of them",
            ));
        }
        let places = self.open_places(project)?;
        let mut interrupts = Interrupts::listen()?;
        let scratch = Scratch::new()?;
        let plan = Plan {
            nodes,
            renderer: &self.local.renderer,
            needs: project.needs(),
            data: scratch.path().into(),
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            // They are this person's own scripts, on the person's own machine.
            allow_scripts: self.trust.run_scripts || !self.trust.addons.is_empty(),
        };
        let mut here = match Here::start(plan, &mut interrupts).await {
            Ok(Some(here)) => here,
            other => {
                places.abandon();
                return other.map(|_| Exit::Interrupted);
            }
        };
        let movie = places.movie.as_ref();
        let rendered = here.render(project, &places.frames, movie, global.json, &mut interrupts);
        let rendered = rendered.await;
        here.stop().await;
        Ok(rendered?.map_or(Exit::Interrupted, |view| Exit::of_job(view.state())))
    }

    fn open_places(&self, project: &Project) -> Result<Places, Failure> {
        let overwrite = self.overwrite;
        let movie = self.movie.as_ref().map(|movie| movie.check(overwrite)).transpose()?;
        let default = || paths::frames_of(&project.spec().name);
        let open = || {
            let folder = OutputFolder::open(&self.output.clone().unwrap_or_else(default))?;
            let folder = folder.overwriting(overwrite);
            project.check_folder(&folder)?;
            Ok::<_, framecrew::Error>(folder)
        };
        match open() {
            Ok(frames) => Ok(Places { frames, movie }),
            Err(error) => {
                movie.into_iter().for_each(OutputFile::abandon);
                Err(error.into())
            }
        }
    }

    fn detached(&self, cluster: &Cluster, job: &Job, json: bool) -> Result<Exit, Failure> {
        if json {
            say_json(job.info())?;
            return Ok(Exit::Success);
        }
        let (id, total) = (job.id(), words::total(&job.info().counts.unwrap_or_default()));
        let output = self.output.as_deref();
        let output = output.map_or_else(String::new, |path| format!(" -o {}", quoted(path)));
        say(format_args!(
            "job {id} is submitted: {}; follow it with `{}`, get its frames with `{}`",
            words::frames(total),
            again(cluster, &format!("watch {id}")),
            again(cluster, &format!("fetch {id}{output}"))
        ))?;
        if let Some(movie) = &self.movie {
            let fetch = format!("fetch {id} --movie {}", quoted(movie.path()));
            say(format_args!(
                "once all are there, a job of its own makes the movie; get it with `{}`",
                again(cluster, &fetch)
            ))?;
        }
        Ok(Exit::Success)
    }

    fn spec(&self) -> JobSpec {
        let Self { settings, trust, placing, limits, .. } = self;
        let mut spec = JobSpec::animation(&self.file)
            .priority(placing.priority)
            .run_scripts(trust.run_scripts)
            .cold(placing.cold)
            .strict(trust.strict)
            .follow_links(trust.follow_links);
        if let Some(frames) = &self.frames {
            spec = spec.frames(frames.clone());
        }
        if let Some(format) = self.format {
            spec = spec.format(match format {
                Format::Png => ImageFormat::Png,
                Format::Jpeg => ImageFormat::Jpeg,
                Format::OpenExr => ImageFormat::OpenExr,
                Format::OpenExrMultilayer => ImageFormat::OpenExrMultilayer,
                Format::Tiff => ImageFormat::Tiff,
                Format::Webp => ImageFormat::Webp,
            });
        }
        if let Some(depth) = self.depth {
            spec = spec.color_depth(match depth {
                Depth::Bits8 => 8,
                Depth::Bits16 => 16,
                Depth::Bits32 => 32,
            });
        }
        if let Some(movie) = &self.movie {
            spec = spec.movie(movie.format());
        }
        if let Some(engine) = settings.engine {
            spec = spec.engine(match engine {
                Engine::Cycles => RenderEngine::Cycles,
                Engine::Eevee => RenderEngine::Eevee,
                Engine::Workbench => RenderEngine::Workbench,
            });
        }
        if let Some(samples) = settings.samples {
            spec = spec.samples(samples);
        }
        if let Some(percent) = settings.scale {
            spec = spec.scale_percent(percent);
        }
        if let Some(scene) = &settings.scene {
            spec = spec.scene(scene);
        }
        if let Some(view_layer) = &settings.view_layer {
            spec = spec.view_layer(view_layer);
        }
        if let Some(camera) = &settings.camera {
            spec = spec.camera(camera);
        }
        if let Some(switch) = settings.denoise {
            spec = spec.denoise(matches!(switch, Switch::On));
        }
        spec = match placing.in_order {
            InOrder::Auto => spec,
            InOrder::On => spec.in_order(true),
            InOrder::Off => spec.in_order(false),
        };
        if let Some(name) = &placing.name {
            spec = spec.name(name);
        }
        if let Some(version) = &placing.blender {
            spec = spec.blender(version);
        }
        if let Some(time) = limits.node_silence {
            spec = spec.node_silence(time);
        }
        if let Some(time) = limits.frame_silence {
            spec = spec.frame_silence(time);
        }
        if let Some(time) = limits.frame_limit {
            spec = spec.frame_limit(time);
        }
        if let Some(config) = &trust.ocio {
            spec = spec.color_config(config);
        }
        let spec = trust.addons.iter().fold(spec, JobSpec::addon);
        placing.tags.iter().fold(spec, JobSpec::tag)
    }
}

/// Where what the job makes will go.
struct Places {
    frames: OutputFolder,
    movie: Option<OutputFile>,
}

impl Places {
    fn abandon(self) {
        self.frames.abandon();
        self.movie.into_iter().for_each(OutputFile::abandon);
    }
}

/// Uploads and submits, and shows how far that is.
pub(super) async fn submit(cluster: &Cluster, project: &Project) -> Result<Job, Failure> {
    let mut line = ProgressLine::default();
    let mut told = String::new();
    let files = format!("reading {}", words::plural(project.file_count() as u64, "file"));
    let show = |progress| match progress {
        SubmitProgress::Hashing { done_bytes, total_bytes } => {
            line.show(&files, done_bytes, total_bytes);
        }
        SubmitProgress::Uploading { sent_bytes, total_bytes } => {
            line.show("uploading", sent_bytes, total_bytes);
        }
        SubmitProgress::Waiting { reason, .. } => {
            if told != reason {
                line.clear();
                note(format_args!("{reason}; trying again for a minute …"));
                told = reason;
            }
        }
    };
    let submitted = cluster.submit_project(project, show).await;
    line.clear();
    Ok(submitted?)
}
