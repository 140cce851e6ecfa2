//! Which Blender draws a batch, and one warm process of it in the slot.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future;
use image::Rgba32FImage;
use sysinfo::System;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    drawing::{Drawing, Observation},
    error::RenderError,
    roster::{Roster, best},
    scene::Scene,
    soundtrack::Soundtrack,
    worker::{NotStarted, Renewal, Worker},
};
use crate::{
    blender::{Asked, Fetcher, FoundBlender, Offered, Unsure, ask_patiently},
    confine::Workplace,
    failure::FailureReason,
    output::Preview,
    version::Version,
};

/// The Blenders of a node.
#[derive(Debug)]
pub(crate) struct Blenders {
    /// Includes fetched Blenders.
    roster: Mutex<Roster>,
    fetcher: Option<Fetcher>,
    workplace: Workplace,
    /// Memory from which on a process is replaced after its frame.
    memory_bytes_max: u64,
    /// Wakes the task that announces the Blenders to the cluster, when one of them has changed.
    news: Arc<Notify>,
}

impl Blenders {
    pub(crate) fn new(
        found: Vec<FoundBlender>,
        fetcher: Option<Fetcher>,
        slots: u32,
        workplace: Workplace,
        news: Arc<Notify>,
    ) -> Self {
        let mut system = System::new();
        system.refresh_memory();
        // A process that has grown to half of its slot's share has leaked, or cached for another scene.
        let memory_bytes_max = system.total_memory() / u64::from(slots.max(1)) / 2;
        let roster = Mutex::default();
        let blenders = Self { roster, fetcher, workplace, memory_bytes_max, news };
        blenders.add(found);
        blenders
    }

    pub(crate) fn describe(&self) -> Vec<Offered> {
        let roster = self.roster();
        let known = roster.blenders();
        let fetchable = self.fetcher.iter().flat_map(|fetcher| fetcher.describe(&known));
        roster.describe().into_iter().chain(fetchable).collect()
    }

    fn choose(&self, scene: &Scene) -> Result<FoundBlender, RenderError> {
        self.roster().choose(scene.file_version, &scene.settings.blender)
    }

