//! The one task that owns the scheduler, and the only place where order matters: it takes the events that
//! are ready, lets the scheduler decide, writes all of it in one transaction, and only then lets anyone see
//! it: answers callers, publishes to watchers, starts and ends batches.
//!
//! When a commit fails (the disk is full), nothing of it becomes visible: the driver holds it, tries again,
//! and refuses new jobs meanwhile. It heals without a restart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    dispatch::{Assignment, Dispatch},
    domain::{
        BatchId, Frame, FrameState, Incarnation, JobId, JobState, NodeDescription, NodeName, Now,
        Rendered, Slice, Warning,
    },
    feed::{ActiveSlice, Feed, JobNews, NodeState, NodeView, Progress},
    movie::{self, Image},
    scheduler::{Action, Event, RestoredBatch, RestoredJob, RestoredNode, Scheduler},
    store::{
        BatchRecord, Group, JobRecord, LogRecord, NodeRecord, Remembered, Request, Store,
        StoreError,
    },
};

/// Commands that wait for the driver: two updates a second from 500 nodes for a second. Senders wait beyond it.
const COMMANDS_MAX: usize = 1_024;
/// Commands in one commit: bounds how long an answer waits for others, at some ten milliseconds.
const GROUP_MAX: usize = 256;
/// Time between two turns when nothing happens, so that a gap tells of a stall.
const TICK: Duration = Duration::from_secs(1);
/// A gap between two turns that no load explains: the process was stopped, or the disk held a commit up.
/// Heartbeats of that time wait unread, so nobody's silence counts.
const STALL: Duration = Duration::from_secs(4);
/// How long a caller waits for the driver: while the store fails, nobody is left hanging.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Pause before a failed commit is tried again; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest such pause: a disk with room again is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Warnings of a job; the protocol says so. The last one says that there are more.
const WARNINGS_MAX: usize = 100;

/// Something that a node said of a batch.
#[derive(Debug)]
pub(crate) enum BatchNews {
    Started(Slice),
    Progress(Slice, Progress),
    Finished(Slice, Rendered),
    Failed(Slice, crate::domain::Failure),
    /// What a restart replays is known by the event's sequence.
    Log {
        sequence: u64,
        lines: Vec<(Option<i32>, String)>,
        dropped: u64,
    },
    Warning(Warning),
    /// The node would not take it, or does not know it.
    Refused,
    Ended,
}

/// A job as it is handed in, checked.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) request: Request,
    pub(crate) spec: Arc<crate::domain::JobSpec>,
    pub(crate) file_version: crate::domain::BlenderVersion,
}

/// Why a job is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("request_id was used for another job, {0}; choose a new one")]
    RequestIdTaken(JobId),
    #[error("the job was not accepted: {0}; nothing was made, try again later")]
    Store(#[from] StoreError),
    #[error("the orchestrator cannot write to its store; nothing was made, try again later")]
    StoreFailing,
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why the driver gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the orchestrator is shutting down")]
    ShuttingDown,
    /// It may still do what was asked.
    #[error("the orchestrator has no answer yet, perhaps because its disk is full; ask again")]
    Late,
}

/// A node that wants to join.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) node: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
    pub(crate) batches: Vec<BatchId>,
}

/// What a node is told when it has joined.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// Those of its batches that it is to abandon.
    pub(crate) abandoned: Vec<BatchId>,
    /// Batches below, other than those it holds, are over: one that arrives late is not to be rendered.
    pub(crate) first_batch: BatchId,
}

/// Why a node may not do that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("node {0} is not registered here; register again")]
    NotRegistered(NodeName),
    #[error("a newer incarnation of node {0} is registered")]
    NewerIncarnation(NodeName),
    #[error(
        "a live node at {address} has the name {node}; choose another with --name, or wait until its lease ends"
    )]
    NameTaken { node: NodeName, address: String },
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// The job, and whether an earlier call had made it.
type SubmitReply = oneshot::Sender<Result<(JobRecord, bool), SubmitError>>;

