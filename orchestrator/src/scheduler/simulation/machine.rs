//! A machine that renders: the node's own [`Core`] makes its decisions, by the machine's own clock. The rest of a node
//! is played here: renders that take their time, streams of events that are kept until the core forgets them and resumed
//! for each reader, and the disk, which outlasts the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use framecrew_node::core::{
    self, Action, BatchKey, Core, Ending, Event, Grant, JournalId, Needs, Refusal, Registration,
    Request, Shortage, Time as MachineTime,
};

use super::{Fault, HEARTBEAT, Happening, Message, OUT_OF_REACH_TOLD_EVERY, TTL, World};
use crate::domain::{
    BatchId, Epoch, Failure, FailureReason, Incarnation, JobId, NodeDescription, NodeName, Slice,
    Time,
};

/// Pause before a call is repeated.
const CALL_AGAIN: Duration = Duration::from_millis(100);

/// How long a machine waits for the answer to an offer before it offers the frames again.
const OFFER_TIMEOUT: Duration = Duration::from_secs(5);

/// The orchestrator's store: there is one.
const STORE: &str = "store";

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) description: NodeDescription,
    pub(super) deaf_until: Time,
    mute_until: Time,
    /// From when until when it cannot be called.
    pub(super) out_of_reach: Time,
    pub(super) reached_again: Time,
    incarnation: Incarnation,
    up: bool,
    registered: bool,
    /// How fast its clock runs.
    pub(super) rate: f64,
    /// How every render on it ends, while it is broken.
    pub(super) broken: Option<FailureReason>,
    /// Whether its renderers ignore it when their batch is cancelled or abandoned.
    pub(super) is_stubborn: bool,
    core: Core,
    /// When the core is called next if nothing happens.
    deadline: Option<MachineTime>,
    /// Events of the batches that the core knows.
    streams: BTreeMap<BatchKey, Stream>,
    renders: BTreeMap<BatchKey, Render>,
    rendered: u64,
    /// Finished slices on its disk, and how long they took.
    disk: BTreeMap<JournalId, BTreeMap<(JobId, Slice), f64>>,
    /// Batches whose last event the orchestrator has read: the next call names them.
    pub(super) settled: Vec<BatchId>,
}

#[derive(Debug)]
struct Stream {
    job: JobId,
    /// To be rendered.
    slices: VecDeque<Slice>,
    events: Vec<NodeEvent>,
    /// Epoch of the orchestrator that reads it.
    reader: Epoch,
    /// When the last event sent arrives.
    arrives: Time,
}

#[derive(Debug)]
struct Render {
    slice: Slice,
    number: u64,
}

/// What a machine reports of a batch.
#[derive(Debug, Clone)]
pub(super) enum NodeEvent {
    Started(Slice),
    Finished(Slice, f64),
    Failed(Slice, Failure),
    Ended,
}

/// What the orchestrator asks of a machine.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Render {
        epoch: Epoch,
        batch: BatchId,
        job: JobId,
        slices: Vec<Slice>,
        silence: Duration,
        settled: Vec<BatchId>,
    },
    /// Follows a batch, which was meant for that incarnation of the node.
    Attach {
        epoch: Epoch,
        batch: BatchId,
        incarnation: Incarnation,
    },
    Cancel {
        epoch: Epoch,
        batch: BatchId,
    },
}

/// What concerns one incarnation of a machine.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    Beat,
    /// The core's deadline.
    Deadline,
    RenderOver {
        batch: BatchKey,
        number: u64,
        seconds: f64,
        failure: Option<Failure>,
    },
    /// The frame kills the node.
    Poisoned {
        batch: BatchKey,
        number: u64,
    },
    Answer {
        /// By the machine's clock.
        sent: MachineTime,
        answer: Answer,
    },
    /// Its offer was answered, or it has waited for the answer long enough.
    OfferOver {
        journal: JournalId,
        is_handed_in: bool,
    },
}

/// What the orchestrator answers to a registration or a heartbeat.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Registered { epoch: Epoch, first_batch: BatchId, abandon: Vec<BatchId> },
    Renewed { epoch: Epoch, abandon: Vec<BatchId> },
    Unknown,
}