    /// Fetches a Blender for a scene, when none that is here is right and one that is can be had.
    async fn provide(
        &self,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<(), RenderError> {
        if self.choose(scene).is_ok() {
            return Ok(());
        }
        let (file, wanted) = (scene.file_version, scene.settings.blender.as_str());
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

    /// Starts the Blender for a scene. If it does not start, it is tried again, and then another one that may draw
    /// the file.
    async fn start(
        &self,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Worker, RenderError> {
        loop {
            // The loop ends, because a Blender that keeps failing is no longer chosen.
            let blender = self.choose(scene)?;
            match self.start_one(blender, scene, observe).await {
                Ok(worker) => return Ok(worker),
                Err(NotStarted::Node(error)) => return Err(error),
                Err(NotStarted::Blender { version, why, .. }) if has_colors(scene) => {
                    return Err(not_started_with_colors(version, &why));
                }
                Err(NotStarted::Blender { version, why, .. }) => {
                    observe(Observation::Line(format!("Blender {version} does not start: {why}")));
                }
            }
        }
    }

    async fn start_one(
        &self,
        blender: FoundBlender,
        scene: &Scene,
        observe: &mut impl FnMut(Observation),
    ) -> Result<Worker, NotStarted> {
        let path = blender.path.clone();
        let started = Worker::start(blender, &self.workplace, scene, observe).await;
        let is_news = match &started {
            Ok(_) => self.roster().started(&path),
            Err(NotStarted::Blender { version, why, for_good }) if !has_colors(scene) => {
                let is_news = self.roster().failed(&path, why, *for_good);
                if is_news {
                    warn!(%version, path = %path.display(), why, "a Blender does not start; trying again later");
                }
                is_news
            }
            Err(_) => false,
        };
        if is_news {
            self.news.notify_one();
        }
        started
    }

    /// Starts each Blender that has not started yet, or that failed last time, as for a job. Returns those that
    /// started and now wait for work.
    pub(crate) async fn prove(&self) -> Vec<Worker> {
        let scene = Scene::none();
        let unproved = self.roster().unproved();
        let starts = unproved.into_iter().map(|blender| {
            let scene = &scene;
            async move { self.start_one(blender, scene, &mut |_| ()).await.ok() }
        });
        future::join_all(starts).await.into_iter().flatten().collect()
    }

    /// Marks Blenders that have not been proved yet as slow.
    pub(crate) fn call_slow(&self) {
        if self.roster().call_slow() {
            self.news.notify_one();
        }
    }

    /// Asks the programs that may be Blenders again, with this patience.
    pub(crate) async fn ask_again(&self, patience: Duration) {
        let unsure = self.roster().unsure().to_vec();
        if unsure.is_empty() {
            return;
        }
        let folder = tempfile::Builder::new().prefix("asked").tempdir_in(&self.workplace.work);
        let Ok(folder) = folder else { return };
        let asked = unsure.into_iter().map(|unsure| {
            let temporary = folder.path();
            async move { ask_patiently(&unsure.path, temporary, patience).await }
        });
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for asked in future::join_all(asked).await {
            match asked {
                Asked::Blender(blender) => found.push(blender),
                Asked::Unsure(unsure) => left.push(unsure),
                Asked::Other => {}
            }
        }
        for blender in &found {
            info!(version = %blender.version, path = %blender.path.display(), "found Blender");
        }
        let mut roster = self.roster();
        let is_news = !found.is_empty() || roster.unsure() != left;
        roster.set_unsure(left);
        roster.add(found);
        drop(roster);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Whether a Blender has not been proved yet, or does not start.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let roster = self.roster();
        !roster.unsure().is_empty() || !roster.unproved().is_empty()
    }

    pub(crate) fn add(&self, more: Vec<FoundBlender>) {
        self.roster().add(more);
    }

    pub(crate) fn add_unsure(&self, unsure: Vec<Unsure>) {
        self.roster().set_unsure(unsure);
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a job brings a colour configuration. A Blender that does not start with it may draw other jobs all the
/// same, and is proved without it.
fn has_colors(scene: &Scene) -> bool {
    !scene.color_config.as_os_str().is_empty()
}

/// Returns why a frame fails whose job's colour configuration may be to blame. If OpenColorIO says so, no other try
/// succeeds.
fn not_started_with_colors(version: Version, why: &str) -> RenderError {
    let reason = match why.contains("OpenColorIO") {
        true => FailureReason::Permanent,
        false => FailureReason::Renderer,
    };
    let message =
        format!("Blender {version} does not start with the job's colour configuration: {why}");
    RenderError::new(reason, message)
}

/// A slot's place for a Blender.
#[derive(Debug)]
pub(crate) struct SlotBlender {
    blenders: Arc<Blenders>,
    worker: Option<Worker>,
    /// Whether the batch wants a Blender of its own, which has drawn nothing before and draws nothing afterwards.
    cold: bool,
    log_tail: Vec<String>,
    /// The frame at which the last Blender died, if it died during the last request.
    died_at: Option<i32>,
}

impl SlotBlender {
    pub(crate) fn new(blenders: Arc<Blenders>) -> Self {
        Self { blenders, worker: None, cold: false, log_tail: Vec::new(), died_at: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.worker.is_none()
    }

    /// Takes the best of the idle Blenders for a scene's frame: one whose animation has reached the frame, or that
    /// has the scene loaded, or else one of the right version. If there is none, the Blender that has been idle
    /// the longest is ended.
    pub(crate) fn choose(
        &self,
        idle: &mut Vec<Worker>,
        scene: &Scene,
        frame: i32,
    ) -> Result<Option<Worker>, RenderError> {
        // One that died while nobody looked must not cost a frame its try.
        idle.retain_mut(|worker| !worker.has_died());
        let wanted = self.blenders.choose(scene)?;
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

    /// Takes a Blender for a scene. If it is `None`, one is started for the first frame.
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
            self.worker = Some(self.blenders.start(scene, observe).await?);
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
        self.died_at = None;
        let memory_bytes_max = self.blenders.memory_bytes_max;
        let is_spent = |worker: &Worker| {
            // An animation is one piece of work.
            let is_warm = self.cold && scene.span.is_none() && worker.has_loaded(scene);
            is_warm || !worker.may_draw(scene, frame)
        };
        if self.worker.as_ref().is_some_and(is_spent) {
            // Its animation cannot continue with this frame, or earlier frames have left traces.
            self.kill().await;
        }
        let worker = self.worker_for(scene, &mut observe).await?;
        let drawn = worker.draw(scene, frame, folder, observe).await;
        let renewal = worker.renewal(memory_bytes_max);
        (self.log_tail, self.died_at) = (worker.log_tail(), worker.died_at());
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
    pub(crate) async fn develop(&mut self, light: Rgba32FImage) -> Option<Preview> {
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

    pub(crate) fn died_at(&self) -> Option<i32> {
        self.died_at
    }

    /// Returns how many frames the animation in progress draws until this one is done; `None` if it cannot continue
    /// with this frame.
    pub(crate) fn frames_to(&self, scene: &Scene, frame: i32) -> Option<u32> {
        self.worker.as_ref()?.frames_to(scene, frame)
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            self.log_tail = worker.log_tail();
            worker.kill().await;
        }
    }

    /// Returns the process if it waits for its next frame, the batch did not ask for one of its own, and it holds
    /// nothing of the batch that other jobs must not see.
    pub(crate) fn take_well(&mut self) -> Option<Worker> {
        let is_reusable = |worker: &Worker| worker.is_waiting() && !worker.runs_scripts();
        self.worker.take().filter(|worker| !self.cold && is_reusable(worker))
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::renderer::worker::tests::workplace;

    #[tokio::test]
    async fn an_idle_blender_that_died_is_not_given_a_frame() {
        use std::time::Duration;

        use tokio::time;

        use crate::renderer::worker::tests::{impostor, scene};
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
        let slot =
            SlotBlender::new(Arc::new(Blenders::new(vec![dies], None, 1, place, Arc::default())));
        assert!(slot.choose(&mut idle, &scene(), 1).unwrap().is_none());
        assert!(idle.is_empty());
    }

    #[tokio::test]
    async fn a_blender_that_does_not_start_with_a_jobs_colours_stays_on_the_list() {
        use crate::renderer::worker::tests::{impostor, scene};
        let folder = tempfile::tempdir().unwrap();
        let blender = impostor(folder.path(), "cat >/dev/null");
        // It starts only without them.
        let script = std::fs::read_to_string(&blender.path).unwrap();
        let picky = script.replace("read token\n", "[ -z \"$OCIO\" ] || exit 1\nread token\n");
        std::fs::write(&blender.path, picky).unwrap();
        let place = workplace(folder.path());
        let news = Arc::default();
        let blenders = Blenders::new(vec![blender], None, 1, place, news);
        let mut colored = scene();
        colored.color_config = "studio.ocio".into();
        for _ in 0..5 {
            let error = blenders.start(&colored, &mut |_| ()).await.unwrap_err();
            assert_eq!(error.reason, FailureReason::Renderer, "tries are counted: {error:?}");
            assert!(error.message.contains("colour configuration"), "{error:?}");
        }
        assert!(blenders.start(&scene(), &mut |_| ()).await.is_ok());
        let refused = not_started_with_colors("4.5".parse().unwrap(), "OpenColorIO Error: a");
        assert_eq!(refused.reason, FailureReason::Permanent);
    }

    #[tokio::test]
    async fn a_cold_batch_takes_no_blender_that_drew_before_and_leaves_none_behind() {
        use crate::renderer::worker::tests::{impostor, scene};
        let folder = tempfile::tempdir().unwrap();
        let waits = impostor(folder.path(), "cat >/dev/null");
        let place = workplace(folder.path());
        let start = async || Worker::start(waits.clone(), &place, &scene(), &mut |_| ()).await;
        let mut slot = SlotBlender::new(Arc::new(Blenders::new(
            vec![waits.clone()],
            None,
            2,
            place.clone(),
            Arc::default(),
        )));
        let mut cold = scene();
        cold.settings.cold = true;
        for (scene, reuses) in [(cold, false), (scene(), true)] {
            let mut idle = vec![start().await.unwrap()];
            let chosen = slot.choose(&mut idle, &scene, 1).unwrap();
            assert_eq!(chosen.is_some(), reuses, "what waited before the batch");
            assert!(idle.is_empty(), "it has made room, or works");
            slot.sit(Some(start().await.unwrap()), &scene);
            assert_eq!(slot.take_well().is_some(), reuses, "what waits after the batch");
        }
    }
}
