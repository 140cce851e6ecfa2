//! The slots of a node, and the warm Blenders that wait in them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time,
};

use super::{
    blender::{Blenders, SlotBlender},
    choice::{InjectedFaults, RendererChoice},
    drawing::{Drawing, Observation},
    error::RenderError,
    scene::Scene,
    soundtrack::Soundtrack,
    synthetic::Synthetic,
    worker::Worker,
};
use crate::{
    blender::{Fetcher, Offered, OfferedKind, Search},
    confine::Workplace,
    output::{self, Preview, Small},
};

/// First and longest pause before a Blender that does not start, or a program that did not answer, is tried again.
/// A person's fix is noticed within minutes, and an attempt costs a second of processor time.
const PROOF_PAUSE_MIN: Duration = Duration::from_secs(5);
const PROOF_PAUSE_MAX: Duration = Duration::from_secs(300);

/// How long a program may take to answer when it is asked again in the background. A machine that was just booted
/// reads everything from a cold disk.
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);

/// All slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    renderer: Renderer,
    free: Arc<Semaphore>,
    /// Warm Blenders without a batch, the longest idle first; never more than there are free slots.
    idle: Arc<Mutex<Vec<Worker>>>,
    /// Wakes the task that announces the Blenders to the cluster, when one of them has changed.
    pub(crate) news: Arc<Notify>,
}

#[derive(Debug)]
enum Renderer {
    Blender(Arc<Blenders>),
    Synthetic(Arc<Synthetic>),
}

/// One slot, taken. Dropping it gives it back, with its Blender where that is well.
#[derive(Debug)]
pub(crate) struct Slot {
    renderer: Held,
    idle: Arc<Mutex<Vec<Worker>>>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Held {
    Blender(Box<SlotBlender>),
    Synthetic(Arc<Synthetic>),
}

impl Slots {
    /// `faults` is what a synthetic renderer does wrong; `fetcher` gets Blenders that jobs need and that are not
    /// among those chosen.
    pub(crate) fn new(
        choice: RendererChoice,
        faults: InjectedFaults,
        fetcher: Option<Fetcher>,
        count: u32,
        workplace: Workplace,
    ) -> Self {
        let news = Arc::new(Notify::new());
        let renderer = match choice {
            RendererChoice::Blender(found) => {
                let blenders = Blenders::new(found, fetcher, count, workplace, news.clone());
                Renderer::Blender(Arc::new(blenders))
            }
            RendererChoice::Synthetic(time) => {
                Renderer::Synthetic(Arc::new(Synthetic::new(time, faults)))
            }
        };
        Self {
            renderer,
            free: Arc::new(Semaphore::new(count as usize)),
            idle: Arc::default(),
            news,
        }
    }