impl Machine {
    pub(super) fn new(name: NodeName, description: NodeDescription) -> Self {
        Self {
            name,
            core: Core::new(description.slots, true, Vec::new()),
            description,
            deaf_until: Time::ZERO,
            mute_until: Time::ZERO,
            out_of_reach: Time::ZERO,
            reached_again: Time::ZERO,
            incarnation: Incarnation(0),
            up: false,
            registered: false,
            rate: 1.0,
            broken: None,
            is_stubborn: false,
            deadline: None,
            streams: BTreeMap::new(),
            renders: BTreeMap::new(),
            rendered: 0,
            disk: BTreeMap::new(),
            settled: Vec::new(),
        }
    }

    pub(super) fn lives(&self, incarnation: Incarnation) -> bool {
        self.up && self.incarnation == incarnation
    }

    /// Nothing is wrong with it any more.
    pub(super) fn mend(&mut self) {
        (self.deaf_until, self.mute_until, self.reached_again) =
            (Time::ZERO, Time::ZERO, Time::ZERO);
        (self.broken, self.is_stubborn) = (None, false);
    }

    /// A new incarnation, with what is on the disk.
    fn boot(&mut self) {
        let disk = std::mem::take(&mut self.disk);
        let disk: BTreeMap<_, _> = (0..).map(JournalId::Found).zip(disk.into_values()).collect();
        let found = disk.keys().map(|_| STORE.into()).collect();
        *self = Self {
            incarnation: Incarnation(self.incarnation.0 + 1),
            up: true,
            deaf_until: self.deaf_until,
            mute_until: self.mute_until,
            out_of_reach: self.out_of_reach,
            reached_again: self.reached_again,
            rate: self.rate,
            broken: self.broken,
            is_stubborn: self.is_stubborn,
            core: Core::new(self.description.slots, true, found),
            disk,
            ..Self::new(self.name.clone(), self.description.clone())
        };
    }

    /// How long its clock takes for that much of its time.
    fn takes(&self, time: Duration) -> Duration {
        time.div_f64(self.rate)
    }

    /// What its clock shows.
    fn time(&self, now: Time) -> MachineTime {
        now.mul_f64(self.rate)
    }

    /// Slices being rendered.
    pub(super) fn rendering(&self) -> Vec<Slice> {
        self.renders.values().map(|render| render.slice).collect()
    }

    fn holds(&self) -> Vec<BatchId> {
        self.core.view().held.into_iter().map(|batch| BatchId(batch.0)).collect()
    }
}

impl World {
    pub(super) fn fault(&mut self, i: usize, fault: Fault) {
        let now = self.now;
        let machine = &mut self.machines[i];
        match fault {
            Fault::Boot if !machine.up => self.boot(i),
            Fault::Boot => {}
            Fault::Crash(boot_after) => {
                if std::mem::take(&mut machine.up) {
                    self.drop_renders(i);
                    if self.chance(self.odds.dies_untold) {
                        self.drop_events(i);
                    }
                    if let Some(after) = boot_after {
                        self.plan(after, Happening::Fault(i, Fault::Boot));
                    }
                }
            }
            Fault::Leave(boot_after) => {
                if machine.up {
                    let incarnation = machine.incarnation;
                    let leave = Message::Leave { machine: i, incarnation };
                    self.fault(i, Fault::Crash(Some(boot_after)));
                    self.tell(i, leave);
                }
            }
            Fault::Drain if machine.up => drop(self.decide_on(i, Event::Draining, None)),
            Fault::Drain => {}
            Fault::Break(reason) => machine.broken = Some(reason),
            Fault::Stubborn => machine.is_stubborn = true,
            Fault::Mend => machine.mend(),
            Fault::Mute(time) => machine.mute_until = now + time,
            Fault::Deaf(time) => machine.deaf_until = now + time,
            Fault::Unreachable(time) => {
                machine.out_of_reach = now;
                machine.reached_again = now + time;
                self.plan(OUT_OF_REACH_TOLD_EVERY, Happening::CannotReach(i));
            }
        }
    }

