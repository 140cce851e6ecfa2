//! Reads what a Blender writes: the worker's answers, and between them Blender's own lines, which become progress,
//! warnings and the log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{self, Instant, MissedTickBehavior};

use super::{
    Phase, WARNINGS_MAX, Worker,
    protocol::{Answer, Request},
};
use crate::{
    platform,
    renderer::{
        drawing::Observation,
        error::RenderError,
        hidden::Hidden,
        lines::shorten,
        progress::{self, Estimate, Line},
        scene::Scene,
        warning::{Warning, WarningKind},
        warnings::{self, Context},
    },
};

/// How often progress is reported while Blender reports none: people are promised it every second, also on a busy
/// machine.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Last lines that a failure carries.
const LOG_TAIL_LINES: usize = 20;

/// Scenes of a file whose engines are remembered as missing; a film in one file has dozens.
const SCENES_MAX: usize = 1_000;

/// Maximum number of unknown lines that a frame reports as warnings, enough to see what is wrong.
const UNKNOWN_MAX: usize = 10;

impl Worker {
    /// The next answer. What comes before it is observed.
    pub(super) async fn answer(
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
                    // Processes that it started may hold its pipes open. Its own output has been read since the last tick.
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

    /// Takes an answer that means the same to every request. Returns any other.
    pub(super) fn take_usual(
        &mut self,
        answer: Answer,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Option<Answer>, RenderError> {
        match answer {
            Answer::Loading {} => {
                self.loaded = None;
                // Blender repeats them.
                self.warnings.clear();
                self.unavailable_engines.clear();
                self.phase = Phase::Loading;
            }
            Answer::Note { text } => observe(Observation::Line(self.line(text))),
            Answer::Failed { reason, message } => {
                self.phase = Phase::Broken;
                let message = self.hidden.apply(message);
                return Err(RenderError::new(reason, message));
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    pub(super) fn remember(&mut self, line: String) {
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
    pub(super) fn will_load(&mut self, scene: &Scene, load: &Request) {
        self.warnings.clear();
        self.blend = PathBuf::from(&load.blend);
        self.hidden = Hidden::new(self.folder.path(), &[&self.blend, &scene.blend]);
    }

    /// Looks for a warning in a line of Blender's own.
    fn listen(&mut self, line: &str, observe: &mut impl FnMut(Observation)) {
        let context = Context { blend: &self.blend, scripts: self.runs_scripts };
        let Some(warning) = warnings::parse(line, context, Path::exists) else { return };
        let is_missing = warning.kind == WarningKind::MissingFile;
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
    pub(super) fn tell(
        &mut self,
        mut warning: Warning,
        observe: &mut impl FnMut(Observation),
    ) -> Warning {
        warning.text = self.hidden.apply(warning.text);
        let unknown = |told: &&Warning| told.kind == WarningKind::Blender;
        let is_one_more = warning.kind == WarningKind::Blender
            && self.told.iter().filter(unknown).count() >= UNKNOWN_MAX;
        if !is_one_more && !self.told.contains(&warning) && self.told.len() < WARNINGS_MAX {
            self.told.push(warning.clone());
            observe(Observation::Warning(warning.clone()));
        }
        warning
    }
}
