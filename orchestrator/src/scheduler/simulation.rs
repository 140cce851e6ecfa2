//! The scheduler in a simulated cluster: virtual time, a seeded dice, machines whose clocks run fast or slow,
//! which render, crash, fall silent and come back too late, are broken, stubborn, or leave; messages that are
//! lost, repeated and overtaken; an orchestrator that stands still, or restarts from what was durable. Every event is followed by a check of the scheduler's books, every action and every
//! render is told to the invariant checker.
//!
//! `FRAMECREW_SIM_SEED=7` repeats one cluster; `FRAMECREW_SIM_RUNS=10000` tries more of them.

#![allow(clippy::unwrap_used)]

mod durable;
mod machine;
mod random;
mod sentences;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::{Action, Event, NodeStatus, Scheduler};
use crate::{
    domain::{
        BatchId, Epoch, FailureReason, FrameRange, FrameSet, FrameState, Incarnation, JobId,
        JobState, NodeDescription, NodeName, Output, Rendered, Requirements, Slice, Time,
    },
    invariants::Invariants,
};
use durable::Durable;
use framecrew_node::core::JournalId;
use machine::{Answer, Call, Machine, NodeEvent, Timer};

/// A node's lease, from the moment it sent the heartbeat.
const TTL: Duration = Duration::from_secs(15);
/// What the orchestrator waits from the moment it received the heartbeat.
const LEASE: Duration = Duration::from_secs(17);
const HEARTBEAT: Duration = Duration::from_secs(5);
const OUT_OF_REACH_TOLD_EVERY: Duration = Duration::from_secs(30);

/// What is to happen.
#[derive(Debug, Clone)]
enum Happening {
    Submit(Plan),
    CancelJob(usize),
    ReviseJob(usize),
    /// What failed of a job is to be tried again.
    RetryJob(usize),
    /// The orchestrator stands still, and goes on after a while.
    Stall(Duration),
    GoOn,
    /// The scheduler's deadline.
    Wake,
    CrashOrchestrator(Duration),
    /// The next decision is written, and the process dies before it does anything about it.
    CrashAfterCommit(Duration),
    StartOrchestrator,
    ToOrchestrator(Message),
    Call(usize, Call),
    Timer(usize, Incarnation, Timer),
    Fault(usize, Fault),
    /// Those that follow a machine's batches look since when they cannot reach it.
    CannotReach(usize),
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Dead at once; another life after a while, or none.
    Crash(Option<Duration>),
    /// Nothing it sends arrives.
    Mute(Duration),
    /// Nothing sent to it arrives.
    Deaf(Duration),
    /// No call to it gets through, nor does a stream from it; its own calls are answered.
    Unreachable(Duration),
    /// It says goodbye, and starts again after a while.
    Leave(Duration),
    /// It hands back what has not begun, finishes the rest, and leaves.
    Drain,
    /// Everything fails on it.
    Break(FailureReason),
    /// It does not end what it is told to end.
    Stubborn,
    /// Nothing is wrong with it any more.
    Mend,
    Boot,
}

impl Happening {
    /// Whether it waits while the orchestrator stands still.
    fn is_the_orchestrators(&self) -> bool {
        matches!(
            self,
            Self::Submit(_)
                | Self::CancelJob(_)
                | Self::ReviseJob(_)
                | Self::RetryJob(_)
                | Self::Wake
                | Self::ToOrchestrator(_)
                | Self::CannotReach(_)
        )
    }
}

/// What reaches the orchestrator. What belongs to a stream dies with the process that had opened it.
#[derive(Debug, Clone)]
enum Message {
    Register {
        machine: usize,
        incarnation: Incarnation,
        /// By the machine's clock.
        sent: Duration,
        holds: Vec<BatchId>,
    },
    Heartbeat {
        machine: usize,
        incarnation: Incarnation,
        /// By the machine's clock.
        sent: Duration,
        holds: Vec<BatchId>,
        void_below: BatchId,
        draining: bool,
    },
    Adopt {
        machine: usize,
        incarnation: Incarnation,
        journal: JournalId,
        offers: Vec<((JobId, Slice), f64)>,
    },
    Leave {
        machine: usize,
        incarnation: Incarnation,
    },
    Batch {
        machine: usize,
        epoch: Epoch,
        batch: BatchId,
        event: NodeEvent,
    },
    Refused {
        epoch: Epoch,
        batch: BatchId,
    },
    /// The machine does not know a batch that it had taken on.
    Lost {
        epoch: Epoch,
        batch: BatchId,
    },
}

