//! One warm Blender: started, spoken to, and ended with everything it started.
//!
//! Requests are lines of JSON on its standard input, which also ties its life to ours: the worker ends itself
//! when that closes, whatever it is doing. Answers come on standard output, as lines that begin with a token
//! only the worker knows; everything else there is Blender's own. One pipe for both keeps them in order, works
//! on every system, and costs nothing to the parsing: an answer is written by a single call, which pipes keep
//! whole.

use std::{
    collections::{HashMap, VecDeque},
    fs, io, mem,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use framecrew_proto::v1::{
    FailureReason, ImageFormat, Preview, RenderEngine, RenderSettings, Warning, WarningKind,
};
use image::Rgba32FImage;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{debug, info};

use super::{
    drawing::{Drawing, Drawn, Observation},
    error::{self, RenderError},
    hidden::Hidden,
    lines::{Lines, shorten},
    progress::{self, Estimate, Line},
    scene::Scene,
    soundtrack::{Rate, Sound, Soundtrack},
    span::Span,
    stage,
    warnings::{self, Context},
};
use crate::{
    blender::{FoundBlender, Kind, Telling, shaders},
    confine::{self, Workplace},
    output::{self, Blob, FileOutput, Promise, PromisedImage, frame_name},
    platform::{self, KILL_CHECK_INTERVAL, KILL_TIMEOUT, KillOnDrop},
    version::Version,
};

/// Folder of a Blender's own for what drivers compile.
const SHADERS: &str = "shaders";

/// The script that Blender runs. Its modules are next to it.
const WORKER: &str = "worker.py";
const SCRIPTS: [(&str, &str); 4] = [
    (WORKER, include_str!("worker.py")),
    ("framecrew_addons.py", include_str!("worker/framecrew_addons.py")),
    ("framecrew_bakes.py", include_str!("worker/framecrew_bakes.py")),
    ("framecrew_files.py", include_str!("worker/framecrew_files.py")),
];

/// How long Blender may take to start: 1 second is usual, but the first start from a cold network disk is not.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Text in Blender's line about a colour setting that its configuration does not have.
const SETTING_REPLACED: &str = "not found, setting ";

/// How often progress is told when Blender tells none: people are promised it every second, also on a machine
/// that is busy.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long a Blender without work is kept, with its scene in memory.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Last lines that a failure carries.
const LOG_TAIL_LINES: usize = 20;

/// Lines that are read of what a dead Blender has left in its pipe: as many as fit into one, if they are not very short.
const LAST_LINES_MAX: usize = 4_096;

/// Scenes of a file whose engines are remembered as missing; a film in one file has dozens.
const SCENES_MAX: usize = 1_000;

/// Maximum number of warnings that are kept for a scene or reported for a frame.
const WARNINGS_MAX: usize = 50;

/// Maximum number of unknown lines that a frame reports as warnings, enough to see what is wrong.
const UNKNOWN_MAX: usize = 10;

/// File Output nodes' slots in one file. Films have some hundred.
const FILE_OUTPUTS_MAX: usize = 4_096;

/// Images of one frame: one for each view.
const IMAGES_MAX: usize = 256;

/// How long Blender may take to develop a preview; a tenth of a second is usual. One that takes longer is not
/// worth the wait.
const DEVELOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A Blender that runs our worker.
#[derive(Debug)]
pub(crate) struct Worker {
    blender: FoundBlender,
    child: Child,
    /// Its process group; `None`: dead.
    group: Option<u32>,
    requests: ChildStdin,
    output: Lines<ChildStdout>,
    errors: Lines<ChildStderr>,
    errors_ended: bool,
    mark: String,
    tail: VecDeque<String>,
    phase: Phase,
    loaded: Option<Request>,
    /// The animation in progress, and the last frame that was drawn of it.
    animation: Option<(Request, Span, i32)>,
    /// The node's folder of layouts.
    layouts: PathBuf,
    /// A .blend in its layout, and the path at which this Blender finds it.
    staged: Option<(PathBuf, PathBuf)>,
    /// The colour configuration that it was started with; empty for its own.
    color_config: PathBuf,
    /// Engines that the loaded file asks for and this Blender does not have, by scene.
    unavailable_engines: HashMap<String, String>,
    /// The file it has opened.
    blend: PathBuf,
    /// Replacements for the node's folders in its output.
    hidden: Hidden,
    /// Warnings from Blender's lines about that file, repeated for each batch that draws it.
    warnings: Vec<Warning>,
    /// Warnings from its start, such as a colour configuration that it cannot read, repeated for each frame.
    start_warnings: Vec<Warning>,
    /// Warnings of the current frame so far.
    told: Vec<Warning>,
    /// Whether it ended by itself.
    died: bool,
    /// The frame that it is drawing, which in an animation may be one before the frame that is wanted.
    at: Option<i32>,
    memory_bytes: u64,
    idle_since: Instant,
    /// What the system had killed for want of memory when it began its frame.
    oom_kills: u64,
    /// Most memory that it was seen to have since.
    peak_bytes: u64,
    /// How long it may say nothing.
    silence: Duration,
    /// Whether files' own Python has run in it: it is good for one batch only.
    runs_scripts: bool,
    /// Where the shaders go that it compiles, and how many bytes of them are kept; `None`: it keeps them itself.
    shaders: Option<(PathBuf, u64)>,
    /// Holds the script, the frame that is being drawn, and whatever else Blender writes. All that it can write
    /// to, where there are walls.
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for a request.
    Waiting,
    Loading,
    Drawing,
    /// Dead, or in a state that nothing should be built upon.
    Broken,
}

/// Whether a worker may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    NotDue,
    Due,
}

/// Why a Blender was not started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The node could not start it, because it lacks memory or processes.
    Node(RenderError),
    /// This Blender does not start.
    Blender {
        version: Version,
        /// The reason, in Blender's own words.
        why: String,
        /// Whether another attempt right away is useless, because the start took all the time that it may take, or
        /// the program is gone.
        for_good: bool,
    },
}

