//! Draws a frame.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::{task, time::Instant};
use tracing::debug;

use super::{
    Phase, SHADERS, Worker, infrastructure,
    protocol::{Answer, DrawRequest, Request},
};
use crate::{
    blender::shaders,
    failure::FailureReason,
    output::{Promise, frame_name},
    platform::{self, KillOnDrop},
    renderer::{
        drawing::{Drawing, Drawn, Observation},
        error::RenderError,
        scene::Scene,
        warning::{Warning, WarningKind},
    },
};

/// Slots of the File Output nodes in one file. Those of films have some hundred.
const FILE_OUTPUTS_MAX: usize = 4_096;

/// Images of one frame: one for each view.
const IMAGES_MAX: usize = 256;

/// A frame that is being drawn.
struct Attempt<'a> {
    scene: &'a Scene,
    frame: i32,
    load: Request,
    begun: Instant,
    /// Whether the scene must be loaded first.
    loads: bool,
    /// Where Blender puts the frame's files.
    drawn: PathBuf,
    /// Where they go when they are complete.
    folder: &'a Path,
    promise: Promise,
    /// How many of the warnings that are told and kept belong to this frame, and not to one that is only drawn again.
    settled: (usize, usize),
}

impl Attempt<'_> {
    /// Moves the frame's files to where nothing changes them any more.
    fn hand_over(&self) -> Result<(), RenderError> {
        replace(&self.drawn, self.folder).map_err(infrastructure)
    }
}

/// Puts the folder `from` in the place of the empty folder `to`.
pub(super) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::remove_dir(to).and_then(|()| fs::rename(from, to))
}

