//! Starts a Blender with the worker's script, and waits until it is ready.

use std::{
    collections::{HashMap, VecDeque},
    fs, io, mem,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task,
    time::{self, Instant},
};
use tracing::info;

use super::{Phase, SHADERS, Worker, protocol::Answer};
use crate::{
    blender::{FoundBlender, Kind, Telling, shaders},
    confine::{self, Workplace},
    failure::FailureReason,
    platform,
    renderer::{
        drawing::Observation, error::RenderError, hidden::Hidden, lines::Lines, scene::Scene,
        warning::Warning,
    },
    version::Version,
};

/// The script that Blender runs. Its modules are next to it.
const WORKER: &str = "worker.py";
const SCRIPTS: [(&str, &str); 10] = [
    (WORKER, include_str!("worker.py")),
    ("framecrew_addons.py", include_str!("framecrew_addons.py")),
    ("framecrew_bakes.py", include_str!("framecrew_bakes.py")),
    ("framecrew_draw.py", include_str!("framecrew_draw.py")),
    ("framecrew_files.py", include_str!("framecrew_files.py")),
    ("framecrew_outputs.py", include_str!("framecrew_outputs.py")),
    ("framecrew_scene.py", include_str!("framecrew_scene.py")),
    ("framecrew_settings.py", include_str!("framecrew_settings.py")),
    ("framecrew_sound.py", include_str!("framecrew_sound.py")),
    ("framecrew_talk.py", include_str!("framecrew_talk.py")),
];

/// How long Blender may take to start: 1 second is usual, but the first start from a cold network disk is not.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Text in Blender's line about a colour setting that its configuration does not have.
const SETTING_REPLACED: &str = "not found, setting ";

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

/// Whether a warning is about Blender's startup scene, whose view a studio's configuration may lack. No job draws
/// that scene.
fn is_of_startup(warning: &Warning) -> bool {
    warning.text.contains(SETTING_REPLACED)
}

fn cannot(version: Version, what: &str, error: &dyn std::fmt::Display) -> NotStarted {
    let message = format!("cannot {what} for Blender {version}: {error}");
    NotStarted::Node(RenderError::new(FailureReason::Infrastructure, message))
}

/// The command that runs the worker's script in `folder`, which is its own.
fn command(blender: &FoundBlender, folder: &Path, scene: &Scene) -> Command {
    let mut command = Command::new(&blender.path);
    if blender.kind == Kind::Executable {
        command.args(["--background", "--factory-startup", "--disable-autoexec"]);
        command.args(["--python-exit-code", "1", "--python"]);
    }
    command
        .arg(folder.join(WORKER))
        .current_dir(folder)
        // Crash reports, caches and settings stay in the folder.
        .env("TMPDIR", folder)
        .env("TEMP", folder)
        .env("BLENDER_USER_RESOURCES", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !scene.color_config.as_os_str().is_empty() {
        command.env("OCIO", &scene.color_config);
    }
    platform::lead_a_group(&mut command);
    command
}

/// Copies the shaders that are kept into a Blender's folder, and points the drivers there. Returns where they are
/// kept and how many bytes they are.
async fn lend_shaders(kept: PathBuf, folder: &Path, command: &mut Command) -> (PathBuf, u64) {
    let (from, to) = (kept.clone(), folder.join(SHADERS));
    command.envs(shaders::VARIABLES.map(|name| (name, to.clone())));
    let lent = task::spawn_blocking(move || shaders::lend(&from, &to)).await;
    (kept, lent.unwrap_or(0))
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
        let cannot = |what: &str, error: &dyn std::fmt::Display| cannot(version, what, error);
        let folder = tempfile::Builder::new()
            .prefix("blender-")
            .tempdir_in(&workplace.work)
            .map_err(|error| cannot("make a folder", &error))?;
        for (name, text) in SCRIPTS {
            fs::write(folder.path().join(name), text)
                .map_err(|error| cannot("write the worker", &error))?;
        }
        let mut command = command(&blender, folder.path(), scene);
        let runs_scripts = scene.is_scripted();
        // A file's own Python could put anything among the shaders.
        let kept = workplace.shaders().filter(|_| !runs_scripts);
        let shaders = match kept {
            Some(kept) => Some(lend_shaders(kept, folder.path(), &mut command).await),
            None => None,
        };
        let only = runs_scripts.then_some(scene.blend.as_path());
        let program = if workplace.confined { blender.folders() } else { Vec::new() };
        let walls = workplace.walls(folder.path(), program, only);
        let mut child =
            confine::spawn(command, walls).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                    NotStarted::Blender { version, why: error.to_string(), for_good: true }
                }
                _ => cannot("start", &error),
            })?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(requests), Some(output), Some(errors)) = pipes else {
            return Err(cannot("open pipes", &"none"));
        };
        let pipes = (requests, output, errors);
        let mut worker = Self::new(blender, child, pipes, folder, shaders, workplace, scene);
        let token = format!("{:032x}", fastrand::u128(..));
        worker.mark = format!("@{token} ");
        worker.be_ready(&token, observe).await.map(|()| worker)
    }

    fn new(
        blender: FoundBlender,
        child: Child,
        (requests, output, errors): (ChildStdin, ChildStdout, ChildStderr),
        folder: TempDir,
        shaders: Option<(PathBuf, u64)>,
        workplace: &Workplace,
        scene: &Scene,
    ) -> Self {
        Self {
            group: child.id(),
            blender,
            child,
            requests,
            output: Lines::new(output),
            errors: Lines::new(errors),
            errors_ended: false,
            mark: String::new(),
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
            runs_scripts: scene.is_scripted(),
            shaders,
            folder,
        }
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
}