enum Command {
    Submit(NewJob, SubmitReply),
    Cancel(JobId, oneshot::Sender<()>),
    Register(Registration, oneshot::Sender<Result<Welcome, MembershipError>>),
    Heartbeat {
        node: NodeName,
        incarnation: Incarnation,
        batches: Vec<BatchId>,
        reply: oneshot::Sender<Result<Vec<BatchId>, MembershipError>>,
    },
    Unregister {
        node: NodeName,
        incarnation: Incarnation,
        reply: oneshot::Sender<()>,
    },
    Batch(BatchId, Vec<BatchNews>),
}

/// How everyone else talks to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DriverHandle {
    commands: mpsc::Sender<Command>,
    store_fails: Arc<AtomicBool>,
}

impl DriverHandle {
    /// Answers when the job is durable: the job, and whether an earlier call had made it.
    pub(crate) async fn submit(&self, job: NewJob) -> Result<(JobRecord, bool), SubmitError> {
        if self.store_fails.load(Ordering::Relaxed) {
            return Err(SubmitError::StoreFailing);
        }
        let answer = self.ask(|reply| Command::Submit(job, reply)).await;
        answer?
    }

    /// Answers when the job, if it was open, is durably cancelled.
    pub(crate) async fn cancel(&self, job: JobId) -> Result<(), NoAnswer> {
        self.ask(|reply| Command::Cancel(job, reply)).await
    }

    /// Answers when the node is known durably.
    pub(crate) async fn register(
        &self,
        registration: Registration,
    ) -> Result<Welcome, MembershipError> {
        let answer = self.ask(|reply| Command::Register(registration, reply)).await;
        answer?
    }

    /// Answers with those of the node's batches that it is to abandon.
    pub(crate) async fn heartbeat(
        &self,
        node: NodeName,
        incarnation: Incarnation,
        batches: Vec<BatchId>,
    ) -> Result<Vec<BatchId>, MembershipError> {
        let answer =
            self.ask(|reply| Command::Heartbeat { node, incarnation, batches, reply }).await;
        answer?
    }

    /// Answers when the node's work is free for others.
    pub(crate) async fn unregister(
        &self,
        node: NodeName,
        incarnation: Incarnation,
    ) -> Result<(), NoAnswer> {
        self.ask(|reply| Command::Unregister { node, incarnation, reply }).await
    }

    /// Reports what a node said of a batch. Waits while the driver has much to do.
    pub(crate) async fn report(&self, batch: BatchId, news: Vec<BatchNews>) {
        // Fails only when the driver has stopped, and with it everyone who could care.
        let _ = self.commands.send(Command::Batch(batch, news)).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(answer) => answer.ok_or(NoAnswer::ShuttingDown),
            Err(_) => Err(NoAnswer::Late),
        }
    }
}

/// What is done once a group is durable, in this order.
enum Effect {
    Start(Assignment),
    Refuse(BatchId),
    Forget(NodeName),
    CancelBatch(BatchId, NodeName),
    EndBatch(BatchId, NodeName),
    Reply(Box<dyn FnOnce() + Send>),
}

struct OpenJob {
    record: JobRecord,
    next_log_line: u64,
    /// By frame, those of finished frames, while a movie is to be made of them.
    images: Option<BTreeMap<i32, Image>>,
}

impl OpenJob {
    fn new(record: JobRecord, next_log_line: u64) -> Self {
        let images = movie::is_wanted(&record.spec).then(BTreeMap::new);
        Self { record, next_log_line, images }
    }

    fn take_image(&mut self, frame: i32, rendered: &Rendered) {
        if let Some(images) = &mut self.images
            && let Some(image) = Image::of(rendered)
        {
            images.insert(frame, image);
        }
    }
}

/// What happened to a job in the group at hand.
#[derive(Default)]
struct Pending {
    frames: Vec<Arc<Frame>>,
    previews: Vec<(Digest, Bytes)>,
    active: BTreeMap<Slice, ActiveSlice>,
}

/// A turn's work: what to write, and what follows when it is written.
#[derive(Default)]
struct Turn {
    group: Group,
    effects: Vec<Effect>,
    /// Movies' jobs, which begin once they are durable.
    movies: Vec<JobRecord>,
    jobs: BTreeMap<JobId, Pending>,
    nodes: BTreeSet<NodeName>,
    gone: Vec<NodeView>,
}