/// What a worker must load. Two equal ones need it once.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Request {
    blend: String,
    scene: String,
    camera: String,
    view_layer: String,
    engine: Option<&'static str>,
    samples: Option<u32>,
    scale_percent: Option<u32>,
    format: Option<&'static str>,
    color_depth: Option<u32>,
    denoise: Option<bool>,
    scripts: bool,
    addons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DrawRequest<'a> {
    load: &'a Request,
    frame: i32,
    /// What it draws goes there, and nowhere else.
    folder: &'a Path,
    /// Name of the frame's image there, without an extension.
    stem: String,
    /// The animation that the frame belongs to.
    span: Option<Span>,
}

#[derive(Debug, Serialize)]
struct SoundtrackRequest<'a> {
    load: &'a Request,
    soundtrack: Mix<'a>,
}

/// The scene's sound from its first frame to its last one; with no frames only its rate is asked for.
#[derive(Debug, Serialize)]
struct Mix<'a> {
    span: Option<(i32, i32)>,
    to: &'a Path,
}

#[derive(Debug, Serialize)]
struct DevelopRequest<'a> {
    develop: Develop<'a>,
}

#[derive(Debug, Serialize)]
struct Develop<'a> {
    from: &'a Path,
    to: &'a Path,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
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
        kind: Kinds,
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
        reason: Reason,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    Renderer,
    Permanent,
    OutOfMemory,
}

impl From<Reason> for FailureReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Renderer => Self::Renderer,
            Reason::Permanent => Self::Permanent,
            Reason::OutOfMemory => Self::OutOfMemory,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kinds {
    MissingFile,
    MissingLibrary,
    ScriptBlocked,
    Engine,
    Denoiser,
    Format,
    Unbaked,
    Incomplete,
    Addon,
    Blender,
}

impl From<Kinds> for WarningKind {
    fn from(kind: Kinds) -> Self {
        match kind {
            Kinds::MissingFile => Self::MissingFile,
            Kinds::MissingLibrary => Self::MissingLibrary,
            Kinds::ScriptBlocked => Self::ScriptBlocked,
            Kinds::Engine => Self::Engine,
            Kinds::Denoiser => Self::Denoiser,
            Kinds::Format => Self::Format,
            Kinds::Unbaked => Self::Unbaked,
            Kinds::Incomplete => Self::Incomplete,
            Kinds::Addon => Self::Addon,
            Kinds::Blender => Self::Blender,
        }
    }
}

impl Request {
    fn new(scene: &Scene) -> Self {
        let settings: &RenderSettings = &scene.settings;
        Self {
            blend: scene.blend.to_string_lossy().into_owned(),
            scene: settings.scene.clone(),
            camera: settings.camera.clone(),
            view_layer: settings.view_layer.clone(),
            engine: match settings.engine() {
                RenderEngine::Unspecified => None,
                RenderEngine::Cycles => Some("CYCLES"),
                RenderEngine::Eevee => Some("EEVEE"),
                RenderEngine::Workbench => Some("BLENDER_WORKBENCH"),
            },
            samples: settings.samples,
            scale_percent: settings.scale_percent,
            format: match settings.format() {
                ImageFormat::Unspecified => None,
                ImageFormat::Png => Some("PNG"),
                ImageFormat::Jpeg => Some("JPEG"),
                ImageFormat::OpenExr => Some("OPEN_EXR"),
                ImageFormat::Tiff => Some("TIFF"),
                ImageFormat::OpenExrMultilayer => Some("OPEN_EXR_MULTILAYER"),
                ImageFormat::Webp => Some("WEBP"),
            },
            color_depth: settings.color_depth,
            denoise: settings.denoise,
            scripts: settings.run_scripts,
            addons: scene.addons.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        }
    }
}

/// Whether a warning is about Blender's startup scene, whose view a studio's configuration may lack. No job draws
/// that scene.
fn is_of_startup(warning: &Warning) -> bool {
    warning.text.contains(SETTING_REPLACED)
}