impl Worker {
    /// Draws one frame and puts its files in the place of `folder`, which is empty. Dropping the future kills the
    /// process group at once, before the worker's own folder is removed: Blender would create it again.
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
        let mut attempt = self.begin_frame(scene, frame, folder, &mut observe).await?;
        loop {
            let was_drawing = self.phase == Phase::Drawing;
            let answer = match self.answer(&mut observe).await {
                Ok(answer) => answer,
                // Plain Blender would have left the picture as well. The usual check decides whether it is
                // complete.
                Err(error) if self.died && was_drawing && !scene.strict => {
                    attempt.hand_over()?;
                    return Ok(Drawing {
                        drawn: Drawn::InFolder(attempt.promise),
                        render_seconds: attempt.begun.elapsed().as_secs_f64(),
                        peak_memory_bytes: self.peak_bytes,
                        crash: Some(error),
                    });
                }
                Err(error) => return Err(error),
            };
            if let (Answer::Passed { frame }, Some(span)) = (&answer, scene.span) {
                self.told.truncate(attempt.settled.0);
                self.warnings.truncate(attempt.settled.1);
                self.at = Some(span.after(*frame));
                continue;
            }
            if let Answer::Warning { kind, text } = &answer {
                self.tell(Warning { kind: *kind, text: text.clone() }, &mut observe);
            }
            if scene.strict {
                self.refuse_warnings().await?;
            }
            match self.take_usual(answer, &mut observe)? {
                None => {}
                Some(Answer::Done { seconds, peak_memory_bytes, memory_bytes }) => {
                    self.memory_bytes = memory_bytes;
                    self.end_frame(&attempt).await?;
                    return Ok(Drawing {
                        drawn: Drawn::InFolder(attempt.promise),
                        render_seconds: seconds,
                        peak_memory_bytes,
                        crash: None,
                    });
                }
                Some(answer) => self.take_promise(answer, &mut attempt).await?,
            }
            attempt.settled = (self.told.len(), self.warnings.len());
        }
    }

    /// Sends the request for a frame, and repeats the warnings that hold for each frame.
    async fn begin_frame<'a>(
        &mut self,
        scene: &'a Scene,
        frame: i32,
        folder: &'a Path,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Attempt<'a>, RenderError> {
        self.tail.clear();
        self.oom_kills = platform::out_of_memory_kills();
        self.peak_bytes = 0;
        self.silence = scene.silence;
        let load = self.stage(scene).await?;
        let drawn = self.folder.path().join("frame");
        fs::create_dir(&drawn).map_err(infrastructure)?;
        let request = DrawRequest {
            load: &load,
            frame,
            folder: &drawn,
            stem: frame_name(frame),
            span: scene.span,
        };
        let request = serde_json::to_string(&request).map_err(infrastructure)?;
        if let Some(leader) = self.group {
            platform::forget_peak_memory(leader);
        }
        let begun = Instant::now();
        let loads = !self.has_loaded(scene);
        self.told.clear();
        if loads {
            self.will_load(scene, &load);
        }
        for warning in [&*self.start_warnings, &*self.warnings].concat() {
            self.tell(warning, observe);
        }
        let first = scene.span.filter(|_| self.animation.is_none()).map(|span| span.first());
        self.at = Some(first.unwrap_or(frame));
        let settled = (self.told.len(), self.warnings.len());
        // Until it says otherwise, it may be doing anything.
        self.begin(&request, Phase::Broken).await?;
        let promise = Promise::default();
        Ok(Attempt { scene, frame, load, begun, loads, drawn, folder, promise, settled })
    }

    /// Ends the Blender of a strict job that has had a warning about its frame.
    async fn refuse_warnings(&mut self) -> Result<(), RenderError> {
        let failing = self.told.iter().find(|told| told.kind != WarningKind::Blender);
        let Some(text) = failing.map(|warning| warning.text.clone()) else { return Ok(()) };
        self.kill().await;
        Err(RenderError::new(FailureReason::Permanent, text))
    }

    /// Takes an answer that says what the frame's files will be.
    async fn take_promise(
        &mut self,
        answer: Answer,
        attempt: &mut Attempt<'_>,
    ) -> Result<(), RenderError> {
        let promise = &mut attempt.promise;
        match answer {
            Answer::Drawing { scene } => {
                let engine = self.unavailable_engines.remove(&scene);
                if let (Some(engine), None) = (engine, attempt.load.engine) {
                    self.phase = Phase::Broken;
                    return Err(RenderError::new(
                        FailureReason::Permanent,
                        format!("the scene's render engine {engine:?} is not part of this Blender"),
                    ));
                }
                self.loaded = Some(attempt.load.clone());
                self.phase = Phase::Drawing;
            }
            // Reported already.
            Answer::Warning { .. } => {}
            Answer::Named { name } => promise.name = name,
            Answer::Image(image) if promise.images.len() < IMAGES_MAX => promise.images.push(image),
            Answer::FileOutput(output) if promise.file_outputs.len() < FILE_OUTPUTS_MAX => {
                promise.file_outputs.push(output);
            }
            _ => return Err(self.out_of_turn().await),
        }
        Ok(())
    }

    /// Takes the files of a frame that is done.
    async fn end_frame(&mut self, attempt: &Attempt<'_>) -> Result<(), RenderError> {
        // If this fails, the Blender gets no other frame, because this one's folder is in the way.
        attempt.hand_over()?;
        let Attempt { scene, frame, load, begun, .. } = attempt;
        let span = scene.span.filter(|span| span.goes_on_after(*frame));
        self.animation = span.map(|span| (load.clone(), span, *frame));
        self.at = None;
        self.wait_for_work();
        if attempt.loads {
            self.keep_shaders().await;
        }
        debug!(frame, whole = ?begun.elapsed(), "frame drawn");
        Ok(())
    }

    /// Keeps the shaders that came with a scene's first frame.
    async fn keep_shaders(&mut self) {
        if let Some((kept, has)) = &mut self.shaders {
            let (to, from, lent) = (kept.clone(), self.folder.path().join(SHADERS), *has);
            let kept = task::spawn_blocking(move || shaders::take_back(&to, &from, lent)).await;
            *has = kept.unwrap_or(lent);
        }
    }
}