pub(crate) struct Driver {
    scheduler: Scheduler,
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    dispatch: Dispatch,
    commands: mpsc::Receiver<Command>,
    store_fails: Arc<AtomicBool>,
    started_at: Instant,
    jobs: HashMap<JobId, OpenJob>,
    nodes: HashMap<NodeName, NodeRecord>,
    last_job: u64,
    /// When the latest turn began.
    last_turn: Now,
}

/// The mailbox of a driver that is yet to be made: what serves it needs the handle first.
pub(crate) fn mailbox() -> (DriverHandle, Mailbox) {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let store_fails = Arc::new(AtomicBool::new(false));
    let handle = DriverHandle { commands: sender, store_fails: store_fails.clone() };
    (handle, Mailbox { commands, store_fails })
}

pub(crate) struct Mailbox {
    commands: mpsc::Receiver<Command>,
    store_fails: Arc<AtomicBool>,
}

impl Driver {
    /// Goes on where a former life stopped: follows the batches that were live, and looks for work to give.
    pub(crate) async fn restore(
        store: Arc<dyn Store>,
        feed: Arc<Feed>,
        dispatch: Dispatch,
        mailbox: Mailbox,
        lease: Duration,
    ) -> Result<Self, StoreError> {
        let Remembered { open_jobs, batches, nodes, last_job } = store.remember().await?;
        let mut jobs = HashMap::new();
        let mut restored_jobs = Vec::new();
        let mut settled_slices = HashSet::new();
        for (record, frames) in open_jobs {
            let next_log_line = store.next_log_line(record.job).await?;
            let mut open = OpenJob::new(record.clone(), next_log_line);
            let mut settled = Vec::new();
            let mut attempts = Vec::new();
            for frame in frames {
                let slice = Slice::whole(frame.frame);
                if let Some(rendered) = &frame.rendered {
                    open.take_image(frame.frame, rendered);
                }
                if frame.state == FrameState::Open {
                    attempts.push((slice, frame.attempts));
                } else {
                    settled.push(frame.frame);
                    settled_slices.insert((record.job, slice));
                }
            }
            restored_jobs.push(RestoredJob {
                job: record.job,
                frames: record.spec.frames.clone(),
                requirements: record.requirements(),
                priority: record.spec.priority,
                state: record.standing.state,
                counts: record.standing.counts,
                revision: record.standing.revision,
                settled,
                attempts,
            });
            feed.open_job(&record);
            jobs.insert(record.job, open);
        }
        let mut restored_batches = Vec::new();
        let mut log_sequences = HashMap::new();
        for (batch, BatchRecord { job, node, mut slices, log_sequence }) in batches {
            log_sequences.insert(batch, log_sequence);
            slices.retain(|slice| !settled_slices.contains(&(job, *slice)));
            restored_batches.push(RestoredBatch { batch, job, node, slices });
        }
        let restored_nodes = nodes
            .iter()
            .map(|(node, record)| RestoredNode {
                node: node.clone(),
                incarnation: record.incarnation,
                description: record.description.clone(),
            })
            .collect();
        info!(
            jobs = jobs.len(),
            nodes = nodes.len(),
            batches = restored_batches.len(),
            epoch = feed.identity().epoch.0,
            "store opened"
        );
        let known: HashMap<_, _> = nodes.into_iter().collect();
        for restored in &restored_batches {
            if let Some(node) = known.get(&restored.node) {
                let logged = log_sequences.get(&restored.batch).copied().unwrap_or(0);
                dispatch.attach(restored.batch, &restored.node, &node.address, logged);
            }
        }
        let (scheduler, actions) = Scheduler::restore(
            feed.identity().epoch,
            lease,
            restored_jobs,
            restored_nodes,
            restored_batches,
        );
        let mut this = Self {
            scheduler,
            store,
            feed,
            dispatch,
            commands: mailbox.commands,
            store_fails: mailbox.store_fails,
            started_at: Instant::now(),
            jobs,
            nodes: known,
            last_job,
            last_turn: Now::ZERO,
        };
        let mut turn = Turn::default();
        turn.nodes.extend(this.nodes.keys().cloned());
        this.apply(&mut turn, actions);
        this.finish(turn).await;
        Ok(this)
    }