impl Worker {
    /// Starts a Blender for a scene and waits until it is ready.
    pub(crate) async fn start(
        blender: FoundBlender,
        workplace: &Workplace,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Self, NotStarted> {
        let version = blender.version;
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            let message = format!("cannot {what} for Blender {version}: {error}");
            NotStarted::Node(RenderError::new(FailureReason::Infrastructure, message))
        };
        let folder = tempfile::Builder::new()
            .prefix("blender-")
            .tempdir_in(&workplace.work)
            .map_err(|error| cannot("make a folder", &error))?;
        for (name, text) in SCRIPTS {
            fs::write(folder.path().join(name), text)
                .map_err(|error| cannot("write the worker", &error))?;
        }
        let script = folder.path().join(WORKER);

        let mut command = Command::new(&blender.path);
        if blender.kind == Kind::Executable {
            command.args(["--background", "--factory-startup", "--disable-autoexec"]);
            command.args(["--python-exit-code", "1", "--python"]);
        }
        command
            .arg(&script)
            .current_dir(folder.path())
            // Crash reports, caches and settings stay in the folder.
            .env("TMPDIR", folder.path())
            .env("TEMP", folder.path())
            .env("BLENDER_USER_RESOURCES", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !scene.color_config.as_os_str().is_empty() {
            command.env("OCIO", &scene.color_config);
        }
        platform::lead_a_group(&mut command);
        let runs_scripts = scene.is_scripted();
        let only = runs_scripts.then_some(scene.blend.as_path());
        // Python could put anything among them.
        let kept = workplace.shaders().filter(|_| !runs_scripts);
        let shaders = match kept {
            Some(kept) => {
                let (from, to) = (kept.clone(), folder.path().join(SHADERS));
                command.envs(shaders::VARIABLES.map(|name| (name, to.clone())));
                let lent = task::spawn_blocking(move || shaders::lend(&from, &to)).await;
                Some((kept, lent.unwrap_or(0)))
            }
            None => None,
        };
        let program = if workplace.confined { blender.folders() } else { Vec::new() };
        let walls = workplace.walls(folder.path(), program, only);
        let mut child =
            confine::spawn(command, walls).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                    NotStarted::Blender { version, why: error.to_string(), for_good: true }
                }
                _ => cannot("start", &error),
            })?;
        let (Some(requests), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(cannot("open pipes", &"none"));
        };
        let token = format!("{:032x}", fastrand::u128(..));
        let mut worker = Self {
            group: child.id(),
            blender,
            child,
            requests,
            output: Lines::new(output),
            errors: Lines::new(errors),
            errors_ended: false,
            mark: format!("@{token} "),
            tail: VecDeque::new(),
            phase: Phase::Waiting,
            loaded: None,
            animation: None,
            layouts: workplace.layouts.clone(),
            staged: None,
            color_config: scene.color_config.clone(),
            unavailable_engines: HashMap::new(),
            blend: PathBuf::new(),
            hidden: Hidden::new(folder.path(), &[]),
            warnings: Vec::new(),
            start_warnings: Vec::new(),
            told: Vec::new(),
            died: false,
            at: None,
            memory_bytes: 0,
            idle_since: Instant::now(),
            oom_kills: platform::out_of_memory_kills(),
            peak_bytes: 0,
            silence: START_TIMEOUT,
            runs_scripts,
            shaders,
            folder,
        };
        worker.be_ready(&token, observe).await.map(|()| worker)
    }

    /// Waits until it is ready. From then on it knows the token.
    async fn be_ready(
        &mut self,
        token: &str,
        observe: &mut impl FnMut(Observation),
    ) -> Result<(), NotStarted> {
        let version = self.blender.version;
        let (mut telling, begun) = (Telling::default(), Instant::now());
        let mut observe = |observation: Observation| {
            if let Observation::Line(line) = &observation {
                telling.observe(line);
            }
            if !matches!(&observation, Observation::Warning(warning) if is_of_startup(warning)) {
                observe(observation);
            }
        };
        let ready = match self.begin(token, Phase::Broken).await {
            Ok(()) => time::timeout(START_TIMEOUT, self.answer(&mut observe)).await,
            Err(error) => Ok(Err(error)),
        };
        let error = match ready {
            Ok(Ok(Answer::Ready { version }))
                if version.parse::<Version>().is_ok_and(|now| now != self.blender.version) =>
            {
                self.kill().await;
                let (version, now) = (self.blender.version, version);
                let why = format!("it is Blender {now} by now; restart the node to draw with that");
                return Err(NotStarted::Blender { version, why, for_good: true });
            }
            Ok(Ok(Answer::Ready { version })) => {
                info!(%version, path = %self.blender.path.display(), "Blender started");
                self.phase = Phase::Waiting;
                self.start_warnings = mem::take(&mut self.warnings);
                self.start_warnings.retain(|warning| !is_of_startup(warning));
                return Ok(());
            }
            Ok(Ok(_)) => self.broken("answered out of turn").await,
            Ok(Err(error)) => error,
            Err(_) => self.broken("did not start in time").await,
        };
        if error.reason == FailureReason::OutOfMemory {
            let reason = FailureReason::Infrastructure;
            return Err(NotStarted::Node(RenderError { reason, ..error }));
        }
        // Its last lines are only read after it has died.
        self.tail.iter().for_each(|line| telling.observe(line));
        let for_good = begun.elapsed() >= START_TIMEOUT;
        let why = match telling.line() {
            _ if for_good => format!("it was not ready within {} s", START_TIMEOUT.as_secs()),
            Some(line) => line.to_owned(),
            None => error.message,
        };
        Err(NotStarted::Blender { version, why, for_good })
    }

    pub(crate) fn blender(&self) -> &FoundBlender {
        &self.blender
    }

    /// Whether it has a scene in memory already.
    pub(crate) fn has_loaded(&self, scene: &Scene) -> bool {
        self.loaded.as_ref() == Some(&self.request(scene))
    }

    /// Whether it was started with the process-wide settings that a scene's job needs.
    pub(crate) fn is_set_up_for(&self, scene: &Scene) -> bool {
        self.color_config == scene.color_config
    }

    /// Whether it is waiting in the middle of an animation.
    pub(crate) fn is_in_an_animation(&self) -> bool {
        self.animation.is_some()
    }

    /// Whether this frame may come next. An animation in progress must be drawn to its end, and never goes back.
    pub(crate) fn may_draw(&self, scene: &Scene, frame: i32) -> bool {
        self.animation.as_ref().is_none_or(|(load, span, drawn)| {
            Some(*span) == scene.span && *load == self.request(scene) && *drawn < frame
        })
    }

    /// The frame at which it died, if it was drawing one.
    pub(crate) fn died_at(&self) -> Option<i32> {
        self.at.filter(|_| self.died)
    }

    /// How many frames it draws until this one is done: those of an animation that it has not drawn yet, too.
    pub(crate) fn frames_to(&self, scene: &Scene, frame: i32) -> Option<u32> {
        let (_, span, drawn) = self.animation.as_ref()?;
        self.may_draw(scene, frame).then(|| span.frames_between(*drawn, frame))
    }

    /// The request to load a scene, with the path at which this Blender finds it.
    fn request(&self, scene: &Scene) -> Request {
        let mut request = Request::new(scene);
        if let Some((_, at)) = self.staged.as_ref().filter(|(blend, _)| *blend == scene.blend) {
            request.blend = at.to_string_lossy().into_owned();
        }
        request
    }

    /// Lays the scene's project out so that this Blender can do with it what it does on its author's machine.
    async fn stage(&mut self, scene: &Scene) -> Result<Request, RenderError> {
        if self.staged.as_ref().is_none_or(|(blend, _)| *blend != scene.blend) {
            self.staged = None;
            let (layouts, home) = (self.layouts.clone(), self.folder.path().to_owned());
            let blend = scene.blend.clone();
            let set = task::spawn_blocking(move || stage::set(&blend, &layouts, &home)).await;
            let at = set.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|error| {
                let message = format!("cannot lay the project out for Blender: {error}");
                RenderError::new(FailureReason::Infrastructure, message)
            })?;
            self.staged = Some((scene.blend.clone(), at));
        }
        Ok(self.request(scene))
    }

    /// Whether it waits for a request.
    pub(crate) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Whether files' own Python has run in it, and may have changed it.
    pub(crate) fn runs_scripts(&self) -> bool {
        self.runs_scripts
    }

    /// Whether it has ended on its own, or by somebody else's hand.
    pub(crate) fn has_died(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it has waited for so long that its memory is worth more than its warmth.
    pub(crate) fn is_idle_for_too_long(&self) -> bool {
        self.idle_since.elapsed() > IDLE_MAX
    }

    /// Whether it must not get another frame.
    pub(crate) fn renewal(&self, memory_bytes_max: u64) -> Renewal {
        // Blender's replacement would have to draw the whole animation again.
        let may_grow = self.animation.is_some();
        if self.phase == Phase::Waiting && (may_grow || self.memory_bytes <= memory_bytes_max) {
            Renewal::NotDue
        } else {
            Renewal::Due
        }
    }

    /// The last lines it wrote, oldest first.
    pub(crate) fn log_tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Draws one frame and puts what it drew in the place of `folder`, which is empty: there nothing changes it
    /// any more. Dropping this kills the process group at once, before its own folder is taken away: Blender
    /// would make it again.
    pub(crate) async fn draw(
        &mut self,
        scene: &Scene,
        frame: i32,
        folder: &Path,
        observe: impl FnMut(Observation),
    ) -> Result<Drawing, RenderError> {
        let mut drop_guard = KillOnDrop { leader: self.group };
        let drawn = self.draw_to_the_end(scene, frame, folder, observe).await;
        drop_guard.leader = None;
        drawn
    }

    async fn draw_to_the_end(
        &mut self,
        scene: &Scene,
        frame: i32,
        folder: &Path,
        mut observe: impl FnMut(Observation),
    ) -> Result<Drawing, RenderError> {
        self.tail.clear();
        self.oom_kills = platform::out_of_memory_kills();
        self.peak_bytes = 0;
        self.silence = scene.silence;
        let load = self.stage(scene).await?;
        let infrastructure = |error: &dyn std::fmt::Display| {
            RenderError::new(FailureReason::Infrastructure, error.to_string())
        };
        let drawn = self.folder.path().join("frame");
        fs::create_dir(&drawn).map_err(|error| infrastructure(&error))?;
        let request = DrawRequest {
            load: &load,
            frame,
            folder: &drawn,
            stem: frame_name(frame),
            span: scene.span,
        };
        let request = serde_json::to_string(&request).map_err(|error| infrastructure(&error))?;
        if let Some(leader) = self.group {
            platform::forget_peak_memory(leader);
        }
        let mut promise = Promise::default();
        let begun = Instant::now();
        let loads = !self.has_loaded(scene);
        self.told.clear();
        if loads {
            self.will_load(scene, &load);
        }
        for warning in [&*self.start_warnings, &*self.warnings].concat() {
            self.tell(warning, &mut observe);
        }
        let first = scene.span.filter(|_| self.animation.is_none()).map(|span| span.first());
        self.at = Some(first.unwrap_or(frame));
        // Warnings that are not of a frame which is only drawn again.
        let mut settled = (self.told.len(), self.warnings.len());
        // Until it says otherwise, it may be doing anything.
        self.begin(&request, Phase::Broken).await?;
        loop {
            let was_drawing = self.phase == Phase::Drawing;
            let answer = match self.answer(&mut observe).await {
                Ok(answer) => answer,
                // Plain Blender would have left the picture as well. The usual check decides whether it is
                // complete.
                Err(error) if self.died && was_drawing && !scene.strict => {
                    fs::remove_dir(folder)
                        .and_then(|()| fs::rename(&drawn, folder))
                        .map_err(|error| infrastructure(&error))?;
                    return Ok(Drawing {
                        drawn: Drawn::InFolder(promise),
                        render_seconds: begun.elapsed().as_secs_f64(),
                        peak_memory_bytes: self.peak_bytes,
                        crash: Some(error),
                    });
                }
                Err(error) => return Err(error),
            };
            if let (Answer::Passed { frame }, Some(span)) = (&answer, scene.span) {
                self.told.truncate(settled.0);
                self.warnings.truncate(settled.1);
                self.at = Some(span.after(*frame));
                continue;
            }
            if let Answer::Warning { kind, text } = &answer {
                let kind = WarningKind::from(*kind).into();
                self.tell(Warning { kind, text: text.clone() }, &mut observe);
            }
            let failing = self.told.iter().find(|told| told.kind() != WarningKind::Blender);
            if let Some(warning) = failing.filter(|_| scene.strict) {
                let text = warning.text.clone();
                self.kill().await;
                return Err(RenderError::new(FailureReason::Permanent, text));
            }
            match answer {
                Answer::Loading {} => {
                    self.loaded = None;
                    // Blender repeats them.
                    self.warnings.clear();
                    self.unavailable_engines.clear();
                    self.phase = Phase::Loading;
                }
                Answer::Drawing { scene } => {
                    let engine = self.unavailable_engines.remove(&scene);
                    if let (Some(engine), None) = (engine, load.engine) {
                        self.phase = Phase::Broken;
                        return Err(RenderError::new(
                            FailureReason::Permanent,
                            format!(
                                "the scene's render engine {engine:?} is not part of this Blender"
                            ),
                        ));
                    }
                    self.loaded = Some(load.clone());
                    self.phase = Phase::Drawing;
                }
                Answer::Note { text } => observe(Observation::Line(self.line(text))),
                // Reported above.
                Answer::Warning { .. } => {}
                Answer::Named { name } => promise.name = name,
                Answer::Image(image) if promise.images.len() < IMAGES_MAX => {
                    promise.images.push(image);
                }
                Answer::FileOutput(output) if promise.file_outputs.len() < FILE_OUTPUTS_MAX => {
                    promise.file_outputs.push(output);
                }
                Answer::Failed { reason, message } => {
                    self.phase = Phase::Broken;
                    let message = self.hidden.apply(message);
                    return Err(RenderError::new(reason.into(), message));
                }
                Answer::Done { seconds, peak_memory_bytes, memory_bytes } => {
                    self.memory_bytes = memory_bytes;
                    // Where that fails, it is not fit for another frame: this one's folder is in the way.
                    fs::remove_dir(folder)
                        .and_then(|()| fs::rename(&drawn, folder))
                        .map_err(|error| infrastructure(&error))?;
                    let span = scene.span.filter(|span| span.goes_on_after(frame));
                    self.animation = span.map(|span| (load, span, frame));
                    self.at = None;
                    self.phase = Phase::Waiting;
                    self.idle_since = Instant::now();
                    if loads {
                        self.keep_shaders().await;
                    }
                    debug!(frame, seconds, whole = ?begun.elapsed(), "frame drawn");
                    return Ok(Drawing {
                        drawn: Drawn::InFolder(promise),
                        render_seconds: seconds,
                        peak_memory_bytes,
                        crash: None,
                    });
                }
                Answer::Ready { .. }
                | Answer::Developed {}
                | Answer::Soundtrack { .. }
                | Answer::Passed { .. }
                | Answer::Image(_)
                | Answer::FileOutput(_) => return Err(self.broken("answered out of turn").await),
            }
            settled = (self.told.len(), self.warnings.len());
        }
    }

    /// Tells how fast a scene's frames follow, and puts its sound between two of them in the place of `folder`,
    /// which is empty. Dropping this kills the process group at once.
    pub(crate) async fn soundtrack(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &Path,
        observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        let mut drop_guard = KillOnDrop { leader: self.group };
        let soundtrack = self.soundtrack_to_the_end(scene, span, folder, observe).await;
        drop_guard.leader = None;
        soundtrack
    }

    async fn soundtrack_to_the_end(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &Path,
        mut observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        const FILE: &str = "sound.flac";
        self.tail.clear();
        self.silence = scene.silence;
        let load = self.stage(scene).await?;
        let infrastructure = |error: &dyn std::fmt::Display| {
            RenderError::new(FailureReason::Infrastructure, error.to_string())
        };
        let mixed = self.folder.path().join("sound");
        fs::create_dir(&mixed).map_err(|error| infrastructure(&error))?;
        let mix = Mix { span, to: &mixed.join(FILE) };
        let request = SoundtrackRequest { load: &load, soundtrack: mix };
        let request = serde_json::to_string(&request).map_err(|error| infrastructure(&error))?;
        self.begin(&request, Phase::Broken).await?;
        loop {
            match self.answer(&mut observe).await? {
                Answer::Loading {} => {
                    self.loaded = None;
                    self.unavailable_engines.clear();
                    self.will_load(scene, &load);
                    self.phase = Phase::Loading;
                }
                Answer::Note { text } => observe(Observation::Line(self.line(text))),
                // Those who drew the frames have heard them.
                Answer::Warning { .. } => {}
                Answer::Failed { reason, message } => {
                    self.phase = Phase::Broken;
                    let message = self.hidden.apply(message);
                    return Err(RenderError::new(reason.into(), message));
                }
                Answer::Soundtrack { fps, fps_base, sound, delay_frames } => {
                    self.loaded = Some(load);
                    // As after a frame.
                    fs::remove_dir(folder)
                        .and_then(|()| fs::rename(&mixed, folder))
                        .map_err(|error| infrastructure(&error))?;
                    self.phase = Phase::Waiting;
                    self.idle_since = Instant::now();
                    let file = folder.join(FILE);
                    return Ok(Soundtrack {
                        rate: Rate::new(fps, fps_base),
                        sound: (sound && file.is_file()).then_some(Sound { file, delay_frames }),
                    });
                }
                _ => return Err(self.broken("answered out of turn").await),
            }
        }
    }

    /// Shaders come with a scene's first frame.
    async fn keep_shaders(&mut self) {
        if let Some((kept, has)) = &mut self.shaders {
            let (to, from, lent) = (kept.clone(), self.folder.path().join(SHADERS), *has);
            let kept = task::spawn_blocking(move || shaders::take_back(&to, &from, lent)).await;
            *has = kept.unwrap_or(lent);
        }
    }

    /// Makes a preview of linear light, with the view transform of the scene it has in memory. `None` where
    /// that fails; then it may be dead.
    pub(crate) async fn develop(&mut self, light: Rgba32FImage) -> Option<(Preview, Blob)> {
        if !self.is_waiting() {
            return None;
        }
        let (from, to) =
            (self.folder.path().join("light.exr"), self.folder.path().join("seen.png"));
        light.save(&from).ok()?;
        let request = DevelopRequest { develop: Develop { from: &from, to: &to } };
        let request = serde_json::to_string(&request).ok()?;
        self.begin(&request, Phase::Broken).await.ok()?;
        let mut ignore = |_| ();
        let developed = async {
            loop {
                match self.answer(&mut ignore).await {
                    Ok(Answer::Note { text }) => debug!(text, "no preview"),
                    other => return matches!(other, Ok(Answer::Developed {})),
                }
            }
        };
        if time::timeout(DEVELOP_TIMEOUT, developed).await != Ok(true) {
            self.kill().await;
            return None;
        }
        self.phase = Phase::Waiting;
        let preview = output::preview_of_file(to.clone()).await;
        // The next one must not be mistaken for this.
        let removed = fs::remove_file(&to);
        preview.filter(|_| removed.is_ok())
    }

    /// Ends the whole process group and returns when it is gone.
    pub(crate) async fn kill(&mut self) {
        self.phase = Phase::Broken;
        let Some(group) = self.group.take() else {
            return;
        };
        platform::kill_group(group);
        let gone = async {
            let _ = self.child.wait().await;
            while platform::group_exists(group) {
                time::sleep(KILL_CHECK_INTERVAL).await;
            }
        };
        let _ = time::timeout(KILL_TIMEOUT, gone).await;
        if self.runs_scripts {
            // What a file's own Python has started may have left the group.
            platform::end_all_in(self.folder.path()).await;
        }
    }

    async fn begin(&mut self, request: &str, phase: Phase) -> Result<(), RenderError> {
        self.phase = phase;
        let line = format!("{request}\n");
        let written = self.requests.write_all(line.as_bytes()).await;
        if written.is_err() {
            return Err(self.died().await);
        }
        Ok(())
    }

    /// The next answer. What comes before it is observed.
    async fn answer(
        &mut self,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Answer, RenderError> {
        let mut estimate = Estimate::default();
        let mut last_line = Instant::now();
        let mut is_dead = false;
        let mut tick = time::interval_at(last_line + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let line = tokio::select! {
                line = self.output.next() => match line {
                    Some(line) => line,
                    None => return Err(self.died().await),
                },
                line = self.errors.next(), if !self.errors_ended => match line {
                    Some(line) => line,
                    None => {
                        self.errors_ended = true;
                        continue;
                    }
                },
                now = tick.tick() => {
                    // What it has started may hold its pipes open. What it wrote itself has been read since.
                    if is_dead {
                        return Err(self.died().await);
                    }
                    is_dead = self.has_died();
                    if let Some(leader) = self.group {
                        let peak_bytes = platform::peak_memory(leader);
                        self.peak_bytes = self.peak_bytes.max(peak_bytes);
                    }
                    if now - last_line > self.silence {
                        return Err(self.silent().await);
                    }
                    observe(Observation::Progress(estimate.at(now)));
                    continue;
                }
            };
            last_line = Instant::now();
            if let Some(answer) = line.strip_prefix(&self.mark) {
                return match serde_json::from_str(answer) {
                    Ok(answer) => Ok(answer),
                    Err(error) => Err(self.broken(&format!("answered {answer:?}: {error}")).await),
                };
            }
            match progress::parse(&line) {
                Line::Progress(reading) => {
                    if estimate.observe(last_line, reading) {
                        tick.reset();
                        observe(Observation::Progress(estimate.at(last_line)));
                    }
                    self.remember(line);
                }
                Line::Routine => {}
                Line::Other => {
                    if let Some((engine, scene)) = progress::unavailable_engine(&line)
                        && self.unavailable_engines.len() < SCENES_MAX
                    {
                        self.unavailable_engines.insert(scene.into(), engine.into());
                    }
                    self.listen(&line, observe);
                    let line = self.line(line);
                    self.remember(line.clone());
                    observe(Observation::Line(line));
                }
            }
        }
    }

    fn remember(&mut self, line: String) {
        if self.tail.len() == LOG_TAIL_LINES {
            self.tail.pop_front();
        }
        let line = self.line(line);
        self.tail.push_back(line);
    }

    /// Prepares a line for people.
    fn line(&self, text: String) -> String {
        shorten(self.hidden.apply(text))
    }

    /// Prepares for opening another file, or the same file again.
    fn will_load(&mut self, scene: &Scene, load: &Request) {
        self.warnings.clear();
        self.blend = PathBuf::from(&load.blend);
        self.hidden = Hidden::new(self.folder.path(), &[&self.blend, &scene.blend]);
    }

    /// Looks for a warning in a line of Blender's own.
    fn listen(&mut self, line: &str, observe: &mut impl FnMut(Observation)) {
        let context = Context { blend: &self.blend, scripts: self.runs_scripts };
        let Some(warning) = warnings::parse(line, context, Path::exists) else { return };
        let is_missing = warning.kind() == WarningKind::MissingFile;
        // The worker has already named the frame's missing files before drawing, with the same names.
        let name = warning.text.strip_suffix(" is missing").filter(|_| is_missing);
        if let Some(name) = name
            && self.told.iter().any(|told| told.text.starts_with(name))
        {
            return;
        }
        // Missing files can differ from frame to frame. Any other warning is printed once and holds for every
        // frame.
        let holds = name.is_none() || self.phase == Phase::Loading;
        let warning = self.tell(warning, observe);
        if holds && self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Reports a warning in a form for people.
    fn tell(&mut self, mut warning: Warning, observe: &mut impl FnMut(Observation)) -> Warning {
        warning.text = self.hidden.apply(warning.text);
        let unknown = |told: &&Warning| told.kind() == WarningKind::Blender;
        let is_one_more = warning.kind() == WarningKind::Blender
            && self.told.iter().filter(unknown).count() >= UNKNOWN_MAX;
        if !is_one_more && !self.told.contains(&warning) && self.told.len() < WARNINGS_MAX {
            self.told.push(warning.clone());
            observe(Observation::Warning(warning.clone()));
        }
        warning
    }

    async fn silent(&mut self) -> RenderError {
        self.kill().await;
        error::silent("Blender", self.silence)
    }

    async fn broken(&mut self, what: &str) -> RenderError {
        self.kill().await;
        RenderError::new(FailureReason::Renderer, format!("Blender {what}"))
    }

    /// Its output has ended, or it has died: says why.
    async fn died(&mut self) -> RenderError {
        let loading = self.phase == Phase::Loading;
        self.phase = Phase::Broken;
        self.died = true;
        // It has closed its output; what it does after that is of no interest.
        let status = time::timeout(KILL_TIMEOUT, self.child.wait()).await;
        // First: what it has started could write for ever.
        self.kill().await;
        for _ in 0..LAST_LINES_MAX {
            match time::timeout(KILL_CHECK_INTERVAL, self.errors.next()).await {
                Ok(Some(line)) => self.remember(line),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(Ok(status)) = status else {
            return RenderError::new(FailureReason::Renderer, "Blender closed its output");
        };
        let how = describe(status);
        let version = self.blender.version;
        // We had not killed it.
        if platform::signal(status) == Some(platform::SIGKILL)
            && platform::out_of_memory_kills() > self.oom_kills
        {
            return self.out_of_memory(&format!("the system killed Blender {version}"));
        }
        if self.tail.iter().any(|line| tells_of_no_memory(line)) {
            return self.out_of_memory(&format!("Blender {version} {how}"));
        }
        if loading {
            return RenderError::new(
                FailureReason::Permanent,
                format!(
                    "Blender {version} {how} while it opened the file: the file is damaged or was saved by a newer Blender"
                ),
            );
        }
        RenderError::new(FailureReason::Renderer, format!("Blender {version} {how}"))
    }
}

impl Worker {
    fn out_of_memory(&self, what: &str) -> RenderError {
        let peak = match self.peak_bytes {
            0 => String::new(),
            bytes => format!(", having taken {} MiB", bytes >> 20),
        };
        let message = format!("{what} for want of memory{peak}: give it to nodes with more of it");
        RenderError::new(FailureReason::OutOfMemory, message)
    }
}

/// Whether a line says that there was no memory left, of the machine's or of a graphics card's: what Blender, Cycles,
/// C++ and Python write then.
fn tells_of_no_memory(line: &str) -> bool {
    const WORDS: [&str; 5] = [
        "out of memory",
        "out of gpu memory",
        "std::bad_alloc",
        "memoryerror",
        "alloc returns null",
    ];
    let line = line.to_ascii_lowercase();
    WORDS.iter().any(|words| line.contains(words))
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(KillOnDrop { leader: self.group });
        if self.runs_scripts {
            platform::kill_all_in(self.folder.path());
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (platform::signal(status), status.code()) {
        (Some(11), _) => "crashed (segmentation fault)".into(),
        (Some(platform::SIGKILL), _) => "was killed".into(),
        (Some(signal), _) => format!("crashed (signal {signal})"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".into(),
    }
}

#[cfg(all(test, unix))]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A Blender that starts, says it is ready, and then does what the shell lines in `then` say.
    pub(in crate::renderer) fn impostor(folder: &Path, then: &str) -> FoundBlender {
        let path = folder.join("impostor");
        let ready = r#"printf '\n@%s {"ready":{"version":"9.9.9"}}\n' "$token""#;
        let script = format!("#!/bin/sh\nread token\n{ready}\n{then}\n");
        // Written by another process, so that none of ours can hold it open while it is run.
        let made = std::process::Command::new("sh")
            .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(made.unwrap().success());
        FoundBlender { version: "9.9.9".parse().unwrap(), kind: Kind::Module, path }
    }

    pub(in crate::renderer) fn workplace(folder: &Path) -> Workplace {
        Workplace { work: folder.to_owned(), layouts: folder.to_owned(), confined: false }
    }

    pub(in crate::renderer) fn scene() -> Scene {
        Scene {
            blend: "a.blend".into(),
            color_config: PathBuf::new(),
            addons: Vec::new(),
            settings: RenderSettings::default(),
            file_version: None,
            strict: false,
            silence: Duration::from_secs(20),
            span: None,
        }
    }

    #[tokio::test]
    async fn an_answer_longer_than_a_log_line_is_read_and_its_text_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let answer = r#"{"failed":{"reason":"permanent","message":"%s"}}"#;
        let then = format!(
            "read request\nprintf '\\n@%s {answer}\\n' \"$token\" \"$(printf %03900d 7)\"\nread more"
        );
        let blender = impostor(folder.path(), &then);
        let place = workplace(folder.path());
        let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
        let drawn = worker.draw(&scene(), 1, folder.path(), |_| ()).await;
        let error = drawn.unwrap_err();
        assert_eq!(error.reason, FailureReason::Permanent, "{error:?}");
        assert_eq!(error.message, "0".repeat(2_000));
    }

    #[tokio::test]
    async fn a_renderer_whose_frame_or_sound_cannot_be_taken_from_it_gets_no_other() {
        let done = r#"{"done":{"name":"a","seconds":1,"peak_memory_bytes":7,"memory_bytes":7}}"#;
        let sound = r#"{"soundtrack":{"fps":24,"fps_base":1,"sound":false,"delay_frames":0}}"#;
        for answer in [done, sound] {
            let folder = tempfile::tempdir().unwrap();
            let then =
                format!("read request\nprintf '\\n@%s %s\\n' \"$token\" '{answer}'\nread more");
            let blender = impostor(folder.path(), &then);
            let place = workplace(folder.path());
            let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
            let absent = folder.path().join("absent");
            let error = if answer == done {
                worker.draw(&scene(), 1, &absent, |_| ()).await.unwrap_err()
            } else {
                worker.soundtrack(&scene(), None, &absent, |_| ()).await.unwrap_err()
            };
            assert_eq!(error.reason, FailureReason::Infrastructure, "{error:?}");
            assert_eq!(worker.renewal(u64::MAX), Renewal::Due);
        }
    }

    /// A line of shell that gives an answer.
    fn answer(answer: &str) -> String {
        format!("printf '\\n@%s %s\\n' \"$token\" '{answer}'\n")
    }

    /// Lets a fake Blender execute `then` when it is asked for a frame. Its folder stays until the last is dropped.
    async fn drawn_by(
        then: &str,
        scene: &Scene,
        frame: i32,
    ) -> (Result<Drawing, RenderError>, Worker, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let started = answer(r#"{"drawing":{"scene":"Scene"}}"#);
        let blender = impostor(folder.path(), &format!("read request\n{started}{then}"));
        let place = workplace(folder.path());
        let mut worker = Worker::start(blender, &place, scene, &mut |_| ()).await.unwrap();
        let drawn = folder.path().join("drawn");
        fs::create_dir(&drawn).unwrap();
        (worker.draw(scene, frame, &drawn, |_| ()).await, worker, folder)
    }

    /// Lets a fake Blender announce one image, execute `then`, and die of a segmentation fault.
    async fn dies_after(then: &str, strict: bool) -> (Result<Drawing, RenderError>, TempDir) {
        let script = [
            answer(r#"{"named":{"name":"shot_0001"}}"#),
            answer(r#"{"image":{"file":"0001.png","width":1,"height":1,"channels":1}}"#),
            format!("{then}\nkill -SEGV $$"),
        ];
        let (drawn, _, folder) = drawn_by(&script.concat(), &Scene { strict, ..scene() }, 1).await;
        (drawn, folder)
    }

    #[tokio::test]
    async fn files_of_a_renderer_that_died_are_kept_with_its_error() {
        let (drawing, folder) = dies_after("echo whole > frame/0001.png", false).await;
        let drawing = drawing.unwrap();
        assert!(drawing.crash.unwrap().message.contains("segmentation fault"));
        let Drawn::InFolder(promise) = drawing.drawn else { panic!() };
        assert_eq!((promise.name.as_str(), promise.images.len()), ("shot_0001", 1));
        assert_eq!(fs::read_to_string(folder.path().join("drawn/0001.png")).unwrap(), "whole\n");
        let (strict, _folder) = dies_after("echo whole > frame/0001.png", true).await;
        assert_eq!(
            strict.unwrap_err().reason,
            FailureReason::Renderer,
            "its job asks for no warning"
        );
    }

    /// A strict scene that is drawn as an animation of the frames 1 to 9.
    fn animated() -> Scene {
        let range = framecrew_proto::v1::FrameRange { first: 1, last: 9, step: 1 };
        Scene { strict: true, span: Span::parse(range).unwrap(), ..scene() }
    }

    /// Lets a fake Blender draw frame 3 of an animation: it draws frame 1 again, complains of a font, and gives the
    /// answers `then`.
    async fn draws_again(then: &str) -> (Result<Drawing, RenderError>, Worker) {
        let script = [
            answer(r#"{"named":{"name":"shot_0003"}}"#),
            answer(r#"{"passed":{"frame":1}}"#),
            "echo \"Can't load font: gone.ttf\"\n".to_owned(),
            then.lines().map(answer).collect(),
            "read more".to_owned(),
        ];
        let (drawing, worker, _) = drawn_by(&script.concat(), &animated(), 3).await;
        (drawing, worker)
    }

    #[tokio::test]
    async fn a_frame_is_not_blamed_for_the_warnings_of_those_drawn_again() {
        let done = r#"{"done":{"name":"a","seconds":1,"peak_memory_bytes":7,"memory_bytes":7}}"#;
        let then = format!("{{\"passed\":{{\"frame\":2}}}}\n{done}");
        let (drawing, worker) = draws_again(&then).await;
        assert!(drawing.is_ok(), "{drawing:?}");
        assert_eq!(worker.died_at(), None);
        assert_eq!(worker.warnings, []);
        let (drawing, ..) = draws_again(done).await;
        let error = drawing.unwrap_err();
        assert!(error.message.contains("Can't load font"), "its own: {error:?}");
    }

    #[tokio::test]
    async fn a_renderer_that_dies_names_the_frame_that_it_drew_again() {
        let then = answer(r#"{"passed":{"frame":1}}"#) + "kill -SEGV $$";
        let (drawing, worker, _folder) = drawn_by(&then, &animated(), 3).await;
        assert!(drawing.is_err());
        assert_eq!(worker.died_at(), Some(2));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_scripts_have_started_ends_with_their_blender_also_in_a_session_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(folder.path()).unwrap();
        let escape =
            "setsid sh -c 'echo $$ > new; mv new ../escaped; exec sleep 1000' >/dev/null 2>&1 &
            until test -e ../escaped; do sleep 0.01; done";
        let blender = impostor(&home, &format!("{escape}\nread request\nexit 3"));
        let mut scene = scene();
        scene.settings.run_scripts = true;
        let mut worker =
            Worker::start(blender, &workplace(&home), &scene, &mut |_| ()).await.unwrap();
        worker.draw(&scene, 1, &home, |_| ()).await.unwrap_err();
        let escaped = fs::read_to_string(home.join("escaped")).unwrap();
        let place = fs::read_link(format!("/proc/{}/cwd", escaped.trim()));
        assert!(place.is_err(), "{place:?}");
    }

    #[tokio::test]
    async fn a_renderer_that_died_is_noticed_though_what_it_started_holds_its_pipes() {
        for started in ["sleep 1000 &", "while :; do echo noise >&2; sleep 0.01; done &"] {
            let folder = tempfile::tempdir().unwrap();
            let blender =
                impostor(folder.path(), &format!("read request\n{started}\nkill -SEGV $$"));
            let place = workplace(folder.path());
            let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
            let drawn = worker.draw(&scene(), 1, folder.path(), |_| ()).await;
            let error = drawn.unwrap_err();
            assert_eq!(error.reason, FailureReason::Renderer, "{error:?}");
            assert!(error.message.contains("segmentation fault"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_renderer_that_goes_silent_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let blender = impostor(folder.path(), "read request\nexec sleep 1000");
        let scene = scene();
        let place = workplace(folder.path());
        let mut worker = Worker::start(blender, &place, &scene, &mut |_| ()).await.unwrap();
        // From here on, time passes as fast as nothing happens.
        time::pause();
        let mut told: u32 = 0;
        let drawn = worker.draw(&scene, 1, folder.path(), |_| told += 1).await;
        let error = drawn.unwrap_err();
        assert_eq!(error.reason, FailureReason::Timeout);
        assert!(error.message.contains("20 seconds") && error.message.contains("--frame-silence"));
        assert_eq!(PROGRESS_INTERVAL * told, scene.silence, "progress all the while");
        assert_eq!(worker.renewal(u64::MAX), Renewal::Due);
    }
}