/// A job to submit.
#[derive(Debug, Clone)]
struct Plan {
    frames: FrameSet,
    requirements: Requirements,
    priority: i32,
    /// How long its nodes may be silent.
    node_silence: Duration,
    /// Median seconds of a frame, and how far they spread (0: not at all).
    seconds: f64,
    spread: f64,
    /// Frames that kill the node that renders them.
    poison: BTreeSet<i32>,
    /// Whether they do so before the node can say that it began them.
    poison_is_swift: bool,
    /// Whether every frame fails, wherever it is rendered.
    broken: bool,
}

/// How likely what goes wrong is, each time.
#[derive(Debug, Clone, Default)]
struct Odds {
    call_lost: f64,
    event_again: f64,
    event_overtakes: f64,
    slow_message: f64,
    /// Whether messages of different streams overtake each other by milliseconds.
    jitter: bool,
    refused: f64,
    failed: f64,
    /// What a machine that dies was about to say dies with it.
    dies_untold: f64,
}

struct World {
    dice: fastrand::Rng,
    odds: Odds,
    /// How every render ends, while it is set.
    always_fails: Option<FailureReason>,
    now: Time,
    agenda: BTreeMap<(Time, u64), Happening>,
    happenings: u64,
    machines: Vec<Machine>,
    by_name: HashMap<NodeName, usize>,
    plans: BTreeMap<JobId, Plan>,
    scheduler: Option<Scheduler>,
    /// When the orchestrator's present life began.
    started: Time,
    stalled_until: Time,
    epoch: Epoch,
    crash_after_commit: Option<Duration>,
    next_wake: Option<Time>,
    durable: Durable,
    invariants: Invariants,
    history: Vec<Action>,
    /// How much longer than other messages answers to nodes take.
    answers_late: Duration,
    /// When the last job was over.
    over_at: Time,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: fastrand::Rng::with_seed(seed),
            odds: Odds::default(),
            always_fails: None,
            now: Time::ZERO,
            agenda: BTreeMap::new(),
            happenings: 0,
            machines: Vec::new(),
            by_name: HashMap::new(),
            plans: BTreeMap::new(),
            scheduler: Some(Scheduler::new(Epoch(1), LEASE)),
            started: Time::ZERO,
            stalled_until: Time::ZERO,
            epoch: Epoch(1),
            crash_after_commit: None,
            next_wake: None,
            durable: Durable::default(),
            invariants: Invariants::default(),
            history: Vec::new(),
            answers_late: Duration::ZERO,
            over_at: Time::ZERO,
        }
    }

    fn add_machine(&mut self, name: &str, description: NodeDescription) -> usize {
        let machine = self.machines.len();
        self.by_name.insert(name.into(), machine);
        self.machines.push(Machine::new(name.into(), description));
        self.plan(Duration::ZERO, Happening::Fault(machine, Fault::Boot));
        machine
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.happenings += 1;
        self.agenda.insert((self.now + after, self.happenings), happening);
    }

    fn plan_at(&mut self, at: Time, happening: Happening) {
        self.plan(at.saturating_sub(self.now), happening);
    }

    fn chance(&mut self, odds: f64) -> bool {
        odds > 0.0 && self.dice.f64() < odds
    }

    /// How long a message takes.
    fn delay(&mut self) -> Duration {
        let most = if self.chance(self.odds.slow_message) { 5_000_000 } else { 5_000 };
        Duration::from_micros(if self.odds.jitter { self.dice.u64(200..most) } else { 1_000 })
    }

    /// Lets the next thing happen.
    fn step(&mut self) {
        let ((at, _), happening) = self.agenda.pop_first().expect("heartbeats never end");
        self.now = at;
        if at < self.stalled_until && happening.is_the_orchestrators() {
            return self.plan_at(self.stalled_until, happening);
        }
        match happening {
            Happening::RetryJob(which) => self.retry(which),
            Happening::Stall(time) => {
                if self.scheduler.is_some() {
                    self.stalled_until = self.now + time;
                    self.plan(time, Happening::GoOn);
                }
            }
            Happening::GoOn => self.decide(Event::Stalled),
            Happening::Submit(plan) => self.submit(plan),
            Happening::CancelJob(which) => {
                let Some(job) = self.plans.keys().nth(which).copied() else { return };
                if !self.invariants.state(job).is_final() {
                    self.decide(Event::JobCancelled { job });
                }
            }
            Happening::ReviseJob(which) => {
                let Some(job) = self.plans.keys().nth(which).copied() else { return };
                self.decide(Event::JobRevised { job });
            }
            Happening::Wake => {
                self.next_wake = None;
                self.decide(Event::TimePassed);
            }
            Happening::CrashOrchestrator(down) => self.crash_orchestrator(down),
            Happening::CrashAfterCommit(down) => self.crash_after_commit = Some(down),
            Happening::StartOrchestrator => self.start_orchestrator(),
            Happening::ToOrchestrator(message) => self.receive(message),
            Happening::Call(machine, call) => self.call(machine, call),
            Happening::Timer(machine, incarnation, timer) => {
                if self.machines[machine].lives(incarnation) {
                    self.timer(machine, timer);
                }
            }
            Happening::Fault(machine, fault) => self.fault(machine, fault),
            Happening::CannotReach(machine) => self.cannot_reach(machine),
        }
    }

    /// Goes on until something holds.
    #[track_caller]
    fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        const STEPS_MAX: u64 = 100_000;
        for _ in 0..STEPS_MAX {
            if holds(self) {
                return;
            }
            self.step();
        }
        panic!("I20: {what} does not come about by {:?}: {:#?}", self.now, self.scheduler);
    }

    /// Every job ends, every batch too, and the books are empty.
    #[track_caller]
    fn run_until_all_over(&mut self) {
        self.run_until("the end of every job", |world| {
            world.invariants.all_over()
                && !world.agenda.values().any(|happening| matches!(happening, Happening::Submit(_)))
        });
        self.over_at = self.now;
        self.run_until("the end of every batch", |world| {
            let loads = |scheduler: &Scheduler| {
                world
                    .machines
                    .iter()
                    .all(|node| scheduler.load(&node.name).is_none_or(|load| !load.has_work))
            };
            world.scheduler.as_ref().is_some_and(loads)
        });
        self.invariants.assert_all_over();
    }

    // The orchestrator.

    fn submit(&mut self, plan: Plan) {
        if self.scheduler.is_none() {
            // A client whose orchestrator does not answer tries again.
            return self.plan(Duration::from_secs(1), Happening::Submit(plan));
        }
        let job = JobId(self.plans.len() as u64 + 1);
        let Plan { frames, requirements, priority, node_silence, .. } = plan.clone();
        self.plans.insert(job, plan);
        self.invariants.submitted(job, &frames);
        self.durable.submit(job, frames.clone(), requirements.clone(), priority, node_silence);
        self.decide(Event::JobSubmitted { job, frames, requirements, priority, node_silence });
    }

    fn retry(&mut self, which: usize) {
        let Some(job) = self.plans.keys().nth(which).copied() else { return };
        let failed = self.invariants.frames(job, FrameState::Failed);
        let state = self.invariants.state(job);
        if self.scheduler.is_none() || failed.is_empty() || state == JobState::Cancelled {
            return;
        }
        let closed = state.is_final().then(|| Box::new(self.durable.restore_job(job)));
        let slices = failed.into_iter().map(Slice::whole).collect();
        self.decide(Event::FramesRetried { job, closed, slices });
    }

    fn decide(&mut self, event: Event) {
        let Some(scheduler) = &mut self.scheduler else { return };
        let stale = match &event {
            Event::BatchRefused { batch }
            | Event::BatchUnreachable { batch, .. }
            | Event::BatchLost { batch }
            | Event::SliceStarted { batch, .. }
            | Event::SliceFinished { batch, .. }
            | Event::SliceFailed { batch, .. }
            | Event::BatchEnded { batch } => scheduler.batch(*batch).is_none(),
            _ => false,
        };
        let joining = match &event {
            Event::NodeRegistered { node, incarnation, description } => {
                Some((node.clone(), *incarnation, description.clone()))
            }
            _ => None,
        };
        let ignored = scheduler.ignored_events();
        let actions = scheduler.handle(self.now - self.started, event);
        scheduler.check_invariants();
        if stale {
            assert!(actions.is_empty(), "I5: a stale event led to {actions:?}");
            assert_eq!(scheduler.ignored_events(), ignored + 1, "I5: a stale event is counted");
        }
        for action in &actions {
            if let Action::StartBatch { node, .. } = action {
                let scheduler = self.scheduler.as_ref().unwrap();
                let standing = scheduler.load(node).map(|load| load.standing);
                assert_eq!(standing, Some(NodeStatus::Ready), "F19, I20: {node} gets work");
            }
        }
        self.commit(&actions, joining);
        match self.crash_after_commit.take() {
            Some(down) => self.crash_orchestrator(down),
            None => self.perform(actions),
        }
    }

    fn commit(
        &mut self,
        actions: &[Action],
        joining: Option<(NodeName, Incarnation, NodeDescription)>,
    ) {
        for action in actions {
            if let (Action::NodeChanged { node }, Some((name, incarnation, description))) =
                (action, &joining)
                && node == name
            {
                self.invariants.joined(node, *incarnation, description.slots);
                self.durable.join(node, *incarnation, description);
            }
            self.invariants.acted(action);
            self.durable.commit(action);
            self.history.push(action.clone());
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let epoch = self.epoch;
        for action in actions {
            match action {
                Action::StartBatch { batch, job, node, incarnation, slices } => {
                    let machine = self.by_name[&node];
                    if self.chance(self.odds.call_lost) {
                        let call = Call::Attach { epoch, batch, incarnation };
                        self.send(machine, Duration::from_secs(2), call);
                    } else {
                        let silence = self.plans[&job].node_silence;
                        let settled = std::mem::take(&mut self.machines[machine].settled);
                        let call = Call::Render { epoch, batch, job, slices, silence, settled };
                        self.send(machine, Duration::ZERO, call);
                    }
                }
                Action::CancelBatch { batch, node } => {
                    let call = Call::Cancel { epoch, batch };
                    self.send(self.by_name[&node], Duration::ZERO, call);
                }
                _ => {}
            }
        }
        let deadline = self.scheduler.as_ref().and_then(Scheduler::next_deadline);
        if let Some(deadline) = deadline.map(|at| self.started + at)
            && self.next_wake.is_none_or(|at| deadline < at)
        {
            self.next_wake = Some(deadline);
            self.plan_at(deadline, Happening::Wake);
        }
    }

    fn crash_orchestrator(&mut self, down: Duration) {
        if self.scheduler.take().is_some() {
            self.crash_after_commit = None;
            self.stalled_until = Time::ZERO;
            self.plan(down, Happening::StartOrchestrator);
        }
    }

    fn start_orchestrator(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.started = self.now;
        self.next_wake = None;
        self.invariants.restarted();
        let (jobs, nodes, batches) = self.durable.restore();
        let incarnations: HashMap<NodeName, Incarnation> =
            nodes.iter().map(|node| (node.node.clone(), node.incarnation)).collect();
        let live: Vec<(BatchId, NodeName)> =
            batches.iter().map(|batch| (batch.batch, batch.node.clone())).collect();
        let (scheduler, actions) = Scheduler::restore(self.epoch, LEASE, jobs, nodes, batches);
        scheduler.check_invariants();
        self.scheduler = Some(scheduler);
        self.commit(&actions, None);
        let epoch = self.epoch;
        for (batch, node) in live {
            let incarnation = incarnations[&node];
            let call = Call::Attach { epoch, batch, incarnation };
            self.send(self.by_name[&node], Duration::ZERO, call);
        }
        self.perform(actions);
    }

    fn receive(&mut self, message: Message) {
        let Some(scheduler) = &self.scheduler else { return };
        match message {
            Message::Register { machine, incarnation, sent, holds } => {
                let node = self.machines[machine].name.clone();
                if scheduler.is_evicted(&node, incarnation) {
                    return self.reply(machine, incarnation, sent, Answer::Unknown, &holds);
                }
                let description = self.machines[machine].description.clone();
                // Batches sent before this registration are void: they may still be on their way.
                let first_batch = self.durable.next_batch(self.epoch);
                self.decide(Event::NodeRegistered { node: node.clone(), incarnation, description });
                let (epoch, abandon) = (self.epoch, Vec::new());
                let answer = Answer::Registered { epoch, first_batch, abandon };
                self.reply(machine, incarnation, sent, answer, &holds);
            }
            Message::Heartbeat { machine, incarnation, sent, holds, void_below, draining } => {
                let node = self.machines[machine].name.clone();
                if scheduler.is_listened_to(&node, incarnation) {
                    let mut ended = scheduler.abandoned(&node, void_below);
                    ended.retain(|batch| !holds.contains(batch));
                    for batch in ended {
                        self.decide(Event::BatchEnded { batch });
                    }
                    if draining {
                        let node = node.clone();
                        self.decide(Event::NodeDraining { node, incarnation });
                    }
                    self.decide(Event::LeaseRenewed { node, incarnation });
                    let answer = Answer::Renewed { epoch: self.epoch, abandon: Vec::new() };
                    self.reply(machine, incarnation, sent, answer, &holds);
                } else {
                    self.reply(machine, incarnation, sent, Answer::Unknown, &holds);
                }
            }
            Message::Adopt { machine, incarnation, journal, offers } => {
                let node = self.machines[machine].name.clone();
                if scheduler.incarnation(&node) != Some(incarnation) {
                    return;
                }
                for ((job, slice), seconds) in offers {
                    let (node, rendered) = (node.clone(), rendered(slice, seconds));
                    self.decide(Event::FrameAdopted { node, job, slice, rendered });
                }
                if self.scheduler.is_some() && self.now >= self.machines[machine].deaf_until {
                    let delay = self.delay();
                    let answer = Timer::OfferOver { journal, is_handed_in: true };
                    self.plan(delay, Happening::Timer(machine, incarnation, answer));
                }
            }
            Message::Leave { machine, incarnation } => {
                let node = self.machines[machine].name.clone();
                self.decide(Event::NodeLeft { node, incarnation });
            }
            Message::Batch { machine, epoch, batch, event } if epoch == self.epoch => {
                let is_last = matches!(event, NodeEvent::Ended);
                self.decide(match event {
                    NodeEvent::Started(slice) => Event::SliceStarted { batch, slice },
                    NodeEvent::Finished(slice, seconds) => {
                        Event::SliceFinished { batch, slice, rendered: rendered(slice, seconds) }
                    }
                    NodeEvent::Failed(slice, failure) => {
                        Event::SliceFailed { batch, slice, failure }
                    }
                    NodeEvent::Ended => Event::BatchEnded { batch },
                });
                // Only what arrives in its order is read to the end.
                if is_last && self.odds.event_overtakes == 0.0 && self.scheduler.is_some() {
                    self.machines[machine].settled.push(batch);
                }
            }
            Message::Refused { epoch, batch } if epoch == self.epoch => {
                self.decide(Event::BatchRefused { batch });
            }
            Message::Lost { epoch, batch } if epoch == self.epoch => {
                self.decide(Event::BatchLost { batch });
            }
            Message::Batch { .. } | Message::Refused { .. } | Message::Lost { .. } => {}
        }
    }

    /// Answers a registration or a heartbeat.
    fn reply(
        &mut self,
        machine: usize,
        incarnation: Incarnation,
        sent: Duration,
        answer: Answer,
        holds: &[BatchId],
    ) {
        let Some(scheduler) = &self.scheduler else { return };
        let name = &self.machines[machine].name;
        let mut needless = holds.to_vec();
        needless.retain(|batch| !scheduler.holds(name, *batch));
        // What is granted is durable now, unless a later incarnation is registered.
        let answer = match answer {
            _ if !scheduler.is_listened_to(name, incarnation) => Answer::Unknown,
            Answer::Registered { epoch, first_batch, .. } => {
                Answer::Registered { epoch, first_batch, abandon: needless }
            }
            Answer::Renewed { epoch, .. } => Answer::Renewed { epoch, abandon: needless },
            Answer::Unknown => Answer::Unknown,
        };
        if self.now >= self.machines[machine].deaf_until {
            let delay = self.delay() + self.answers_late;
            let answer = Timer::Answer { sent, answer };
            self.plan(delay, Happening::Timer(machine, incarnation, answer));
        }
    }

    /// Calls a node. A call does not arrive before the node hears again.
    fn send(&mut self, machine: usize, after: Duration, call: Call) {
        let delay = self.delay();
        let to = &self.machines[machine];
        let heard = to.deaf_until.max(to.reached_again).max(self.now + after) + delay;
        self.plan_at(heard, Happening::Call(machine, call));
    }

    /// What follows a machine's batches tells that it cannot reach them, again and again until it can.
    fn cannot_reach(&mut self, i: usize) {
        let machine = &self.machines[i];
        if self.now >= machine.reached_again {
            return;
        }
        if let Some(scheduler) = &self.scheduler {
            let lasts = self.now - machine.out_of_reach.max(self.started);
            let of_it = scheduler.batches.iter().filter(|(_, batch)| batch.node == machine.name);
            let mut batches: Vec<BatchId> = of_it.map(|(id, _)| *id).collect();
            batches.sort_unstable();
            for batch in batches {
                self.decide(Event::BatchUnreachable { batch, lasts });
            }
        }
        self.plan(OUT_OF_REACH_TOLD_EVERY, Happening::CannotReach(i));
    }
}

fn rendered(slice: Slice, seconds: f64) -> Rendered {
    Rendered {
        outputs: vec![Output {
            name: format!("{:04}.png", slice.frame),
            digest: framecrew_blobs::Digest::of(&slice.frame.to_le_bytes()),
            size_bytes: 4,
            width: 1,
            height: 1,
            channels: 4,
        }],
        render_seconds: seconds,
        peak_memory_bytes: 0,
        preview: None,
    }
}

fn frames(range: std::ops::RangeInclusive<i32>) -> FrameSet {
    FrameSet::new(vec![FrameRange { first: *range.start(), last: *range.end(), step: 1 }]).unwrap()
}