    fn boot(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        let former = machine.incarnation;
        let lost: Vec<_> =
            machine.streams.iter().map(|(batch, stream)| (batch.id, stream.reader)).collect();
        machine.boot();
        self.decide_on(i, Event::Equipped { has_ffmpeg: true }, None);
        // The followers of its batches ask for them again, and may do so before the node has registered.
        for (batch, epoch) in lost {
            let soon = if self.chance(0.5) { 0 } else { self.dice.u64(0..2_000) };
            let call = Call::Attach { epoch, batch: BatchId(batch.0), incarnation: former };
            self.send(i, Duration::from_millis(soon), call);
        }
        self.timer(i, Timer::Beat);
    }

    fn drop_renders(&mut self, i: usize) {
        for batch in self.machines[i].renders.keys().copied().collect::<Vec<_>>() {
            self.drop_render(i, batch);
        }
    }

    fn drop_render(&mut self, i: usize, batch: BatchKey) {
        let machine = &mut self.machines[i];
        if let Some(render) = machine.renders.remove(&batch) {
            self.invariants.render_ended(machine.streams[&batch].job, render.slice);
        }
    }

    /// What it was about to report of its batches is never heard.
    fn drop_events(&mut self, i: usize) {
        let held: BTreeSet<_> =
            self.machines[i].streams.keys().map(|batch| BatchId(batch.id.0)).collect();
        self.agenda.retain(|_, happening| {
            !matches!(happening, Happening::ToOrchestrator(Message::Batch { batch, .. }) if held.contains(batch))
        });
    }

    pub(super) fn timer(&mut self, i: usize, timer: Timer) {
        let machine = &mut self.machines[i];
        match timer {
            Timer::Beat => self.beat(i),
            Timer::Answer { sent, answer } => self.answered(i, sent, answer),
            Timer::Deadline => {
                machine.deadline = None;
                self.decide_on(i, Event::TimePassed, None);
            }
            Timer::OfferOver { journal, is_handed_in } => {
                self.decide_on(i, Event::OfferOver { journal, is_handed_in }, None);
            }
            Timer::Poisoned { batch, number } => {
                if machine.renders.get(&batch).is_some_and(|render| render.number == number) {
                    let job = machine.streams[&batch].job;
                    let boot_after = Duration::from_millis(self.dice.u64(10..3_000));
                    if self.plans[&job].poison_is_swift {
                        self.drop_events(i);
                    }
                    self.fault(i, Fault::Crash(Some(boot_after)));
                }
            }
            Timer::RenderOver { batch, number, seconds, failure } => {
                if machine.renders.get(&batch).is_some_and(|render| render.number == number) {
                    self.render_over(i, batch, seconds, failure);
                }
            }
        }
    }

    fn beat(&mut self, i: usize) {
        let machine = &self.machines[i];
        let view = machine.core.view();
        if view.is_draining && view.live.is_empty() {
            return self.fault(i, Fault::Leave(Duration::from_secs(3)));
        }
        let (incarnation, registered) = (machine.incarnation, machine.registered);
        if registered {
            let beat = Message::Heartbeat {
                machine: i,
                incarnation,
                sent: machine.time(self.now),
                holds: machine.holds(),
                void_below: BatchId(view.first_batch.map_or(0, |batch| batch.0)),
                draining: view.is_draining,
            };
            self.tell(i, beat);
        } else {
            self.register(i);
        }
        let again = if registered { HEARTBEAT } else { Duration::from_secs(1) };
        let again = self.machines[i].takes(again);
        self.plan(again, Happening::Timer(i, incarnation, Timer::Beat));
    }

    fn register(&mut self, i: usize) {
        let machine = &self.machines[i];
        let (incarnation, sent) = (machine.incarnation, machine.time(self.now));
        let holds = machine.holds();
        self.tell(i, Message::Register { machine: i, incarnation, sent, holds });
    }