    /// Runs until `shutdown`. What was not committed by then was not answered either.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let tick = self.last_turn + TICK;
            let deadline = self.scheduler.next_deadline().map_or(tick, |at| at.min(tick));
            let first = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return,
                },
                () = tokio::time::sleep_until(self.started_at + deadline) => None,
                () = shutdown.cancelled() => return,
            };
            let mut commands = Vec::from_iter(first);
            while commands.len() < GROUP_MAX
                && let Ok(command) = self.commands.try_recv()
            {
                commands.push(command);
            }
            self.turn(commands).await;
        }
    }

    fn now(&self) -> Now {
        self.started_at.elapsed()
    }

    async fn turn(&mut self, commands: Vec<Command>) {
        let mut turn = Turn::default();
        let mut others = Vec::with_capacity(commands.len());
        let mut submissions = Vec::new();
        for command in commands {
            match command {
                Command::Submit(job, reply) => submissions.push((job, reply)),
                other => others.push(other),
            }
        }
        if !submissions.is_empty() {
            self.accept(submissions, &mut turn).await;
        }
        let now = self.now();
        if now > self.last_turn + STALL {
            warn!(seconds = (now - self.last_turn).as_secs(), "stood still; leases are prolonged");
            self.decide(Event::Stalled, &mut turn);
        }
        for command in others {
            self.take(command, &mut turn);
        }
        self.decide(Event::TimePassed, &mut turn);
        self.last_turn = now;
        self.finish(turn).await;
    }

    /// Jobs are written before the scheduler hears of them, in a commit of their own: so one that does not
    /// fit on the disk is refused, and leaves nothing half-made.
    async fn accept(&mut self, submissions: Vec<(NewJob, SubmitReply)>, turn: &mut Turn) {
        let mut group = Group::default();
        let mut accepted = Vec::new();
        for (NewJob { request, spec, file_version }, reply) in submissions {
            let pending = group
                .new_jobs
                .iter()
                .find(|(known, _)| known.request_id == request.request_id)
                .map(|(known, record): &(Request, JobRecord)| (record.job, known.clone()));
            let known = match pending {
                Some(known) => Ok(Some(known)),
                None => self.store.find_request(&request.request_id).await,
            };
            match known {
                Err(error) => {
                    let _ = reply.send(Err(error.into()));
                }
                Ok(Some((job, known))) if known.fingerprint == request.fingerprint => {
                    accepted.push((job, true, reply));
                }
                Ok(Some((job, _))) => {
                    let _ = reply.send(Err(SubmitError::RequestIdTaken(job)));
                }
                Ok(None) => {
                    self.last_job += 1;
                    let job = JobId(self.last_job);
                    let record = JobRecord::submitted(job, spec, file_version, wall_ms());
                    group.new_jobs.push((request, record));
                    accepted.push((job, false, reply));
                }
            }
        }
        if !group.is_empty()
            && let Err(error) = self.store.commit(&group).await
        {
            warn!(%error, "jobs refused");
            group.new_jobs.clear();
        }
        // Watchers may come as soon as a submission is answered.
        for (_, record) in &group.new_jobs {
            self.open(record);
        }
        // Answered from the store: what it does not have was not accepted.
        for (job, existed, reply) in accepted {
            let answer = match self.store.job(job).await {
                Ok(Some(record)) => Ok((record, existed)),
                Ok(None) => Err(SubmitError::StoreFailing),
                Err(error) => Err(error.into()),
            };
            let _ = reply.send(answer);
        }
        for (_, record) in group.new_jobs {
            self.begin(&record, turn);
        }
    }

    /// Takes in a job that is durable: watchers may come from now on.
    fn open(&mut self, record: &JobRecord) {
        self.feed.open_job(record);
        self.jobs.insert(record.job, OpenJob::new(record.clone(), 1));
    }

    /// Lets a job's frames be given away.
    fn begin(&mut self, record: &JobRecord, turn: &mut Turn) {
        let (job, frames) = (record.job, record.spec.frames.clone());
        info!(%job, name = record.spec.name, frames = frames.len(), "job accepted");
        let (requirements, priority) = (record.requirements(), record.spec.priority);
        self.decide(Event::JobSubmitted { job, frames, requirements, priority }, turn);
    }

    fn take(&mut self, command: Command, turn: &mut Turn) {
        match command {
            // Handled by `accept`.
            Command::Submit(..) => {}
            Command::Cancel(job, reply) => {
                if self.jobs.contains_key(&job) {
                    info!(%job, "job cancelled");
                    self.decide(Event::JobCancelled { job }, turn);
                }
                turn.reply(reply, ());
            }
            Command::Register(registration, reply) => match self.may_register(&registration) {
                Ok(()) => {
                    let welcome = self.register(registration, turn);
                    turn.reply(reply, Ok(welcome));
                }
                Err(error) => turn.reply(reply, Err(error)),
            },
            Command::Heartbeat { node, incarnation, batches, reply } => {
                let answer = match self.scheduler.incarnation(&node) {
                    Some(known) if known == incarnation => {
                        self.feed.note_seen(&node, wall_ms());
                        // Told to abandon them by an earlier answer, the node has.
                        for batch in self.scheduler.abandoned(&node) {
                            if !batches.contains(&batch) {
                                self.decide(Event::BatchEnded { batch }, turn);
                            }
                        }
                        let abandoned = self.abandoned(&node, batches);
                        self.decide(Event::LeaseRenewed { node, incarnation }, turn);
                        Ok(abandoned)
                    }
                    Some(known) if known > incarnation => {
                        Err(MembershipError::NewerIncarnation(node))
                    }
                    _ => Err(MembershipError::NotRegistered(node)),
                };
                turn.reply(reply, answer);
            }
            Command::Unregister { node, incarnation, reply } => {
                self.decide(Event::NodeLeft { node, incarnation }, turn);
                turn.reply(reply, ());
            }
            Command::Batch(batch, news) => {
                for item in news {
                    self.take_news(batch, item, turn);
                }
            }
        }
    }

    fn take_news(&mut self, batch: BatchId, news: BatchNews, turn: &mut Turn) {
        let event = match news {
            BatchNews::Started(slice) => {
                if let Some((job, node)) = self.scheduler.rendering(batch, slice) {
                    let active = ActiveSlice {
                        slice,
                        node,
                        started_at_ms: wall_ms(),
                        progress: Progress::default(),
                    };
                    turn.jobs.entry(job).or_default().active.insert(slice, active);
                }
                Event::SliceStarted { batch, slice }
            }
            BatchNews::Progress(slice, progress) => {
                if let Some((job, node)) = self.scheduler.rendering(batch, slice) {
                    let known = self.feed.active(job, slice);
                    let active = turn.jobs.entry(job).or_default().active.entry(slice);
                    let active = active.or_insert_with(|| ActiveSlice {
                        slice,
                        started_at_ms: known.map_or_else(wall_ms, |known| known.started_at_ms),
                        node,
                        progress,
                    });
                    active.progress = progress;
                }
                return;
            }
            BatchNews::Log { sequence, lines, dropped } => {
                return self.keep_log(batch, sequence, lines, dropped, turn);
            }
            BatchNews::Warning(warning) => return self.keep_warning(batch, warning, turn),
            BatchNews::Finished(slice, rendered) => Event::SliceFinished { batch, slice, rendered },
            BatchNews::Failed(slice, failure) => {
                debug!(%batch, frame = slice.frame, reason = ?failure.reason, message = failure.message, "try failed");
                Event::SliceFailed { batch, slice, failure }
            }
            BatchNews::Refused => Event::BatchRefused { batch },
            BatchNews::Ended => Event::BatchEnded { batch },
        };
        self.decide(event, turn);
    }

    fn keep_log(
        &mut self,
        batch: BatchId,
        sequence: u64,
        lines: Vec<(Option<i32>, String)>,
        dropped: u64,
        turn: &mut Turn,
    ) {
        let Some((job, node)) = self.scheduler.batch(batch) else { return };
        let Some(open) = self.jobs.get_mut(&job) else { return };
        // Lines that the node dropped leave a gap in the numbers, which is how a reader learns of them.
        turn.group.log_sequences.insert(batch, sequence);
        open.next_log_line = open.next_log_line.saturating_add(dropped);
        let records = turn.group.log.entry(job).or_default();
        for (frame, text) in lines {
            let line = open.next_log_line;
            open.next_log_line += 1;
            records.push(LogRecord { line, frame, node: node.clone(), at_ms: wall_ms(), text });
        }
        turn.jobs.entry(job).or_default();
    }

    /// Keeps a warning that the job does not have yet. What comes after the job's end comes too late.
    fn keep_warning(&mut self, batch: BatchId, warning: Warning, turn: &mut Turn) {
        let Some((job, node)) = self.scheduler.batch(batch) else { return };
        let Some(open) = self.jobs.get_mut(&job) else { return };
        let standing = &mut open.record.standing;
        let number = standing.warnings.len();
        if standing.state.is_final()
            || number >= WARNINGS_MAX
            || standing.warnings.contains(&warning)
        {
            return;
        }
        let warning = if number + 1 < WARNINGS_MAX { warning } else { more_warnings() };
        info!(%job, %node, text = warning.text, "warning");
        standing.warnings = standing.warnings.iter().cloned().chain([warning.clone()]).collect();
        turn.group.warnings.entry(job).or_default().push((number, warning));
        self.decide(Event::JobRevised { job }, turn);
    }

    fn may_register(&self, registration: &Registration) -> Result<(), MembershipError> {
        let node = &registration.node;
        match (self.scheduler.incarnation(node), self.nodes.get(node)) {
            (Some(known), _) if known > registration.incarnation => {
                Err(MembershipError::NewerIncarnation(node.clone()))
            }
            // The same address proves that the former process there is dead; another one may be another machine.
            (Some(known), Some(record))
                if known < registration.incarnation && record.address != registration.address =>
            {
                let address = record.address.clone();
                Err(MembershipError::NameTaken { node: node.clone(), address })
            }
            _ => Ok(()),
        }
    }

    fn register(&mut self, registration: Registration, turn: &mut Turn) -> Welcome {
        let first_batch = self.scheduler.next_batch();
        let Registration { node, incarnation, address, description, batches } = registration;
        info!(%node, incarnation = incarnation.0, %address, slots = description.slots, "node registered");
        let event = Event::NodeRegistered {
            node: node.clone(),
            incarnation,
            description: description.clone(),
        };
        // First: what the scheduler decides now is meant for this address.
        let record = NodeRecord { incarnation, address, description };
        self.nodes.insert(node.clone(), record.clone());
        self.decide(event, turn);
        turn.group.nodes.insert(node.clone(), Some(record));
        turn.nodes.insert(node.clone());
        Welcome { abandoned: self.abandoned(&node, batches), first_batch }
    }

    fn abandoned(&self, node: &str, mut batches: Vec<BatchId>) -> Vec<BatchId> {
        batches.retain(|batch| !self.scheduler.holds(node, *batch));
        batches
    }

    fn decide(&mut self, event: Event, turn: &mut Turn) {
        let actions = self.scheduler.handle(self.now(), event);
        self.apply(turn, actions);
    }

    /// Notes what the scheduler decided: what is to be written, and what is to follow.
    fn apply(&mut self, turn: &mut Turn, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::StartBatch { batch, job, node, incarnation, slices } => {
                    let record = BatchRecord {
                        job,
                        node: node.clone(),
                        slices: slices.clone(),
                        log_sequence: 0,
                    };
                    turn.group.started_batches.insert(batch, record);
                    let record =
                        self.nodes.get(&node).filter(|node| node.incarnation == incarnation);
                    let address = record.map(|node| node.address.clone());
                    if let (Some(open), Some(address)) = (self.jobs.get(&job), address) {
                        debug!(%job, %batch, %node, slices = slices.len(), "batch started");
                        turn.effects.push(Effect::Start(Assignment {
                            batch,
                            job,
                            node,
                            address,
                            spec: open.record.spec.clone(),
                            file_version: open.record.file_version,
                            slices,
                        }));
                    } else {
                        // A bug: told aloud, and handed back so that no frame waits for ever.
                        error!(%job, %batch, "batch for a job or node that is not there");
                        turn.effects.push(Effect::Refuse(batch));
                    }
                }
                Action::EndBatch { batch, node } => {
                    turn.group.end_batch(batch);
                    turn.effects.push(Effect::EndBatch(batch, node));
                }
                Action::CancelBatch { batch, node } => {
                    turn.effects.push(Effect::CancelBatch(batch, node));
                }
                Action::FinishSlice { job, slice, node, attempts, mut rendered, revision } => {
                    // Kept for a while, and not with each of the frames that are kept.
                    if let Some(preview) = &mut rendered.preview {
                        let data = std::mem::take(&mut preview.data);
                        let previews = &mut turn.jobs.entry(job).or_default().previews;
                        previews.push((preview.digest, data));
                    }
                    if let Some(open) = self.jobs.get_mut(&job) {
                        open.take_image(slice.frame, &rendered);
                    }
                    turn.put_frame(
                        job,
                        slice,
                        Frame {
                            frame: slice.frame,
                            state: FrameState::Finished,
                            revision,
                            attempts,
                            rendered: Some(rendered),
                            failure: None,
                            node: Some(node),
                        },
                    );
                }
                Action::ReopenSlice { job, slice, node, attempts, failure, revision } => {
                    turn.put_frame(
                        job,
                        slice,
                        Frame {
                            frame: slice.frame,
                            state: FrameState::Open,
                            revision,
                            attempts,
                            rendered: None,
                            failure,
                            node: Some(node),
                        },
                    );
                }
                Action::RetrySlice { job, slice, attempts, revision } => {
                    turn.put_frame(
                        job,
                        slice,
                        Frame {
                            frame: slice.frame,
                            state: FrameState::Open,
                            revision,
                            attempts,
                            rendered: None,
                            failure: None,
                            node: None,
                        },
                    );
                }
                Action::FailSlice { job, slice, node, attempts, failure, revision } => {
                    warn!(%job, frame = slice.frame, %node, message = failure.message, "frame failed");
                    turn.put_frame(
                        job,
                        slice,
                        Frame {
                            frame: slice.frame,
                            state: FrameState::Failed,
                            revision,
                            attempts,
                            rendered: None,
                            failure: Some(failure),
                            node: Some(node),
                        },
                    );
                }
                Action::UpdateJob { job, state, counts, revision } => {
                    let Some(open) = self.jobs.get_mut(&job) else { continue };
                    let standing = &mut open.record.standing;
                    if state != JobState::Queued && standing.started_at_ms == 0 {
                        standing.started_at_ms = wall_ms();
                    }
                    if state.is_final() {
                        info!(%job, ?state, finished = counts.finished, failed = counts.failed, "job over");
                        standing.ended_at_ms = wall_ms();
                    }
                    (standing.state, standing.counts, standing.revision) =
                        (state, counts, revision);
                    if state == JobState::Finished
                        && let Some(images) = open.images.take()
                    {
                        self.last_job += 1;
                        let movie = JobId(self.last_job);
                        standing.movie_job = Some(movie);
                        let record = JobRecord::submitted(
                            movie,
                            Arc::new(movie::spec(job, &open.record.spec, &images)),
                            open.record.file_version,
                            wall_ms(),
                        );
                        // In one transaction with the end of its source: there is never the one without the other.
                        turn.group.new_jobs.push((movie::request(job), record.clone()));
                        turn.movies.push(record);
                    }
                    turn.group.jobs.insert(job, open.record.standing.clone());
                    turn.jobs.entry(job).or_default();
                }
                Action::NodeChanged { node } => {
                    turn.nodes.insert(node);
                }
                // Replaced by a later life of itself, which is live and has its place already.
                Action::NodeGone { node, .. } if self.scheduler.incarnation(&node).is_some() => {}
                Action::NodeGone { node, said_goodbye } => {
                    if let Some(record) = self.nodes.remove(&node) {
                        info!(%node, said_goodbye, "node gone");
                        let state = if said_goodbye { NodeState::Left } else { NodeState::Lost };
                        turn.gone.push(NodeView::new(node.clone(), &record, state, wall_ms()));
                        turn.group.nodes.insert(node.clone(), None);
                        turn.effects.push(Effect::Forget(node));
                    }
                }
            }
        }
    }

    /// Finishes a turn, and one more for the jobs that were made in it.
    async fn finish(&mut self, turn: Turn) {
        let movies = turn.movies.clone();
        self.settle(turn).await;
        if !movies.is_empty() {
            let mut next = Turn::default();
            for record in &movies {
                self.begin(record, &mut next);
            }
            self.settle(next).await;
        }
    }

    /// Commits a turn, however often it takes, and lets it be seen.
    async fn settle(&mut self, turn: Turn) {
        let Turn { group, effects, movies, jobs, nodes, gone } = turn;
        if !group.is_empty() {
            self.commit(&group).await;
        }
        // First: who sees the source's end may ask for its movie.
        for record in &movies {
            self.open(record);
        }
        for view in gone {
            self.feed.publish_node(view);
        }
        for name in nodes {
            if let (Some(record), Some(load)) = (self.nodes.get(&name), self.scheduler.load(&name))
            {
                let state = match (load.paused, load.has_work) {
                    (true, _) => NodeState::Paused,
                    (false, true) => NodeState::Rendering,
                    (false, false) => NodeState::Idle,
                };
                let mut view = NodeView::new(name, record, state, wall_ms());
                view.unsettled_slices = load.unsettled_slices;
                view.finished_slices = load.finished_slices;
                self.feed.publish_node(view);
            }
        }
        for (job, Pending { frames, previews, active }) in jobs {
            let Some(open) = self.jobs.get(&job) else { continue };
            let standing = open.record.standing.clone();
            let is_final = standing.state.is_final();
            // What was begun and settled in the same turn is not active any more.
            let settled: HashSet<i32> = frames.iter().map(|frame| frame.frame).collect();
            let active = active
                .into_values()
                .filter(|active| !settled.contains(&active.slice.frame))
                .collect();
            self.feed.publish_job(&open.record, JobNews { standing, frames, previews, active });
            if is_final {
                self.jobs.remove(&job);
            }
        }
        for effect in effects {
            match effect {
                Effect::Start(assignment) => self.dispatch.start(assignment),
                Effect::Refuse(batch) => self.dispatch.refuse(batch),
                Effect::Forget(node) => self.dispatch.forget(&node),
                Effect::CancelBatch(batch, node) => self.dispatch.cancel(batch, &node),
                Effect::EndBatch(batch, node) => self.dispatch.end(batch, &node),
                Effect::Reply(reply) => reply(),
            }
        }
    }

    async fn commit(&self, group: &Group) {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.store.commit(group).await {
            if !self.store_fails.swap(true, Ordering::Relaxed) {
                error!(%error, "cannot write to the store: holding everything, and trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        if self.store_fails.swap(false, Ordering::Relaxed) {
            info!("the store takes writes again");
        }
    }
}

impl Turn {
    fn put_frame(&mut self, job: JobId, slice: Slice, frame: Frame) {
        let frame = Arc::new(frame);
        self.group.frames.insert((job, slice), frame.clone());
        let pending = self.jobs.entry(job).or_default();
        pending.active.remove(&slice);
        pending.frames.push(frame);
    }

    /// Answers once this turn is durable.
    fn reply<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        // The caller may have gone; what it asked for is done all the same.
        self.effects.push(Effect::Reply(Box::new(move || drop(reply.send(answer)))));
    }
}

#[cfg(test)]
mod tests;

/// The last warning that a job keeps.
fn more_warnings() -> Warning {
    let text =
        "there are more warnings than are kept; the log has what the renderers wrote".to_owned();
    Warning { kind: 0, text }
}

/// Milliseconds since 1970, for people: no decision rests on it.
pub(crate) fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
