//! The one task that owns the scheduler, and the only place where order matters: it takes the events that
//! are ready, lets the scheduler decide, writes all of it in one transaction, and only then lets anyone see
//! it: answers callers, publishes to watchers, starts and ends batches.
//!
//! When a commit fails (the disk is full), nothing of it becomes visible: the driver holds it, tries again,
//! and refuses new jobs meanwhile. It heals without a restart.

mod amend;
mod handle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub(crate) use self::handle::{
    AdoptError, Adoption, BatchNews, DriverHandle, Mailbox, MembershipError, NewJob, NoAnswer,
    Registration, RetryError, SubmitError, Welcome, mailbox,
};
use self::handle::{Command, Heartbeat, SubmitReply};
use crate::{
    dispatch::{Assignment, Dispatch},
    domain::{
        Attempts, BatchId, FailureReason, Frame, FrameState, Incarnation, JobId, JobState,
        NodeName, Now, Rendered, Revision, Slice, Warning,
    },
    feed::{ActiveSlice, Feed, JobNews, NodeState, NodeView, Progress},
    history::History,
    movie::{self, Image},
    scheduler::{
        Action, Event, NodeLoad, RestoredBatch, RestoredJob, RestoredNode, Scheduler, Standing,
    },
    store::{
        BatchRecord, Group, JobProgressRecord, JobRecord, Ledger, LogRecord, NodeRecord, Request,
        RestoredState, StoreError,
    },
};

/// Commands in one commit: bounds how long an answer waits for others, at some ten milliseconds.
const GROUP_MAX: usize = 256;
/// Time between two turns when nothing happens, so that a gap tells of a stall.
const TICK: Duration = Duration::from_secs(1);
/// A gap in attending to nodes that no load explains: the process was stopped. Heartbeats of that time wait
/// unread, so nobody's silence counts; and somebody else may have the store by now.
const STALL: Duration = Duration::from_secs(4);
/// Pause before a failed commit is tried again; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Heartbeats that wait for a commit, because what they are to be told is not durable before: one of each of 500
/// nodes, and some that were repeated. More are not answered; who sent them asks again.
const PUT_OFF_MAX: usize = 1_024;
/// How long a commit is held before watchers are told what they wait for.
const HELD_TOLD_AFTER: Duration = Duration::from_secs(2);
/// Longest such pause: a disk with room again is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Warnings of a job; the protocol says so. The last one says that there are more.
const WARNINGS_MAX: usize = 100;

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

/// A lease that was renewed, perhaps often; the scheduler hears of it in the next turn.
#[derive(Default)]
struct Renewal {
    /// The latest time.
    at: Now,
    draining: bool,
    /// Batches of jobs that are over, which the node has ended as it was told to.
    ended: BTreeSet<BatchId>,
}

impl OpenJob {
    fn new(record: JobRecord, next_log_line: u64) -> Self {
        let images = movie::is_wanted(&record.spec).then(BTreeMap::new);
        Self { record, next_log_line, images }
    }