    fn answered(&mut self, i: usize, sent: MachineTime, answer: Answer) {
        let grant = Grant { sent, ttl: TTL };
        let numbers = |batches: Vec<BatchId>| {
            batches.into_iter().map(|batch| core::BatchId(batch.0)).collect()
        };
        let event = match answer {
            Answer::Registered { epoch, first_batch, abandon } => Event::Registered(Registration {
                grant,
                store_id: STORE.to_owned(),
                epoch: epoch.0.into(),
                first_batch: core::BatchId(first_batch.0),
                abandon: numbers(abandon),
            }),
            Answer::Renewed { epoch, abandon } => {
                Event::LeaseRenewed { grant, epoch: epoch.0.into(), abandon: numbers(abandon) }
            }
            Answer::Unknown => {
                if std::mem::take(&mut self.machines[i].registered) {
                    self.register(i);
                }
                return;
            }
        };
        self.machines[i].registered = true;
        self.decide_on(i, event, None);
    }

    pub(super) fn call(&mut self, i: usize, call: Call) {
        if !self.machines[i].up {
            return;
        }
        match call {
            Call::Render { .. } => self.requested(i, call),
            Call::Attach { epoch, batch, incarnation } => {
                let event = Event::BatchAttached(called(batch, epoch));
                match self.decide_on(i, event, None) {
                    Some(Action::Attach { batch }) => {
                        if let Some(stream) = self.machines[i].streams.get_mut(&batch) {
                            stream.reader = epoch;
                        }
                        self.replay(i, batch, 0);
                    }
                    // Only the incarnation that it was meant for knows that it never came.
                    Some(Action::Unknown { .. }) if self.machines[i].incarnation == incarnation => {
                        self.tell(i, Message::Refused { epoch, batch });
                    }
                    Some(Action::Unknown { .. }) => self.tell(i, Message::Lost { epoch, batch }),
                    // A former orchestrator, and its stream with it, is gone.
                    _ => {}
                }
            }
            Call::Cancel { epoch, batch } => {
                let event = Event::BatchCancelled(called(batch, epoch));
                if let Some(Action::Unknown { .. }) = self.decide_on(i, event, None) {
                    self.tell(i, Message::Refused { epoch, batch });
                }
            }
        }
    }

    fn requested(&mut self, i: usize, call: Call) {
        let Call::Render { epoch, batch, job, slices, silence, settled } = call.clone() else {
            return;
        };
        let is_short = self.chance(self.odds.refused);
        let request = Request {
            call: called(batch, epoch),
            settled: settled.into_iter().map(|batch| core::BatchId(batch.0)).collect(),
            silence,
            needs: Needs::default(),
            shortage: Shortage { disk: is_short.then_some((0, 1)), outbox: None },
        };
        let stream = Stream {
            job,
            slices: slices.into(),
            events: Vec::new(),
            reader: epoch,
            arrives: self.now,
        };
        let answer = self.decide_on(i, Event::BatchRequested(request), Some(stream));
        match answer {
            Some(Action::Refuse(Refusal::NoLease)) => {
                // The answer to its registration may be on its way: the call is repeated.
                let is_live = self.epoch == epoch
                    && self.scheduler.as_ref().is_some_and(|it| it.batch(batch).is_some());
                if is_live {
                    self.send(i, CALL_AGAIN, call);
                }
            }
            // An earlier call got through after all.
            Some(Action::Refuse(Refusal::Known(_))) => {}
            Some(Action::Refuse(_)) => self.tell(i, Message::Refused { epoch, batch }),
            _ => {}
        }
    }

    /// Lets the machine's core decide, and does what it wants done. Returns its answer to a call.
    fn decide_on(&mut self, i: usize, event: Event, asked: Option<Stream>) -> Option<Action> {
        let now = self.now;
        let machine = &mut self.machines[i];
        let actions = machine.core.handle(machine.time(now), event);
        machine.core.check_invariants();
        let mut asked = asked;
        let mut answer = None;
        for action in actions {
            match action {
                Action::Accept { batch } => {
                    if let Some(stream) = asked.take() {
                        self.machines[i].streams.insert(batch, stream);
                    }
                }
                Action::Refuse(_)
                | Action::Attach { .. }
                | Action::Cancel { .. }
                | Action::Unknown { .. }
                | Action::Publish { .. } => answer = Some(action),
                action => self.perform_on(i, action),
            }
        }
        self.plan_deadline(i);
        answer
    }

