use std::path::PathBuf;

use clap::{Args, ValueEnum};
use framecrew::{
    Cluster, FrameSet, ImageFormat, Job, JobSpec, OutputFolder, Project, RenderEngine,
    SubmitProgress, view::words,
};

use super::Global;
#[cfg(feature = "local")]
use super::renderer::{Here, Plan, Renderer, scratch};
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
    /// Image format of the frames [default: the file's own; PNG for a movie]
    #[arg(
        long,
        env = "FRAMECREW_FORMAT",
        ignore_case = true,
        value_name = "FORMAT",
        help_heading = "Frames"
    )]
    format: Option<Format>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    placing: Placing,
    /// Submit only: print the job and leave
    #[arg(long, env = "FRAMECREW_DETACH", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Watching")]
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
    #[arg(long, env = "FRAMECREW_SCALE", value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "PERCENT")]
    scale: Option<u32>,
    /// Scene to render
    #[arg(long, env = "FRAMECREW_SCENE", value_name = "NAME")]
    scene: Option<String>,
    /// Camera to render from
    #[arg(long, env = "FRAMECREW_CAMERA", value_name = "NAME")]
    camera: Option<String>,
    /// Whether to denoise
    #[arg(long, env = "FRAMECREW_DENOISE", ignore_case = true, value_name = "WHETHER")]
    denoise: Option<Switch>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Scheduling")]
struct Placing {
    /// Name for people [default: the file's name]
    #[arg(long, env = "FRAMECREW_JOB_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Jobs of higher priority get free slots first
    #[arg(long, env = "FRAMECREW_PRIORITY", default_value_t = 0, value_parser = clap::value_parser!(i32).range(-100..=100), allow_hyphen_values = true, value_name = "-100..100")]
    priority: i32,
    /// Render only on nodes with this tag; may be repeated
    #[arg(long = "tag", env = "FRAMECREW_JOB_TAGS", value_delimiter = ',', value_name = "TAG")]
    tags: Vec<String>,
    /// Version of Blender, like 4.5 [default: any that is not older than the file]
    #[arg(long, env = "FRAMECREW_BLENDER", value_name = "VERSION")]
    blender: Option<String>,
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
    #[value(name = "TIFF")]
    Tiff,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Render {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        // What can go wrong here is found out before anything is made there.
        let project = Project::open(self.spec()).await?;
        project.notes().iter().for_each(|remark| note(format_args!("note: {remark}")));
        #[cfg(feature = "local")]
        if let Some(nodes) = self.local.nodes {
            return self.run_here(nodes, &project, global).await;
        }
        let cluster = global.connect().await?;
        let folder = if self.detach { None } else { Some(self.open_folder(&project)?) };
        let mut interrupts = Interrupts::listen()?;
        let submitted = tokio::select! {
            submitted = submit(&cluster, &project) => submitted,
            _ = interrupts.next() => {
                note(format_args!(
                    "interrupted; perhaps the job is submitted already: `{}` tells",
                    again(&cluster, "jobs")
                ));
                Err(Failure { exit: Exit::Interrupted, text: String::new() })
            }
        };
        let (job, folder) = match (submitted, folder) {
            (Ok(job), Some(folder)) => (job, folder),
            (Ok(job), None) => return self.detached(&cluster, &job, global.json),
            (Err(failure), folder) => {
                folder.into_iter().for_each(OutputFolder::abandon);
                return Err(failure);
            }
        };
        let follow = Follow {
            cluster: &cluster,
            job_id: job.id(),
            folder: Some(&folder),
            outlives: true,
            json: global.json,
        };
        match follow.run(&mut interrupts).await? {
            Ending::Over(view) => Ok(Exit::of_job(view.state())),
            Ending::Interrupted { by, is_over } => {
                leave(&follow, by, is_over, &mut interrupts).await
            }
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
        let folder = self.open_folder(project)?;
        let mut interrupts = Interrupts::listen()?;
        let scratch = scratch()?;
        let plan = Plan {
            nodes,
            renderer: &self.local.renderer,
            needs: project.saved_by(),
            data: scratch.path().into(),
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        };
        let mut here = match Here::start(plan, &mut interrupts).await {
            Ok(Some(here)) => here,
            other => {
                folder.abandon();
                return other.map(|_| Exit::Interrupted);
            }
        };
        let rendered = here.render(project, &folder, global.json, &mut interrupts).await;
        here.stop().await;
        Ok(rendered?.map_or(Exit::Interrupted, |view| Exit::of_job(view.state())))
    }

    fn open_folder(&self, project: &Project) -> Result<OutputFolder, Failure> {
        let default = || paths::frames_of(&project.spec().name);
        Ok(OutputFolder::open(&self.output.clone().unwrap_or_else(default))?)
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
        Ok(Exit::Success)
    }

    fn spec(&self) -> JobSpec {
        let Self { settings, placing, .. } = self;
        let mut spec = JobSpec::animation(&self.file).priority(placing.priority);
        if let Some(frames) = &self.frames {
            spec = spec.frames(frames.clone());
        }
        if let Some(format) = self.format {
            spec = spec.format(match format {
                Format::Png => ImageFormat::Png,
                Format::Jpeg => ImageFormat::Jpeg,
                Format::OpenExr => ImageFormat::OpenExr,
                Format::Tiff => ImageFormat::Tiff,
            });
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
        if let Some(camera) = &settings.camera {
            spec = spec.camera(camera);
        }
        if let Some(switch) = settings.denoise {
            spec = spec.denoise(matches!(switch, Switch::On));
        }
        if let Some(name) = &placing.name {
            spec = spec.name(name);
        }
        if let Some(version) = &placing.blender {
            spec = spec.blender(version);
        }
        placing.tags.iter().fold(spec, JobSpec::tag)
    }
}

/// Uploads and submits, and shows how far that is.
pub(super) async fn submit(cluster: &Cluster, project: &Project) -> Result<Job, Failure> {
    let mut line = ProgressLine::default();
    let mut is_away = false;
    let show = |progress| match progress {
        SubmitProgress::Hashing { done_bytes, total_bytes } => {
            line.show("hashing", done_bytes, total_bytes);
        }
        SubmitProgress::Uploading { sent_bytes, total_bytes } => {
            line.show("uploading", sent_bytes, total_bytes);
        }
        SubmitProgress::Waiting { .. } => {
            if !std::mem::replace(&mut is_away, true) {
                line.clear();
                note("the orchestrator is away; trying again …");
            }
        }
    };
    let submitted = cluster.submit_project(project, show).await;
    line.clear();
    Ok(submitted?)
}