    /// Takes up a job where it was left. Costs a look at all its finished frames where a movie is to be made of
    /// them.
    async fn restore(
        store: &dyn Ledger,
        record: JobRecord,
        remains: JobProgressRecord,
    ) -> Result<(Self, RestoredJob), StoreError> {
        let JobProgressRecord { finished: mut settled, tried, next_log_line } = remains;
        let mut open = Self::new(record, next_log_line);
        if open.images.is_some() {
            for frame in store.frames_after(open.record.job, i64::MIN, u32::MAX).await? {
                if let Some(rendered) = &frame.rendered {
                    open.take_image(frame.frame, rendered);
                }
            }
        }
        let mut attempts = Vec::new();
        for (frame, state, tries) in tried {
            // Failed ones may be tried again.
            if state != FrameState::Open {
                settled.push(frame);
            }
            attempts.push((Slice::whole(frame), tries));
        }
        let record = &open.record;
        let restored = RestoredJob {
            job: record.job,
            frames: record.spec.frames.clone(),
            requirements: record.requirements(),
            priority: record.spec.priority,
            node_silence: record.spec.limits.node_silence(),
            state: record.standing.state,
            counts: record.standing.counts,
            revision: record.standing.revision,
            settled,
            attempts,
        };
        Ok((open, restored))
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
    /// Jobs that were over and go on, as they stood.
    reopened: Vec<JobRecord>,
    jobs: BTreeMap<JobId, Pending>,
    nodes: BTreeSet<NodeName>,
    gone: Vec<NodeView>,
}

pub(crate) struct Driver {
    scheduler: Scheduler,
    store: Arc<dyn Ledger>,
    feed: Arc<Feed>,
    dispatch: Dispatch,
    mailbox: Mailbox,
    started_at: Instant,
    jobs: HashMap<JobId, OpenJob>,
    nodes: HashMap<NodeName, NodeRecord>,
    last_job: u64,
    /// When the latest turn began.
    last_turn: Now,
    /// When nodes were last attended to.
    attended: Now,
    /// Whether there was a gap in that, and nobody has looked yet whether the store is still this life's own.
    stood_still: bool,
    /// Whether there was a gap that the scheduler is yet to hear of.
    stalled: bool,
    /// How often the store is asked whether it is still this life's own, so that one that lost it does not renew
    /// leases for long.
    checks_every: Duration,
    /// When it was asked last.
    checked: Now,
    /// Leases that were renewed since the latest turn began.
    renewals: BTreeMap<(NodeName, Incarnation), Renewal>,
    /// Heartbeats that wait for the commit at hand.
    put_off: Vec<Heartbeat>,
    /// Batches that time took from their nodes in the turn at hand.
    given_away: HashSet<BatchId>,
    /// What live nodes were paused for last.
    troubles: HashMap<NodeName, String>,
    history: History,
}

impl Driver {
    /// Goes on where a former life stopped: follows the batches that were live, and looks for work to give.
    pub(crate) async fn restore(
        store: Arc<dyn Ledger>,
        feed: Arc<Feed>,
        dispatch: Dispatch,
        mailbox: Mailbox,
        lease: Duration,
        mut history: History,
    ) -> Result<Self, StoreError> {
        let RestoredState { open_jobs, batches, nodes, last_job, commits } =
            store.restore().await?;
        history.opened(feed.identity(), commits);
        let mut jobs = HashMap::new();
        let mut restored_jobs = Vec::new();
        let mut settled_slices = HashSet::new();
        for (record, remains) in open_jobs {
            let (open, restored) = OpenJob::restore(&*store, record.clone(), remains).await?;
            let settled = restored.settled.iter().map(|frame| (record.job, Slice::whole(*frame)));
            settled_slices.extend(settled);
            restored_jobs.push(restored);
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
            commits,
            "store opened"
        );
        let known: HashMap<_, _> = nodes.into_iter().collect();
        for restored in &restored_batches {
            if let Some(node) = known.get(&restored.node) {
                let logged = log_sequences.get(&restored.batch).copied().unwrap_or(0);
                dispatch.attach(restored.batch, &restored.node, node, logged);
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
            mailbox,
            started_at: Instant::now(),
            jobs,
            nodes: known,
            last_job,
            last_turn: Now::ZERO,
            attended: Now::ZERO,
            stood_still: false,
            stalled: false,
            checks_every: lease / 3,
            checked: Now::ZERO,
            renewals: BTreeMap::new(),
            put_off: Vec::new(),
            given_away: HashSet::new(),
            troubles: HashMap::new(),
            history,
        };
        let mut turn = Turn::default();
        turn.nodes.extend(this.nodes.keys().cloned());
        this.apply(&mut turn, actions);
        this.finish(turn).await?;
        Ok(this)
    }

    /// Runs until `shutdown`. What was not committed by then was not answered either.
    ///
    /// # Errors
    /// When the store is another orchestrator's by now.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), StoreError> {
        loop {
            let tick = self.last_turn + TICK;
            let deadline = self.scheduler.next_deadline().map_or(tick, |at| at.min(tick));
            let mut commands = Vec::new();
            let mut heartbeats = std::mem::take(&mut self.put_off);
            if heartbeats.is_empty() {
                tokio::select! {
                    command = self.mailbox.commands.recv() => match command {
                        Some(command) => commands.push(command),
                        None => return Ok(()),
                    },
                    heartbeat = self.mailbox.heartbeats.recv() => heartbeats.extend(heartbeat),
                    () = tokio::time::sleep_until(self.started_at + deadline) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
            while commands.len() < GROUP_MAX
                && let Ok(command) = self.mailbox.commands.try_recv()
            {
                commands.push(command);
            }
            while let Ok(heartbeat) = self.mailbox.heartbeats.try_recv() {
                heartbeats.push(heartbeat);
            }
            self.turn(commands, heartbeats).await?;
        }
    }

    fn now(&self) -> Now {
        self.started_at.elapsed()
    }

    async fn turn(
        &mut self,
        commands: Vec<Command>,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<(), StoreError> {
        let mut turn = Turn::default();
        self.given_away.clear();
        self.attend();
        self.make_sure().await?;
        for heartbeat in heartbeats {
            self.answer(heartbeat);
        }
        let mut others = Vec::with_capacity(commands.len());
        let mut submissions = Vec::new();
        let mut amendments = Vec::new();
        for command in commands {
            match command {
                Command::Submit(job, reply) => submissions.push((job, reply)),
                // The node gave up, and has asked again: looking at its frames once is enough, and a node
                // that is not there any more gets no work.
                Command::Adopt { reply, .. } if reply.is_closed() => {}
                Command::Register(_, reply) if reply.is_closed() => {}
                Command::Retry(..) | Command::Adopt { .. } => {
                    amendments.extend(self.look_up(command).await);
                }
                other => others.push(other),
            }
        }
        if !submissions.is_empty() {
            self.accept(submissions, &mut turn).await?;
        }
        if std::mem::take(&mut self.stalled) {
            warn!("stood still; leases are prolonged");
            self.decide(Event::Stalled, &mut turn);
        }
        for ((node, incarnation), renewal) in std::mem::take(&mut self.renewals) {
            self.renew(node, incarnation, renewal, &mut turn);
        }
        // First of those that decide: the scheduler's books still are those that were looked up.
        for amendment in amendments {
            self.amend(amendment, &mut turn);
        }
        for command in others {
            self.take(command, &mut turn);
        }
        let actions = self.scheduler.handle(self.now(), Event::TimePassed);
        self.given_away.extend(actions.iter().filter_map(|action| match action {
            Action::EndBatch { batch, .. } => Some(*batch),
            _ => None,
        }));
        self.apply(&mut turn, actions);
        self.last_turn = self.now();
        self.finish(turn).await
    }

    // Leases, which do not wait for the disk: a node that is not answered for a lease kills its renderers.

    /// Takes note of the time, and of a gap since the last note.
    fn attend(&mut self) {
        let now = self.now();
        if now > self.attended + STALL {
            (self.stood_still, self.stalled) = (true, true);
        }
        self.attended = now;
    }

    /// Makes sure that no other orchestrator opened the store: after a gap, before anyone is told anything, and
    /// every now and then.
    async fn make_sure(&mut self) -> Result<(), StoreError> {
        if !self.stood_still && self.now() >= self.checked + self.checks_every {
            let store = self.store.clone();
            match self.meanwhile(store.check_epoch()).await {
                Ok(()) => self.checked = self.now(),
                Err(error @ StoreError::Superseded) => return Err(error),
                Err(error) => warn!(%error, "cannot read the store; trying again"),
            }
        }
        if self.stood_still {
            self.check_epoch().await?;
            self.stood_still = false;
            for heartbeat in std::mem::take(&mut self.put_off) {
                self.answer_meanwhile(heartbeat);
            }
        }
        Ok(())
    }

    /// Says whether the store is still this life's own, however long it takes to read it.
    async fn check_epoch(&mut self) -> Result<(), StoreError> {
        let mut pause = RETRY_MIN;
        loop {
            match self.store.check_epoch().await {
                Err(error) if !matches!(error, StoreError::Superseded) => {
                    error!(%error, "cannot read the store: holding everything, and trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                answer => {
                    self.attended = self.now();
                    self.checked = self.attended;
                    return answer;
                }
            }
        }
    }

    /// Answers a heartbeat between two turns, when all that was decided is durable.
    fn answer(&mut self, heartbeat: Heartbeat) {
        let Heartbeat { node, incarnation, batches, first_batch, draining, reply } = heartbeat;
        let answer = match self.scheduler.incarnation(&node) {
            Some(known)
                if known == incarnation && self.scheduler.is_listened_to(&node, incarnation) =>
            {
                self.feed.note_seen(&node, wall_ms());
                let mut ended = self.scheduler.abandoned(&node, first_batch);
                ended.retain(|batch| !batches.contains(batch));
                let abandoned = self.abandoned(&node, batches);
                self.note_renewal(node, incarnation, draining).ended.extend(ended);
                Ok(abandoned)
            }
            Some(known) if known > incarnation => Err(MembershipError::NewerIncarnation(node)),
            Some(known) if known == incarnation => Err(self.why_unheard(node)),
            _ => Err(MembershipError::NotRegistered(node)),
        };
        // The caller may have gone; its lease is renewed all the same.
        let _ = reply.send(answer);
    }

    /// Why the lease of a live node is not renewed.
    fn why_unheard(&self, node: NodeName) -> MembershipError {
        let standing = self.scheduler.load(&node).map(|load| load.standing);
        match (standing, self.nodes.get(&node)) {
            (Some(Standing::Unreachable), Some(record)) => {
                MembershipError::Unreachable { node, address: record.address.clone() }
            }
            _ => MembershipError::NotRegistered(node),
        }
    }

    /// Answers a heartbeat while a commit is under way: what was decided is not durable, so it is only told that
    /// the lease is renewed. Abandoned batches are named by the answer to its next one.
    ///
    /// Put off until the commit is through: nodes that go with it, and nodes that list a batch which time takes
    /// from them with it. By their own clocks they have killed that batch; a renewal must not keep it alive.
    fn answer_meanwhile(&mut self, heartbeat: Heartbeat) {
        let is_listened_to = self.scheduler.is_listened_to(&heartbeat.node, heartbeat.incarnation);
        let loses = heartbeat.batches.iter().any(|batch| self.given_away.contains(batch));
        if !is_listened_to || loses {
            self.put_off(heartbeat);
            return;
        }
        let Heartbeat { node, incarnation, draining, reply, .. } = heartbeat;
        self.feed.note_seen(&node, wall_ms());
        self.note_renewal(node, incarnation, draining);
        let _ = reply.send(Ok(Vec::new()));
    }

    fn put_off(&mut self, heartbeat: Heartbeat) {
        // Who gave up has asked again.
        self.put_off.retain(|earlier| !earlier.reply.is_closed());
        if self.put_off.len() < PUT_OFF_MAX {
            self.put_off.push(heartbeat);
        }
    }

    fn note_renewal(
        &mut self,
        node: NodeName,
        incarnation: Incarnation,
        draining: bool,
    ) -> &mut Renewal {
        let at = self.now();
        let renewal = self.renewals.entry((node, incarnation)).or_default();
        renewal.at = at;
        renewal.draining |= draining;
        renewal
    }

    /// Waits for the store, and attends to nodes meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            // Who stood still has to look whether the store is still its own before it says anything.
            let listens = !self.stood_still;
            tokio::select! {
                biased;
                done = &mut work => {
                    self.attend();
                    return done;
                }
                Some(heartbeat) = self.mailbox.heartbeats.recv(), if listens => {
                    self.attend();
                    if self.stood_still {
                        self.put_off(heartbeat);
                    } else {
                        self.answer_meanwhile(heartbeat);
                    }
                }
                () = tokio::time::sleep(TICK) => self.attend(),
            }
        }
    }

    fn renew(
        &mut self,
        node: NodeName,
        incarnation: Incarnation,
        renewal: Renewal,
        turn: &mut Turn,
    ) {
        let Renewal { at, draining, ended } = renewal;
        // Told to abandon them by an earlier answer, the node has.
        for batch in ended {
            self.decide(Event::BatchEnded { batch }, turn);
        }
        if draining {
            self.decide(Event::NodeDraining { node: node.clone(), incarnation }, turn);
        }
        let actions = self.scheduler.handle(at, Event::LeaseRenewed { node, incarnation });
        self.apply(turn, actions);
    }

    /// Jobs are written before the scheduler hears of them, in a commit of their own: so one that does not
    /// fit on the disk is refused, and leaves nothing half-made.
    ///
    /// # Errors
    /// When the store is another orchestrator's by now.
    async fn accept(
        &mut self,
        submissions: Vec<(NewJob, SubmitReply)>,
        turn: &mut Turn,
    ) -> Result<(), StoreError> {
        // However long the disk takes to read, heartbeats do not wait for it.
        let store = self.store.clone();
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
                None => self.meanwhile(store.find_request(&request.request_id)).await,
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
                    if let Err(error) = self.store.check_room() {
                        let _ = reply.send(Err(error.into()));
                        continue;
                    }
                    self.last_job += 1;
                    let job = JobId(self.last_job);
                    let record = JobRecord::submitted(job, spec, file_version, wall_ms());
                    group.new_jobs.push((request, record));
                    accepted.push((job, false, reply));
                }
            }
        }
        if !group.is_empty() {
            group.new_jobs.iter().for_each(|(_, record)| self.history.submitted(record));
            self.history.announce(true);
            match self.meanwhile(store.commit(&group)).await {
                Ok(()) => self.history.durable(),
                Err(error @ StoreError::Superseded) => return Err(error),
                Err(error) => {
                    warn!(%error, "jobs refused");
                    group.new_jobs.clear();
                }
            }
        }
        // Watchers may come as soon as a submission is answered.
        for (_, record) in &group.new_jobs {
            self.open(record);
        }
        // Answered from the store: what it does not have was not accepted.
        for (job, existed, reply) in accepted {
            let answer = match self.meanwhile(store.job(job)).await {
                Ok(Some(record)) => Ok((record, existed)),
                Ok(None) => Err(SubmitError::StoreFailing),
                Err(error) => Err(error.into()),
            };
            let _ = reply.send(answer);
        }
        for (_, record) in group.new_jobs {
            self.begin(&record, turn);
        }
        Ok(())
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
        let node_silence = record.spec.limits.node_silence();
        let event = Event::JobSubmitted { job, frames, requirements, priority, node_silence };
        self.decide(event, turn);
    }