    fn perform_on(&mut self, i: usize, action: Action) {
        match action {
            Action::Start { batch } => self.go_on(i, batch),
            Action::Kill { batch, reason } => {
                let ignores = matches!(reason, Ending::Cancelled | Ending::Abandoned);
                if !(ignores && self.machines[i].is_stubborn) {
                    self.drop_render(i, batch);
                    self.over(i, batch, false);
                }
            }
            Action::Conclude { batch, .. } => self.say(i, batch, NodeEvent::Ended),
            Action::Forget { batch } => drop(self.machines[i].streams.remove(&batch)),
            Action::Offer { journal } => self.offer(i, journal),
            Action::Delete { journal } => drop(self.machines[i].disk.remove(&journal)),
            Action::ForgetUploads | Action::KillIdle => {}
            Action::Accept { .. }
            | Action::Refuse(_)
            | Action::Attach { .. }
            | Action::Cancel { .. }
            | Action::Unknown { .. }
            | Action::Publish { .. } => unreachable!("an answer"),
        }
    }

    fn plan_deadline(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        let Some(deadline) = machine.core.next_deadline() else { return };
        if machine.deadline.is_some_and(|planned| planned <= deadline) {
            return;
        }
        machine.deadline = Some(deadline);
        let incarnation = machine.incarnation;
        // A bit later, or rounding would call the core before its deadline, again and again.
        let at = machine.takes(deadline) + Duration::from_micros(1);
        self.plan_at(at, Happening::Timer(i, incarnation, Timer::Deadline));
    }

    /// Offers what was finished in a batch that is over.
    fn offer(&mut self, i: usize, journal: JournalId) {
        let machine = &self.machines[i];
        let incarnation = machine.incarnation;
        let offers = machine.disk.get(&journal).into_iter().flatten();
        let offers = offers.map(|(key, seconds)| (*key, *seconds)).collect();
        self.tell(i, Message::Adopt { machine: i, incarnation, journal, offers });
        let unanswered = Timer::OfferOver { journal, is_handed_in: false };
        let timeout = self.machines[i].takes(OFFER_TIMEOUT);
        self.plan(timeout, Happening::Timer(i, incarnation, unanswered));
    }

    /// Begins the next slice of a batch, or ends it.
    fn go_on(&mut self, i: usize, batch: BatchKey) {
        let machine = &mut self.machines[i];
        let broken = machine.broken;
        let Some(stream) = machine.streams.get_mut(&batch) else { return };
        let job = stream.job;
        let Some(slice) = stream.slices.pop_front() else { return self.over(i, batch, true) };
        if self.decide_on(i, Event::SliceStarting { batch }, None).is_none() {
            return self.over(i, batch, false);
        }
        self.invariants.render_began(job, slice, BatchId(batch.id.0));
        self.say(i, batch, NodeEvent::Started(slice));
        let seconds = self.seconds(job, slice);
        let reason = match self.always_fails.or(broken) {
            None if self.plans[&job].broken => Some(FailureReason::Renderer),
            None => self.chance(self.odds.failed).then(|| self.random_reason()),
            always => always,
        };
        let failure = reason.map(|reason| Failure {
            reason,
            message: format!("{reason:?}"),
            log_tail: Vec::new(),
        });
        let machine = &mut self.machines[i];
        machine.rendered += 1;
        let number = machine.rendered;
        machine.renders.insert(batch, Render { slice, number });
        let incarnation = machine.incarnation;
        let after = Duration::from_secs_f64(seconds);
        if self.plans[&job].poison.contains(&slice.frame) {
            let swift = self.plans[&job].poison_is_swift;
            self.plan(
                if swift { Duration::ZERO } else { after / 2 },
                Happening::Timer(i, incarnation, Timer::Poisoned { batch, number }),
            );
        }
        let over = Timer::RenderOver { batch, number, seconds, failure };
        self.plan(after, Happening::Timer(i, incarnation, over));
    }

