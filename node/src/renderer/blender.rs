//! Which Blender draws a batch, and one warm process of it in the slot.

use std::{
    cmp::Reverse,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use framecrew_proto::v1::{Blender, FailureReason, Preview};
use image::Rgba32FImage;
use sysinfo::System;

use super::{
    Drawing, Observation, RenderError, Scene,
    process::{Renewal, Worker},
};
use crate::{
    blender::{Fetcher, FoundBlender},
    confine::Workplace,
    movie::Soundtrack,
    output::Blob,
    version::{Version, matches_prefix},
};

/// The Blenders of a node.
#[derive(Debug)]
pub(crate) struct Blenders {
    /// Newest first; those that are fetched come in.
    found: Mutex<Vec<FoundBlender>>,
    fetcher: Option<Fetcher>,
    workplace: Workplace,
    /// Memory from which on a process is replaced after its frame.
    memory_bytes_max: u64,
}

impl Blenders {
    pub(crate) fn new(
        found: Vec<FoundBlender>,
        fetcher: Option<Fetcher>,
        slots: u32,
        workplace: Workplace,
    ) -> Self {
        let mut system = System::new();
        system.refresh_memory();
        // A process that has grown to half of its slot's share has leaked, or cached for another scene.
        let memory_bytes_max = system.total_memory() / u64::from(slots.max(1)) / 2;
        let blenders = Self { found: Mutex::default(), fetcher, workplace, memory_bytes_max };
        blenders.add(found);
        blenders
    }

    pub(crate) fn describe(&self) -> Vec<Blender> {
        let found = self.found();
        let fetchable = self.fetcher.iter().flat_map(|fetcher| fetcher.describe(&found));
        found.iter().map(FoundBlender::describe).chain(fetchable).collect()
    }

    /// The Blender for a file: of those that the job allows, and that are not older than the file, the series
    /// closest to the file's, because a newer one may draw the scene differently from what its author saw; of
    /// that series the latest patch. For a file of unknown version the newest. An older one, which may lose some of
    /// the file, only where the job asks for it and no other fits.
    fn choose(&self, file: Option<Version>, wanted: &str) -> Result<FoundBlender, RenderError> {
        let found = self.found();
        if let Some(best) = best(&found, |blender| blender.version, file, wanted) {
            return Ok(best.clone());
        }
        let have: Vec<_> = found.iter().map(|blender| blender.version.to_string()).collect();
        let have = if have.is_empty() { "none".into() } else { have.join(", ") };
        let wanted = if wanted.is_empty() { "any Blender" } else { wanted };
        let file = file.map_or(String::new(), |v| format!(" not older than the file's {v}"));
        Err(RenderError::new(
            FailureReason::Permanent,
            format!("the job needs {wanted}{file}, but this node has {have}"),
        ))
    }

    /// Fetches a Blender for a scene, when none that is here is right and one that is can be had.
    async fn provide(
        &self,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<(), RenderError> {
        let (file, wanted) = (scene.file_version, scene.settings.blender.as_str());
        if self.choose(file, wanted).is_ok() {
            return Ok(());
        }
        let Some(fetcher) = &self.fetcher else { return Ok(()) };
        let Some(version) = best(fetcher.versions(), |version| *version, file, wanted) else {
            return Ok(());
        };
        let fetched = fetcher.fetch(*version, |line| observe(Observation::Line(line))).await;
        let fetched = fetched
            .map_err(|error| RenderError::new(FailureReason::Infrastructure, error.to_string()))?;
        self.add(vec![fetched]);
        Ok(())
    }

    pub(crate) fn add(&self, more: Vec<FoundBlender>) {
        let mut found = self.found();
        for blender in more {
            // Two slots may have waited for the same.
            if !found.contains(&blender) {
                found.push(blender);
            }
        }
        found.sort_by_key(|blender| (Reverse(blender.version), blender.kind));
    }

    fn found(&self) -> MutexGuard<'_, Vec<FoundBlender>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The best of some Blenders, which stand in the order of their versions, newest first.
fn best<'a, T>(
    of: &'a [T],
    version: impl Fn(&T) -> Version,
    file: Option<Version>,
    wanted: &str,
) -> Option<&'a T> {
    let wanted_one = |blender: &&T| wanted.is_empty() || matches_prefix(version(blender), wanted);
    let mut allowed = of.iter().filter(wanted_one);
    let Some(file) = file else { return allowed.next() };
    let series = |blender: &T| version(blender).series();
    // Newest first: the first of those with the lowest series is the latest patch.
    let not_older = allowed.clone().filter(|blender| series(blender) >= file.series());
    not_older
        .min_by_key(|blender| series(blender))
        .or_else(|| allowed.next().filter(|_| !wanted.is_empty()))
}

/// A slot's place for a Blender.
#[derive(Debug)]
pub(crate) struct Seat {
    blenders: Arc<Blenders>,
    worker: Option<Worker>,
    /// Whether the batch wants a Blender of its own: none that drew before, and none that draws after it.
    cold: bool,
    log_tail: Vec<String>,
}

impl Seat {
    pub(crate) fn new(blenders: Arc<Blenders>) -> Self {
        Self { blenders, worker: None, cold: false, log_tail: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.worker.is_none()
    }

    /// Takes the best of the idle Blenders for a scene's frame: one whose animation has come to it, or that has the
    /// scene loaded, or else one of the right version.
    /// Where none is right, the one that is idle for longest makes room.
    pub(crate) fn choose(
        &self,
        idle: &mut Vec<Worker>,
        scene: &Scene,
        frame: i32,
    ) -> Result<Option<Worker>, RenderError> {
        // One that died while nobody looked must not cost a frame its try.
        idle.retain_mut(|worker| !worker.has_died());
        let wanted = self.blenders.choose(scene.file_version, &scene.settings.blender)?;
        // What the file's own Python may see is settled when the process starts.
        let needs_own = scene.is_scripted() || scene.settings.cold;
        let right = |worker: &Worker| {
            !needs_own
                && worker.blender().path == wanted.path
                && worker.is_set_up_for(scene)
                && worker.may_draw(scene, frame)
        };
        let best = idle
            .iter()
            .position(|worker| right(worker) && worker.is_in_an_animation())
            .or_else(|| idle.iter().position(|worker| right(worker) && worker.has_loaded(scene)))
            .or_else(|| idle.iter().position(right));
        match best {
            Some(index) => Ok(Some(idle.remove(index))),
            None if idle.is_empty() => Ok(None),
            None => {
                drop(idle.remove(0));
                Ok(None)
            }
        }
    }

    /// Takes a Blender in for a scene; `None`: one is started for its first frame.
    pub(crate) fn sit(&mut self, worker: Option<Worker>, scene: &Scene) {
        self.worker = worker;
        self.cold = scene.settings.cold;
    }

    /// Fetches a Blender for a scene, when none that is here is right and one that is can be had.
    pub(crate) async fn provide(
        &self,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<(), RenderError> {
        self.blenders.provide(scene, observe).await
    }

    async fn worker_for(
        &mut self,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<&mut Worker, RenderError> {
        if self.worker.is_none() {
            let blender = self.blenders.choose(scene.file_version, &scene.settings.blender)?;
            let started = Worker::start(blender, &self.blenders.workplace, scene, observe).await?;
            self.worker = Some(started);
        }
        self.worker.as_mut().ok_or_else(|| {
            RenderError::new(FailureReason::Infrastructure, "the slot has no Blender")
        })
    }

    pub(crate) async fn render(
        &mut self,
        scene: &Scene,
        frame: i32,
        folder: &Path,
        mut observe: impl FnMut(Observation),
    ) -> Result<Drawing, RenderError> {
        self.log_tail.clear();
        let memory_bytes_max = self.blenders.memory_bytes_max;
        if self.worker.as_ref().is_some_and(|worker| !worker.may_draw(scene, frame)) {
            // What it has drawn leads elsewhere.
            self.kill().await;
        }
        let worker = self.worker_for(scene, &mut observe).await?;
        let drawn = worker.draw(scene, frame, folder, observe).await;
        let renewal = worker.renewal(memory_bytes_max);
        self.log_tail = worker.log_tail();
        if renewal == Renewal::Due {
            self.kill().await;
        }
        drawn
    }

    /// How fast a scene's frames follow, and its sound between two of them, in the place of `folder`.
    pub(crate) async fn soundtrack(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &Path,
        mut observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        self.log_tail.clear();
        let worker = self.worker_for(scene, &mut observe).await?;
        let soundtrack = worker.soundtrack(scene, span, folder, observe).await;
        let is_well = worker.is_waiting();
        self.log_tail = worker.log_tail();
        if !is_well {
            self.kill().await;
        }
        soundtrack
    }

    /// A preview of linear light, as the scene that was drawn last looks on a screen.
    pub(crate) async fn develop(&mut self, light: Rgba32FImage) -> Option<(Preview, Blob)> {
        // One that grew too large is gone.
        let worker = self.worker.as_mut()?;
        let preview = worker.develop(light).await;
        if !worker.is_waiting() {
            self.kill().await;
        }
        preview
    }

    pub(crate) fn log_tail(&self) -> Vec<String> {
        self.log_tail.clone()
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            self.log_tail = worker.log_tail();
            worker.kill().await;
        }
    }

    /// The process, if it waits for its next frame, the batch did not ask for one of its own, and nothing of the
    /// batch is left in it that others must not meet.
    pub(crate) fn take_well(&mut self) -> Option<Worker> {
        let is_reusable = |worker: &Worker| worker.is_waiting() && !worker.runs_scripts();
        self.worker.take().filter(|worker| !self.cold && is_reusable(worker))
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{blender::Kind, renderer::process::tests::workplace};

    fn blenders(versions: &[&str]) -> Blenders {
        let found = versions.iter().map(|version| FoundBlender {
            version: version.parse().unwrap(),
            kind: Kind::Executable,
            path: version.into(),
        });
        Blenders::new(found.collect(), None, 1, workplace(Path::new("")))
    }

    fn chosen(versions: &[&str], file: &str, wanted: &str) -> Option<String> {
        let blenders = blenders(versions);
        let chosen = blenders.choose(file.parse().ok(), wanted);
        chosen.ok().map(|blender| blender.version.to_string())
    }

    #[tokio::test]
    async fn an_idle_blender_that_died_is_not_given_a_frame() {
        use std::time::Duration;

        use tokio::time;

        use crate::renderer::process::tests::{impostor, scene};
        let folder = tempfile::tempdir().unwrap();
        let dies = impostor(folder.path(), "exit 1");
        let place = workplace(folder.path());
        let mut worker = Worker::start(dies.clone(), &place, &scene(), &mut |_| ()).await.unwrap();
        assert!(worker.is_waiting());
        let died = async {
            while !worker.has_died() {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(Duration::from_secs(60), died).await.unwrap();
        let mut idle = vec![worker];
        let seat = Seat::new(Arc::new(Blenders::new(vec![dies], None, 1, place)));
        assert!(seat.choose(&mut idle, &scene(), 1).unwrap().is_none());
        assert!(idle.is_empty());
    }

    #[tokio::test]
    async fn a_cold_batch_takes_no_blender_that_drew_before_and_leaves_none_behind() {
        use crate::renderer::process::tests::{impostor, scene};
        let folder = tempfile::tempdir().unwrap();
        let waits = impostor(folder.path(), "cat >/dev/null");
        let place = workplace(folder.path());
        let start = async || Worker::start(waits.clone(), &place, &scene(), &mut |_| ()).await;
        let mut seat =
            Seat::new(Arc::new(Blenders::new(vec![waits.clone()], None, 2, place.clone())));
        let mut cold = scene();
        cold.settings.cold = true;
        for (scene, reuses) in [(cold, false), (scene(), true)] {
            let mut idle = vec![start().await.unwrap()];
            let chosen = seat.choose(&mut idle, &scene, 1).unwrap();
            assert_eq!(chosen.is_some(), reuses, "what waited before the batch");
            assert!(idle.is_empty(), "it has made room, or works");
            seat.sit(Some(start().await.unwrap()), &scene);
            assert_eq!(seat.take_well().is_some(), reuses, "what waits after the batch");
        }
    }

    #[test]
    fn the_series_closest_to_the_file_draws_it() {
        let have = ["3.4.1", "4.5.15", "4.5.2", "5.0.1"];
        assert_eq!(chosen(&have, "3.4", "").unwrap(), "3.4.1");
        assert_eq!(chosen(&have, "3.6", "").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "4.5", "").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "", "").unwrap(), "5.0.1");
    }

    #[test]
    fn the_job_may_ask_for_a_version() {
        let have = ["3.4.1", "4.5.15", "5.0.1"];
        assert_eq!(chosen(&have, "3.4", "5").unwrap(), "5.0.1");
        assert_eq!(chosen(&have, "3.4", "4.5").unwrap(), "4.5.15");
        assert_eq!(chosen(&have, "3.4", "4.2"), None);
    }

    #[test]
    fn a_blender_older_than_the_file_opens_it_only_when_asked_for() {
        assert_eq!(chosen(&["3.4.1"], "4.5", ""), None);
        assert_eq!(chosen(&["3.4.1", "5.0.1"], "4.5", "3.4").unwrap(), "3.4.1");
        assert_eq!(chosen(&["3.4.1", "3.6.2", "3.6.9"], "3.6", "3").unwrap(), "3.6.9");
        assert_eq!(chosen(&["3.3.1", "3.4.1"], "3.6", "3").unwrap(), "3.4.1");
        assert_eq!(chosen(&[], "3.4", ""), None);
        assert_eq!(chosen(&["3.4.1"], "3.6", "3.6"), None);
    }
}