    fn take(&mut self, command: Command, turn: &mut Turn) {
        match command {
            // Handled by `accept` and `amend`.
            Command::Submit(..) | Command::Retry(..) | Command::Adopt { .. } => {}
            Command::Cancel(job, reply) => {
                if self.jobs.contains_key(&job) {
                    info!(%job, "job cancelled");
                    self.decide(Event::JobCancelled { job }, turn);
                }
                turn.reply(reply, ());
            }
            Command::Register(registration, reply) => match self.may_register(&registration) {
                Ok(()) => {
                    let welcome = self.register(*registration, turn);
                    turn.reply(reply, Ok(welcome));
                }
                Err(error) => turn.reply(reply, Err(error)),
            },
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
                if failure.reason == FailureReason::Infrastructure {
                    self.note_trouble(batch, failure.message.clone());
                }
                debug!(%batch, frame = slice.frame, reason = ?failure.reason, message = failure.message, "try failed");
                Event::SliceFailed { batch, slice, failure }
            }
            BatchNews::Refused(why) => {
                self.note_trouble(batch, why.unwrap_or_default());
                Event::BatchRefused { batch }
            }
            BatchNews::Unreachable(lasts) => {
                self.note_trouble(batch, "it could not be reached at its address".to_owned());
                Event::BatchUnreachable { batch, lasts }
            }
            BatchNews::Unknown => Event::BatchLost { batch },
            BatchNews::Ended => Event::BatchEnded { batch },
        };
        self.decide(event, turn);
    }

    /// Remembers what a node is paused for.
    fn note_trouble(&mut self, batch: BatchId, what: String) {
        if let Some((_, node)) = self.scheduler.batch(batch) {
            self.troubles.insert(node, what);
        }
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
        if self.scheduler.is_evicted(node, registration.incarnation) {
            return Err(MembershipError::NotRegistered(node.clone()));
        }
        match (self.scheduler.incarnation(node), self.nodes.get(node)) {
            (Some(known), _) if known > registration.incarnation => {
                Err(MembershipError::NewerIncarnation(node.clone()))
            }
            // The same address proves that the former process there is dead. So does a port at which nothing
            // listens any more. Otherwise it may be another machine.
            (Some(known), Some(record))
                if known < registration.incarnation
                    && record.address != registration.address
                    && registration.replaces.as_ref() != Some(&record.address) =>
            {
                let address = record.address.clone();
                let neighbour = self.dispatch.neighbour(node);
                Err(MembershipError::NameTaken { node: node.clone(), address, neighbour })
            }
            _ => Ok(()),
        }
    }

    fn register(&mut self, registration: Registration, turn: &mut Turn) -> Welcome {
        let first_batch = self.scheduler.next_batch();
        let Registration { node, incarnation, address, description, batches, neighbour, .. } =
            registration;
        info!(%node, incarnation = incarnation.0, %address, slots = description.slots, "node registered");
        let event = Event::NodeRegistered {
            node: node.clone(),
            incarnation,
            description: description.clone(),
        };
        // First: what the scheduler decides now is meant for this address.
        // Batches of this life that are followed already are to be found there too.
        self.dispatch.meet(&node, &address, neighbour);
        let record = NodeRecord { incarnation, address, description };
        let former = self.nodes.insert(node.clone(), record.clone());
        if former.is_some_and(|former| former.incarnation != incarnation) {
            self.troubles.remove(&node);
        }
        self.history.registering(&node, incarnation, record.description.slots);
        self.decide(event, turn);
        self.history.registered();
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
            self.history.acted(&action);
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
                            incarnation,
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
                Action::FinishSlice {
                    job,
                    slice,
                    node,
                    attempts,
                    mut rendered,
                    revision,
                    batch: _,
                } => {
                    // Kept for a while, and not with each of the frames that are kept.
                    if let Some(preview) = &mut rendered.preview {
                        let data = std::mem::take(&mut preview.data);
                        let previews = &mut turn.jobs.entry(job).or_default().previews;
                        previews.push((preview.digest, data));
                    }
                    if let Some(open) = self.jobs.get_mut(&job) {
                        open.take_image(slice.frame, &rendered);
                    }
                    let frame = changed(slice, FrameState::Finished, attempts, revision);
                    let (rendered, node) = (Some(rendered), Some(node));
                    turn.put_frame(job, slice, Frame { rendered, node, ..frame });
                }
                Action::ReopenSlice { job, slice, node, attempts, failure, revision } => {
                    let frame = changed(slice, FrameState::Open, attempts, revision);
                    turn.put_frame(job, slice, Frame { failure, node: Some(node), ..frame });
                }
                Action::RetrySlice { job, slice, attempts, revision } => {
                    let frame = changed(slice, FrameState::Open, attempts, revision);
                    turn.put_frame(job, slice, frame);
                }
                Action::FailSlice { job, slice, node, attempts, failure, revision } => {
                    warn!(%job, frame = slice.frame, %node, message = failure.message, "frame failed");
                    let frame = changed(slice, FrameState::Failed, attempts, revision);
                    let (failure, node) = (Some(failure), Some(node));
                    turn.put_frame(job, slice, Frame { failure, node, ..frame });
                }
                Action::UpdateJob { job, state, counts, revision } => {
                    let Some(open) = self.jobs.get_mut(&job) else { continue };
                    let standing = &mut open.record.standing;
                    if state != JobState::Queued && standing.started_at_ms == 0 {
                        standing.started_at_ms = wall_ms();
                    }
                    if !state.is_final() {
                        standing.ended_at_ms = 0;
                    } else {
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
                        self.history.submitted(&record);
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
                    self.troubles.remove(&node);
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
    async fn finish(&mut self, turn: Turn) -> Result<(), StoreError> {
        let movies = turn.movies.clone();
        self.settle(turn).await?;
        if !movies.is_empty() {
            let mut next = Turn::default();
            for record in &movies {
                self.begin(record, &mut next);
            }
            self.settle(next).await?;
        }
        Ok(())
    }

    /// Commits a turn, however often it takes, and lets it be seen.
    async fn settle(&mut self, turn: Turn) -> Result<(), StoreError> {
        let Turn { group, effects, movies, reopened, jobs, nodes, gone } = turn;
        self.history.announce(!group.is_empty());
        if !group.is_empty() {
            self.commit(&group).await?;
            self.history.durable();
        }
        for record in &reopened {
            self.feed.open_job(record);
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
                let trouble = self.troubles.get(&name).map_or("", String::as_str);
                let (state, reason, until) = standing_of(&load, trouble);
                let mut view = NodeView::new(name, record, state, wall_ms());
                view.state_reason = reason;
                view.state_until_ms = until.map_or(0, |until| {
                    wall_ms() + until.saturating_sub(self.now()).as_millis() as i64
                });
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
        crate::store::point("publish-after");
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
        Ok(())
    }

    async fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut pause = RETRY_MIN;
        let mut said = String::new();
        let store = self.store.clone();
        let since = self.now();
        while let Err(error) = self.meanwhile(store.commit(group)).await {
            if matches!(error, StoreError::Superseded) {
                return Err(error);
            }
            self.mailbox.store_health.failed();
            self.feed.hold(self.now() >= since + HELD_TOLD_AFTER);
            let now = error.to_string();
            if said != now {
                error!(
                    error = now,
                    "cannot write to the store: holding everything, and trying again"
                );
                said = now;
            }
            self.make_sure().await?;
            self.meanwhile(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        if self.mailbox.store_health.recovered() {
            self.feed.hold(false);
            info!("the store takes writes again");
        }
        Ok(())
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

/// A frame as a change leaves it; what it produced, why it failed and on which node is the change's to say.
fn changed(slice: Slice, state: FrameState, attempts: Attempts, revision: Revision) -> Frame {
    let frame = slice.frame;
    Frame { frame, state, revision, attempts, rendered: None, failure: None, node: None }
}

/// How a live node stands, why in a sentence, and until when. `trouble`: what it was paused for last.
fn standing_of(load: &NodeLoad, trouble: &str) -> (NodeState, String, Option<Now>) {
    let at_work = if load.has_work { NodeState::Rendering } else { NodeState::Idle };
    match load.standing {
        Standing::Ready => (at_work, String::new(), None),
        Standing::Paused { until } => {
            let reason = match trouble {
                "" => "it could not take on its work; it is tried again soon".to_owned(),
                trouble => format!("it is tried again soon, after this: {trouble}"),
            };
            (NodeState::Paused, reason, Some(until))
        }
        Standing::Quarantined { until, tries } => {
            let reason = format!(
                "the last {tries} tries on it failed; it is tried again with one frame, and needs a look if \
                 that fails too"
            );
            (NodeState::Quarantined, reason, Some(until))
        }
        Standing::Silent { until, .. } => {
            let reason = "it has not been heard of for longer than its lease; unless it comes back, its frames \
                 are given to others";
            (NodeState::Silent, reason.to_owned(), Some(until))
        }
        Standing::Unreachable => {
            let reason = "it is heard of, but cannot be reached at its address; it is asked to register again: is \
                 it started with a --listen or --advertise that other machines reach, and does no firewall \
                 stand between?";
            (NodeState::Paused, reason.to_owned(), None)
        }
        Standing::Draining => {
            let reason = "it is about to leave: it finishes what it has and gets nothing new";
            (NodeState::Draining, reason.to_owned(), None)
        }
        Standing::Evicted { until } => {
            let reason = "it did not end a batch that it was told to end, and is not listened to any more; its \
                 frames are given to others; restart it if it does not come back by itself";
            (NodeState::Silent, reason.to_owned(), Some(until))
        }
    }
}

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
