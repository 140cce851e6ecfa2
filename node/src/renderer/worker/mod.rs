//! One warm Blender: started, spoken to, and ended with everything it started.
//!
//! Requests are lines of JSON on its standard input. It ends itself when that closes, so it never outlives the
//! node. Answers come on standard output, as lines that begin with a token that only the worker knows; every
//! other line there is Blender's own. One pipe for both keeps them in order and works on every system. An answer
//! is written by a single call, which pipes keep whole.

mod answers;
mod autopsy;
mod develop;
mod draw;
mod protocol;
mod soundtrack;
mod start;
#[cfg(all(test, unix))]
pub(super) mod tests;

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    task,
    time::{self, Instant},
};

use self::protocol::Request;
pub(crate) use self::start::NotStarted;
use super::{
    error::RenderError, hidden::Hidden, lines::Lines, scene::Scene, span::Span, stage,
    warning::Warning,
};
use crate::{
    blender::FoundBlender,
    failure::FailureReason,
    platform::{self, KILL_CHECK_INTERVAL, KILL_TIMEOUT, KillOnDrop},
};

/// Folder of a Blender's own for what drivers compile.
const SHADERS: &str = "shaders";

/// How long a Blender without work is kept, with its scene in memory.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Maximum number of warnings that are kept for a scene or reported for a frame.
const WARNINGS_MAX: usize = 50;

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
    /// Warnings reported for the current frame.
    told: Vec<Warning>,
    /// Whether it ended by itself.
    died: bool,
    /// The frame that it is drawing, which in an animation may be one before the frame that is wanted.
    at: Option<i32>,
    memory_bytes: u64,
    idle_since: Instant,
    /// Number of processes that the system had killed for lack of memory when the frame began.
    oom_kills: u64,
    /// Most memory that it has had since.
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

fn infrastructure(error: impl std::fmt::Display) -> RenderError {
    RenderError::new(FailureReason::Infrastructure, error.to_string())
}

impl Worker {
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

    /// Whether the process has ended, for any reason but `kill`.
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

    /// Notes that it has nothing to do.
    fn wait_for_work(&mut self) {
        self.phase = Phase::Waiting;
        self.idle_since = Instant::now();
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
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(KillOnDrop { leader: self.group });
        if self.runs_scripts {
            platform::kill_all_in(self.folder.path());
        }
    }
}