    /// Waits for a free slot; first come, first served.
    pub(crate) async fn take(&self) -> Slot {
        let permit = self.free.clone().acquire_owned().await;
        let renderer = match &self.renderer {
            Renderer::Blender(blenders) => {
                Held::Blender(Box::new(SlotBlender::new(blenders.clone())))
            }
            Renderer::Synthetic(synthetic) => Held::Synthetic(synthetic.clone()),
        };
        Slot {
            renderer,
            idle: self.idle.clone(),
            _permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Ends every Blender that waits for work.
    pub(crate) fn kill_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Ends the Blenders that have waited for too long.
    pub(crate) fn kill_long_idle(&self) {
        lock(&self.idle).retain(|worker| !worker.is_idle_for_too_long());
    }

    /// Adds Blenders that were found since.
    pub(crate) fn add(&self, search: Search) {
        if let Renderer::Blender(blenders) = &self.renderer {
            blenders.add(search.found);
            blenders.add_unsure(search.unsure);
        }
    }

    /// Starts each Blender that has not started yet, and keeps as many of them as there are free slots.
    pub(crate) async fn prove(&self) {
        let Renderer::Blender(blenders) = &self.renderer else { return };
        for worker in blenders.prove().await {
            let mut idle = lock(&self.idle);
            if idle.len() < self.free.available_permits() {
                idle.push(worker);
            }
        }
    }

    /// Keeps trying slow Blenders, and programs that have not answered yet. Runs for ever, with longer pauses
    /// while nothing changes.
    pub(crate) async fn keep_proving(&self) {
        let Renderer::Blender(blenders) = &self.renderer else { return };
        blenders.call_slow();
        let mut pause = PROOF_PAUSE_MIN;
        loop {
            time::sleep(pause).await;
            pause = if blenders.is_in_doubt() { (pause * 2).min(PROOF_PAUSE_MAX) } else { pause };
            blenders.ask_again(ANSWER_PATIENCE).await;
            self.prove().await;
            if !blenders.is_in_doubt() {
                pause = PROOF_PAUSE_MIN;
            }
        }
    }

    /// What the node tells the cluster about its Blenders.
    pub(crate) fn blenders(&self) -> Vec<Offered> {
        match &self.renderer {
            Renderer::Blender(blenders) => blenders.describe(),
            Renderer::Synthetic(_) => {
                vec![Offered::new(OfferedKind::Synthetic)]
            }
        }
    }
}

impl Slot {
    /// Makes sure that there is a Blender for a scene's frame. Fetching one may take minutes.
    pub(crate) async fn prepare(
        &mut self,
        scene: &Scene,
        frame: i32,
        mut observe: impl FnMut(Observation),
    ) -> Result<(), RenderError> {
        if let Held::Blender(own) = &mut self.renderer
            && own.is_empty()
        {
            own.provide(scene, &mut observe).await?;
            own.sit(own.choose(&mut lock(&self.idle), scene, frame)?, scene);
        }
        Ok(())
    }

    /// Draws a frame into `folder`, which is its own.
    pub(crate) async fn render(
        &mut self,
        scene: &Scene,
        frame: i32,
        folder: &std::path::Path,
        observe: impl FnMut(Observation),
    ) -> Result<Drawing, RenderError> {
        match &mut self.renderer {
            Held::Synthetic(synthetic) => synthetic.render(frame, scene.silence, observe).await,
            Held::Blender(own) => own.render(scene, frame, folder, observe).await,
        }
    }

    /// How fast a scene's frames follow, and its sound between two of them, in the place of `folder`, which is
    /// empty. Without Blender it is what scenes usually are: silent.
    pub(crate) async fn soundtrack(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &std::path::Path,
        observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        match &mut self.renderer {
            Held::Synthetic(_) => Ok(Soundtrack::default()),
            Held::Blender(own) => own.soundtrack(scene, span, folder, observe).await,
        }
    }

    /// Makes a preview of the frame that was drawn last; `None` where that fails, which costs nothing else.
    pub(crate) async fn preview(&mut self, small: Small) -> Option<Preview> {
        match (small, &mut self.renderer) {
            (Small::Shown(image), _) => output::encode_preview(&image),
            (Small::Linear(light), Held::Blender(own)) => own.develop(light).await,
            (Small::Linear(_), Held::Synthetic(_)) => None,
        }
    }

    /// Returns how many frames are drawn until this one is done. A Blender that takes over an animation draws the
    /// frames before it again.
    pub(crate) fn frames_to(&self, scene: &Scene, frame: i32) -> u32 {
        let Some(span) = scene.span else { return 1 };
        let under_way = match &self.renderer {
            Held::Blender(own) => own.frames_to(scene, frame),
            Held::Synthetic(_) => Some(1),
        };
        under_way.unwrap_or_else(|| span.frames_to(frame))
    }

    /// Returns the frame at which the renderer died, if it died during the last request.
    pub(crate) fn died_at(&self) -> Option<i32> {
        match &self.renderer {
            Held::Blender(own) => own.died_at(),
            Held::Synthetic(_) => None,
        }
    }

    /// Whether frames are drawn into a folder.
    pub(crate) fn needs_folder(&self) -> bool {
        matches!(self.renderer, Held::Blender(_))
    }

    /// The last lines the renderer wrote, oldest first.
    pub(crate) fn log_tail(&self) -> Vec<String> {
        match &self.renderer {
            Held::Blender(own) => own.log_tail(),
            Held::Synthetic(_) => Vec::new(),
        }
    }

    /// Ends the renderer and returns when its whole process group is gone.
    pub(crate) async fn kill(&mut self) {
        if let Held::Blender(own) = &mut self.renderer {
            own.kill().await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Held::Blender(own) = &mut self.renderer
            && let Some(worker) = own.take_well()
        {
            lock(&self.idle).push(worker);
        }
    }
}

fn lock(idle: &Mutex<Vec<Worker>>) -> MutexGuard<'_, Vec<Worker>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
