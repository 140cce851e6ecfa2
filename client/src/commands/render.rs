use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::FalseyValueParser};
use framecrew::{
    Cluster, FrameSet, ImageFormat, Job, JobSpec, OutputFile, OutputFolder, Project, words,
};

use super::{
    global::Global,
    job_flags::{Limits, Placing, Settings, Trust},
    movie::MovieFile,
    submit::submit,
};
#[cfg(feature = "local")]
use super::{
    local_session::{LocalSession, Plan},
    renderer::Renderer,
    scratch::Scratch,
};
use crate::console::{
    Ending, Exit, Failure, Follow, Interrupts, again, leave, note, paths, quoted, say, say_json,
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
        let destinations = if self.detach { None } else { Some(self.open_destinations(&project)?) };
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
                    "interrupted; the job may already be submitted, check with `{}`",
                    again(&cluster, "jobs")
                ));
                Err(Failure { exit: Exit::Interrupted, text: String::new() })
            }
        };
        let (job, destinations) = match (submitted, destinations) {
            (Ok(job), Some(destinations)) => (job, destinations),
            (Ok(job), None) => return self.detached(&cluster, &job, global.json),
            (Err(failure), destinations) => {
                destinations.into_iter().for_each(Destinations::abandon);
                return Err(failure);
            }
        };
        let follow = Follow {
            cluster: &cluster,
            job_id: job.id(),
            folder: Some(&destinations.frames),
            movie: destinations.movie.as_ref(),
            outlives: true,
            json: global.json,
        };
        match follow.run(&mut interrupts).await? {
            Ending::Over(view) => Ok(Exit::of_job(view.state())),
            Ending::Interrupted(left) => leave(&cluster, left, &mut interrupts).await,
        }
    }

    /// Refuses a movie of frames that no encoder takes.
    fn check_movie(&self) -> Result<(), Failure> {
        match (&self.movie, self.format) {
            (Some(_), Some(Format::OpenExr | Format::OpenExrMultilayer)) => Err(Failure::usage(
                "movies cannot be encoded from OpenEXR (scene-linear HDR) frames; choose another --format, like PNG",
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
        let destinations = self.open_destinations(project)?;
        let mut interrupts = Interrupts::listen()?;
        let scratch = Scratch::new()?;
        let plan = Plan {
            nodes,
            renderer: &self.local.renderer,
            needs: project.needs(),
            data: scratch.path().into(),
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            // They are this person's own scripts, on the person's own machine.
            allow_scripts: self.trust.runs_python(),
        };
        let mut here = match LocalSession::start(plan, &mut interrupts).await {
            Ok(Some(here)) => here,
            other => {
                destinations.abandon();
                return other.map(|_| Exit::Interrupted);
            }
        };
        let movie = destinations.movie.as_ref();
        let rendered =
            here.render(project, &destinations.frames, movie, global.json, &mut interrupts);
        let rendered = rendered.await;
        here.stop().await;
        Ok(rendered?.map_or(Exit::Interrupted, |view| Exit::of_job(view.state())))
    }

    fn open_destinations(&self, project: &Project) -> Result<Destinations, Failure> {
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
            Ok(frames) => Ok(Destinations { frames, movie }),
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
        let mut spec = JobSpec::animation(&self.file);
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
        let spec = self.trust.apply(self.settings.apply(spec));
        self.limits.apply(self.placing.apply(spec))
    }
}

/// Where the frames and the movie go.
struct Destinations {
    frames: OutputFolder,
    movie: Option<OutputFile>,
}

impl Destinations {
    fn abandon(self) {
        self.frames.abandon();
        self.movie.into_iter().for_each(OutputFile::abandon);
    }
}
