//! A batch: what it asks for, and its numbered stream of events, which can be re-attached.

mod events;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use framecrew_blobs::ProjectPath;
use framecrew_proto::v1::{
    BatchEnd, BatchEvent, LogLine, Slice, SliceProgress, Warning, batch_event::Event,
};
use futures::{Stream, stream};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::events::EventLog;
use crate::{
    core::BatchKey,
    movie::Encoding,
    outbox::Origin,
    project::Project,
    renderer::{Settings, Span},
    version::Version,
};

/// How long a renderer may say nothing unless its job says otherwise. EEVEE's first shaders have been seen to take
/// nearly a minute in silence, and scenes with large hair systems take several.
const FRAME_SILENCE: Duration = Duration::from_secs(600);

/// How long things may take before they are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long nothing may be heard of the orchestrator; the lease where that is longer.
    pub(crate) node_silence: Duration,
    /// How long nothing may be heard of a renderer.
    pub(crate) frame_silence: Duration,
    /// How long one try at a frame may take.
    pub(crate) frame: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { node_silence: Duration::ZERO, frame_silence: FRAME_SILENCE, frame: None }
    }
}

/// What a batch asks for, already checked.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) origin: Origin,
    pub(crate) limits: Limits,
    pub(crate) project: Project,
    pub(crate) settings: Settings,
    /// The colour configuration of the settings, one of the project's files.
    pub(crate) color_config: Option<ProjectPath>,
    /// The add-ons of the settings, also files of the project.
    pub(crate) addons: Vec<ProjectPath>,
    pub(crate) slices: Vec<Slice>,
    /// Version of Blender that saved the file, as far as the orchestrator knows.
    pub(crate) file_version: Option<Version>,
    /// Whether a warning fails a slice.
    pub(crate) strict: bool,
    /// The movie that its one slice is, if it is one.
    pub(crate) encoding: Option<Encoding>,
    /// The animation that its slices belong to, if each frame depends on those before it.
    pub(crate) span: Option<Span>,
}

/// The events of a batch that the node knows: one that renders, waits for a slot, or has ended and is not settled yet.
#[derive(Debug)]
pub(crate) struct Batch {
    key: BatchKey,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Cancelled when the batch has to end.
    killed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    events: EventLog,
    /// Counts the readers so far. Only the latest one reads.
    reader: u64,
}

/// A newer reader has attached to the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another reader has attached to this batch")]
pub(crate) struct Superseded;

impl Batch {
    pub(crate) fn new(key: BatchKey) -> Self {
        Self {
            key,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            killed: CancellationToken::new(),
        }
    }

    /// The events after `sequence`, then new ones as they come, until the batch has ended. Ends the stream of the
    /// reader before. Dropping it changes nothing.
    pub(crate) fn attach(
        self: &Arc<Self>,
        sequence: u64,
    ) -> impl Stream<Item = Result<Vec<BatchEvent>, Superseded>> + Send + 'static {
        let reader = {
            let mut state = self.state();
            state.reader += 1;
            state.reader
        };
        // The one before must notice.
        self.changed.send_replace(());
        let at = Some((self.clone(), self.changed.subscribe(), sequence));
        stream::unfold(at, move |at| async move {
            let (batch, mut changed, sequence) = at?;
            loop {
                changed.mark_unchanged();
                let (events, ended) = {
                    let mut state = batch.state();
                    if state.reader != reader {
                        return Some((Err(Superseded), None));
                    }
                    let events = state.events.after(sequence);
                    let ended = state.events.is_ended()
                        && sequence.max(events.last().map_or(0, |event| event.sequence))
                            >= state.events.last_sequence();
                    (events, ended)
                };
                if let Some(last) = events.last() {
                    let sequence = last.sequence;
                    let next = (!ended).then_some((batch, changed, sequence));
                    return Some((Ok(events), next));
                }
                // The sender lives in the batch, which this stream holds.
                if ended || changed.changed().await.is_err() {
                    return None;
                }
            }
        })
    }

    pub(crate) fn key(&self) -> BatchKey {
        self.key
    }

    /// Ends what renders for the batch.
    pub(crate) fn kill(&self) {
        self.killed.cancel();
    }

    /// Ends when the batch has to end.
    pub(crate) fn killed(&self) -> &CancellationToken {
        &self.killed
    }

    /// Waits until the batch has ended and its renderer is dead or back in its slot.
    pub(crate) async fn ended(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_ended() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state().events.is_ended()
    }

    /// Adds an event that its reader must get.
    pub(crate) fn push(&self, event: Event) {
        self.state().events.push(event);
        self.changed.send_replace(());
    }

    /// Replaces the latest progress.
    pub(crate) fn progress(&self, progress: SliceProgress) {
        self.state().events.progress(progress);
        self.changed.send_replace(());
    }

    /// Adds a line of the renderer's log.
    pub(crate) fn log(&self, line: LogLine) {
        self.state().events.log(Instant::now(), line);
        self.changed.send_replace(());
    }

    /// Adds a warning that the batch has not given yet.
    pub(crate) fn warn(&self, warning: Warning) {
        self.state().events.warn(warning);
        self.changed.send_replace(());
    }

    /// Adds the last event.
    pub(crate) fn end(&self, end: BatchEnd) {
        self.state().events.end(end);
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_proto::v1::SliceStarted;
    use futures::StreamExt as _;

    use super::*;
    use crate::core::BatchId;

    const KEY: BatchKey = BatchKey { binding: 0, id: BatchId(1) };

    fn started() -> Event {
        Event::Started(SliceStarted::default())
    }

    #[tokio::test]
    async fn a_newer_reader_ends_the_older_one() {
        let batch = Arc::new(Batch::new(KEY));
        batch.push(started());
        let mut older = Box::pin(batch.attach(0));
        assert_eq!(older.next().await.unwrap().unwrap().len(), 1);
        let mut newer = Box::pin(batch.attach(0));
        assert_eq!(older.next().await, Some(Err(Superseded)));
        assert_eq!(older.next().await, None);
        assert_eq!(newer.next().await.unwrap().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_dropped_stream_cancels_nothing_and_resumes_without_a_gap() {
        let batch = Arc::new(Batch::new(KEY));
        batch.push(started());
        let mut first = Box::pin(batch.attach(0));
        let events = first.next().await.unwrap().unwrap();
        drop(first);
        assert!(!batch.killed.is_cancelled());
        batch.push(started());
        batch.end(BatchEnd::Complete);
        let rest: Vec<_> = batch.attach(events[0].sequence).collect().await;
        let sequences: Vec<_> =
            rest.into_iter().flat_map(Result::unwrap).map(|event| event.sequence).collect();
        assert_eq!(sequences, [2, 3]);
    }

    #[tokio::test]
    async fn a_reader_that_has_the_end_already_gets_an_empty_stream() {
        let batch = Arc::new(Batch::new(KEY));
        batch.end(BatchEnd::Cancelled);
        assert_eq!(Box::pin(batch.attach(1)).next().await, None);
        assert_eq!(Box::pin(batch.attach(99)).next().await, None);
    }
}