    fn render_over(&mut self, i: usize, batch: BatchKey, seconds: f64, failure: Option<Failure>) {
        let machine = &mut self.machines[i];
        let job = machine.streams[&batch].job;
        let slice = machine.renders[&batch].slice;
        self.drop_render(i, batch);
        let named = core::Slice { frame: slice.frame, index: slice.index };
        let (finished, event) = match failure {
            Some(failure) => (None, NodeEvent::Failed(slice, failure)),
            None => {
                let journal = self.machines[i].disk.entry(JournalId::Of(batch)).or_default();
                journal.insert((job, slice), seconds);
                self.decide_on(i, Event::SliceKept { batch, slice: named }, None);
                (Some(named), NodeEvent::Finished(slice, seconds))
            }
        };
        if self.decide_on(i, Event::SliceOver { batch, finished }, None).is_some() {
            self.say(i, batch, event);
            self.go_on(i, batch);
        } else {
            self.over(i, batch, false);
        }
    }

    /// Nothing renders for a batch any more.
    fn over(&mut self, i: usize, batch: BatchKey, is_complete: bool) {
        self.decide_on(i, Event::BatchOver { batch, is_complete }, None);
    }

    /// The same frame takes the same time wherever it is rendered.
    pub(super) fn seconds(&self, job: JobId, slice: Slice) -> f64 {
        let plan = &self.plans[&job];
        let mut dice = fastrand::Rng::with_seed(job.0 << 32 ^ u64::from(slice.frame as u32));
        let bell: f64 = (0..12).map(|_| dice.f64()).sum::<f64>() - 6.0;
        plan.seconds * (bell * plan.spread).exp()
    }

    fn random_reason(&mut self) -> FailureReason {
        let reasons = [
            FailureReason::Renderer,
            FailureReason::InvalidOutput,
            FailureReason::Timeout,
            FailureReason::OutOfMemory,
            FailureReason::Infrastructure,
            FailureReason::Permanent,
        ];
        // Some kinds are rarer, or hardly a job would finish.
        reasons[self.dice.usize(0..reasons.len()).min(self.dice.usize(0..reasons.len()))]
    }

    // What is sent.

    /// Sends what is lost when it cannot arrive.
    fn tell(&mut self, i: usize, message: Message) {
        let mute_until = self.machines[i].mute_until;
        let tries_again = !matches!(message, Message::Register { .. } | Message::Heartbeat { .. });
        if self.now >= mute_until || tries_again {
            let at = mute_until.max(self.now) + self.delay();
            self.plan_at(at, Happening::ToOrchestrator(message));
        }
    }

    /// Keeps an event, and sends it to the reader of the batch's stream.
    fn say(&mut self, i: usize, batch: BatchKey, event: NodeEvent) {
        let again = self.chance(self.odds.event_again);
        let Some(stream) = self.machines[i].streams.get_mut(&batch) else { return };
        stream.events.push(event);
        let last = stream.events.len() - 1;
        let from = if again { self.dice.usize(0..=last) } else { last };
        self.replay(i, batch, from);
    }

    /// Sends the events of a batch from a certain one on, in order unless the dice will have it otherwise.
    fn replay(&mut self, i: usize, batch: BatchKey, from: usize) {
        let machine = &self.machines[i];
        let mute_until = machine.mute_until.max(machine.reached_again);
        let Some(stream) = machine.streams.get(&batch) else { return };
        let events = stream.events[from..].to_vec();
        for event in events {
            let sent_at = mute_until.max(self.now) + self.delay();
            let overtakes = self.chance(self.odds.event_overtakes);
            let Some(stream) = self.machines[i].streams.get_mut(&batch) else { return };
            let at = if overtakes { sent_at } else { sent_at.max(stream.arrives) };
            stream.arrives = stream.arrives.max(at);
            let (epoch, batch) = (stream.reader, BatchId(batch.id.0));
            let message = Message::Batch { machine: i, epoch, batch, event };
            self.plan_at(at, Happening::ToOrchestrator(message));
        }
    }
}

fn called(batch: BatchId, epoch: Epoch) -> core::Call {
    let batch = core::BatchId(batch.0);
    core::Call { batch, store_id: STORE.to_owned(), epoch: epoch.0.into() }
}
