//! A machine that renders, by the rules of the real node: by its own clock it kills what its orchestrator's
//! silence has outlasted, each batch at its own time, counted from when it *sent* what was answered; it keeps
//! the events of its batches until it is told to forget them, and resumes their stream for whoever attaches;
//! what it finished is on its disk until it is settled, and offered when the batch is abandoned or the machine
//! begins anew.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Fault, HEARTBEAT, Happening, Message, OUT_OF_REACH_TOLD_EVERY, TTL, World};
use crate::domain::{
    BatchId, Epoch, Failure, FailureReason, Incarnation, JobId, NodeDescription, NodeName, Now,
    Slice,
};

/// Pause before a call is repeated.
const CALL_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) description: NodeDescription,
    pub(super) deaf_until: Now,
    mute_until: Now,
    /// From when until when it cannot be called.
    pub(super) out_of_reach: Now,
    pub(super) reached_again: Now,
    incarnation: Incarnation,
    up: bool,
    registered: bool,
    /// How fast its clock runs.
    pub(super) rate: f64,
    /// How every render on it ends, while it is broken.
    pub(super) broken: Option<FailureReason>,
    /// Whether it does not end what it is told to end.
    pub(super) is_stubborn: bool,
    draining: bool,
    /// When it *sent* what was last answered: its deadlines count from there.
    heard: Now,
    lease_until: Now,
    /// Finished slices on its disk, and how long they took.
    outbox: BTreeMap<(JobId, Slice), (BatchId, f64)>,
    /// Those of them whose batches are over: to be offered.
    offers: BTreeSet<(JobId, Slice)>,
    /// Batches with a lower number were sent before its registration, and are refused.
    void_below: BatchId,
    /// Batches it said it does not know: it will not take them any more.
    disowned: BTreeSet<BatchId>,
    /// Batches it knows, ended ones included.
    held: BTreeMap<BatchId, Held>,
    waiting: VecDeque<BatchId>,
    slots: Vec<Option<Render>>,
    renders: u64,
}

#[derive(Debug)]
struct Held {
    job: JobId,
    slices: VecDeque<Slice>,
    /// How long its orchestrator may be silent.
    silence: Duration,
    events: Vec<NodeEvent>,
    ended: bool,
    /// Life of the orchestrator that reads its stream.
    reader: Epoch,
    /// When the last event sent arrives.
    arrives: Now,
}

#[derive(Debug)]
struct Render {
    batch: BatchId,
    slice: Slice,
    number: u64,
}

/// What a machine says of a batch.
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
    },
    /// Follows a batch, which was meant for that life of the node.
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

/// What concerns one life of a machine.
#[derive(Debug, Clone)]
pub(super) enum Timer {
    Beat,
    LeaseOver,
    RenderOver {
        slot: usize,
        number: u64,
        seconds: f64,
        failure: Option<Failure>,
    },
    /// The frame kills the node.
    Poisoned {
        slot: usize,
        number: u64,
    },
    Answer {
        sent: Now,
        granted: bool,
        abandon: Vec<BatchId>,
        void_below: BatchId,
    },
    /// Its offers were answered: they were adopted, or nobody wants them.
    Settled(Vec<(JobId, Slice)>),
}

impl Machine {
    pub(super) fn new(name: NodeName, description: NodeDescription) -> Self {
        Self {
            name,
            slots: (0..description.slots).map(|_| None).collect(),
            description,
            deaf_until: Now::ZERO,
            mute_until: Now::ZERO,
            out_of_reach: Now::ZERO,
            reached_again: Now::ZERO,
            incarnation: Incarnation(0),
            up: false,
            registered: false,
            rate: 1.0,
            broken: None,
            is_stubborn: false,
            draining: false,
            heard: Now::ZERO,
            lease_until: Now::ZERO,
            outbox: BTreeMap::new(),
            offers: BTreeSet::new(),
            void_below: BatchId(0),
            disowned: BTreeSet::new(),
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            renders: 0,
        }
    }

    pub(super) fn lives(&self, incarnation: Incarnation) -> bool {
        self.up && self.incarnation == incarnation
    }

    /// Nothing is wrong with it any more.
    pub(super) fn mend(&mut self) {
        (self.deaf_until, self.mute_until, self.reached_again) = (Now::ZERO, Now::ZERO, Now::ZERO);
        (self.broken, self.is_stubborn) = (None, false);
    }

    /// How long its clock takes for that much of its time.
    fn takes(&self, time: Duration) -> Duration {
        time.div_f64(self.rate)
    }

    /// When a batch is to be dead, unless something is heard until then.
    fn deadline(&self, held: &Held) -> Now {
        self.heard + self.takes(held.silence.max(TTL))
    }

    /// Slices being rendered.
    pub(super) fn rendering(&self) -> Vec<Slice> {
        self.slots.iter().flatten().map(|render| render.slice).collect()
    }
}

impl World {
    pub(super) fn fault(&mut self, i: usize, fault: Fault) {
        let now = self.now;
        let machine = &mut self.machines[i];
        match fault {
            Fault::Boot if !machine.up => {
                let fresh = Machine::new(machine.name.clone(), machine.description.clone());
                let former = machine.incarnation;
                let incarnation = Incarnation(former.0 + 1);
                let outbox = std::mem::take(&mut machine.outbox);
                let lost: Vec<_> =
                    machine.held.iter().map(|(id, held)| (*id, held.reader)).collect();
                *machine = Machine {
                    incarnation,
                    up: true,
                    deaf_until: machine.deaf_until,
                    mute_until: machine.mute_until,
                    out_of_reach: machine.out_of_reach,
                    reached_again: machine.reached_again,
                    rate: machine.rate,
                    broken: machine.broken,
                    is_stubborn: machine.is_stubborn,
                    offers: outbox.keys().copied().collect(),
                    outbox,
                    ..fresh
                };
                // Who followed a batch asks for it again, and may be there before the node has registered.
                for (batch, epoch) in lost {
                    let soon = if self.chance(0.5) { 0 } else { self.dice.u64(0..2_000) };
                    let call = Call::Attach { epoch, batch, incarnation: former };
                    self.send(i, Duration::from_millis(soon), call);
                }
                self.timer(i, Timer::Beat);
            }
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
            Fault::Drain => {
                machine.draining = true;
                let waiting: Vec<BatchId> = machine.waiting.iter().copied().collect();
                waiting.into_iter().for_each(|batch| self.end(i, batch));
            }
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

    fn drop_renders(&mut self, i: usize) {
        for slot in 0..self.machines[i].slots.len() {
            if let Some(render) = self.machines[i].slots[slot].take() {
                let job = self.machines[i].held[&render.batch].job;
                self.invariants.render_ended(job, render.slice);
            }
        }
    }

    /// What it was about to say of its batches is never heard.
    fn drop_events(&mut self, i: usize) {
        let held = &self.machines[i].held;
        self.agenda.retain(|_, happening| {
            !matches!(happening, Happening::ToOrchestrator(Message::Batch { batch, .. }) if held.contains_key(batch))
        });
    }

    pub(super) fn timer(&mut self, i: usize, timer: Timer) {
        let now = self.now;
        let machine = &mut self.machines[i];
        let incarnation = machine.incarnation;
        match timer {
            Timer::Beat => {
                let registered = machine.registered;
                let draining = machine.draining;
                if draining && machine.held.values().all(|held| held.ended) {
                    return self.fault(i, Fault::Leave(Duration::from_secs(3)));
                }
                self.offer(i);
                if registered {
                    let holds = self.machines[i].held.keys().copied().collect();
                    let (sent, void_below) = (now, self.machines[i].void_below);
                    let beat = Message::Heartbeat {
                        machine: i,
                        incarnation,
                        sent,
                        holds,
                        void_below,
                        draining,
                    };
                    self.tell(i, beat);
                } else {
                    self.register(i);
                }
                let again = if registered { HEARTBEAT } else { Duration::from_secs(1) };
                let again = self.machines[i].takes(again);
                self.plan(again, Happening::Timer(i, incarnation, Timer::Beat));
            }
            Timer::Answer { sent, granted, abandon, void_below } => {
                let is_unknown = std::mem::replace(&mut machine.registered, granted) && !granted;
                if granted {
                    machine.heard = machine.heard.max(sent);
                    machine.lease_until = machine.heard + machine.takes(TTL);
                    machine.void_below = machine.void_below.max(void_below);
                    let until = machine.lease_until;
                    self.plan_at(until, Happening::Timer(i, incarnation, Timer::LeaseOver));
                }
                for batch in abandon {
                    self.abandon(i, batch);
                }
                self.offer(i);
                if is_unknown {
                    self.register(i);
                }
            }
            Timer::LeaseOver if machine.lease_until <= now => self.fence(i),
            Timer::LeaseOver => {}
            Timer::Settled(settled) => {
                for key in settled {
                    machine.outbox.remove(&key);
                    machine.offers.remove(&key);
                }
            }
            Timer::Poisoned { slot, number } => {
                if machine.slots[slot].as_ref().is_some_and(|render| render.number == number) {
                    let boot_after = Duration::from_millis(self.dice.u64(10..3_000));
                    let render = machine.slots[slot].as_ref();
                    let job = render.map(|render| machine.held[&render.batch].job);
                    if job.is_some_and(|job| self.plans[&job].poison_is_swift) {
                        self.drop_events(i);
                    }
                    self.fault(i, Fault::Crash(Some(boot_after)));
                }
            }
            Timer::RenderOver { slot, number, seconds, failure } => {
                let current = machine.slots[slot].take_if(|render| render.number == number);
                let Some(Render { batch, slice, .. }) = current else { return };
                self.invariants.render_ended(machine.held[&batch].job, slice);
                let event = match failure {
                    Some(failure) => NodeEvent::Failed(slice, failure),
                    None => {
                        let job = machine.held[&batch].job;
                        machine.outbox.insert((job, slice), (batch, seconds));
                        NodeEvent::Finished(slice, seconds)
                    }
                };
                self.say(i, batch, event);
                self.go_on(i, slot, batch);
            }
        }
    }

    pub(super) fn call(&mut self, i: usize, call: Call) {
        let refuses = self.chance(self.odds.refused);
        let now = self.now;
        let machine = &mut self.machines[i];
        if !machine.up {
            return;
        }
        match call {
            Call::Render { epoch, batch, job, slices, silence } => {
                if machine.held.contains_key(&batch) {
                    return;
                }
                let void = batch < machine.void_below
                    || machine.disowned.contains(&batch)
                    || machine.draining;
                if !void && now >= machine.lease_until {
                    // The answer to its registration may be on its way still: the call is repeated.
                    let again = Call::Render { epoch, batch, job, slices, silence };
                    let is_live = self.epoch == epoch
                        && self.scheduler.as_ref().is_some_and(|it| it.batch(batch).is_some());
                    if is_live {
                        self.send(i, CALL_AGAIN, again);
                    }
                    return;
                }
                let full = machine.waiting.len() >= machine.slots.len();
                if refuses || void || full {
                    machine.disowned.insert(batch);
                    return self.tell(i, Message::Refused { epoch, batch });
                }
                let (reader, slices, ended) = (epoch, slices.into(), false);
                let events = Vec::new();
                let held = Held { job, slices, silence, events, ended, reader, arrives: now };
                machine.held.insert(batch, held);
                machine.waiting.push_back(batch);
                for slot in 0..self.machines[i].slots.len() {
                    self.fill(i, slot);
                }
            }
            Call::Attach { epoch, batch, incarnation } => match machine.held.get_mut(&batch) {
                // Who asked is dead by now, and its stream with it.
                Some(held) if epoch < held.reader => {}
                Some(held) => {
                    held.reader = epoch;
                    self.replay(i, batch, 0);
                }
                None => {
                    machine.disowned.insert(batch);
                    // Only the life that it was meant for can tell that it never came.
                    let never_came = machine.incarnation == incarnation;
                    self.tell(
                        i,
                        if never_came {
                            Message::Refused { epoch, batch }
                        } else {
                            Message::Lost { epoch, batch }
                        },
                    );
                }
            },
            Call::Cancel { epoch, batch } => {
                if machine.held.contains_key(&batch) {
                    if !machine.is_stubborn {
                        self.end(i, batch);
                    }
                } else {
                    machine.disowned.insert(batch);
                    self.tell(i, Message::Refused { epoch, batch });
                }
            }
        }
    }

    fn register(&mut self, i: usize) {
        let machine = &self.machines[i];
        let holds = machine.held.keys().copied().collect();
        let (incarnation, sent) = (machine.incarnation, self.now);
        self.tell(i, Message::Register { machine: i, incarnation, sent, holds });
    }

    /// Offers what it finished in batches that are over.
    fn offer(&mut self, i: usize) {
        let machine = &self.machines[i];
        let offers = machine.offers.iter();
        let offers = offers.map(|key| (*key, machine.outbox[key].1)).collect::<Vec<_>>();
        if machine.registered && !offers.is_empty() {
            let incarnation = machine.incarnation;
            self.tell(i, Message::Adopt { machine: i, incarnation, offers });
        }
    }

    /// Kills what its orchestrator's silence has outlasted.
    fn fence(&mut self, i: usize) {
        let now = self.now;
        let machine = &self.machines[i];
        let live = machine.held.iter().filter(|(_, held)| !held.ended);
        let (over, alive): (Vec<_>, Vec<_>) =
            live.map(|(id, held)| (machine.deadline(held), *id)).partition(|(at, _)| *at <= now);
        if let Some((next, _)) = alive.into_iter().min() {
            let incarnation = machine.incarnation;
            self.plan_at(next, Happening::Timer(i, incarnation, Timer::LeaseOver));
        }
        over.into_iter().for_each(|(_, batch)| self.end(i, batch));
    }

    /// Ends a batch that is over for its orchestrator, and offers what was finished of it.
    fn abandon(&mut self, i: usize, batch: BatchId) {
        if self.machines[i].held.get(&batch).is_none_or(|held| !held.ended)
            && self.machines[i].is_stubborn
        {
            return;
        }
        self.end(i, batch);
        let machine = &mut self.machines[i];
        machine.held.remove(&batch);
        let of = machine.outbox.iter().filter(|(_, (from, _))| *from == batch);
        machine.offers.extend(of.map(|(key, _)| *key));
    }

    /// Ends a batch: its renderer is dead before anything is said.
    fn end(&mut self, i: usize, batch: BatchId) {
        let machine = &mut self.machines[i];
        let Some(held) = machine.held.get_mut(&batch) else { return };
        if std::mem::replace(&mut held.ended, true) {
            return;
        }
        let job = held.job;
        machine.waiting.retain(|waiting| *waiting != batch);
        let slot = machine
            .slots
            .iter_mut()
            .position(|slot| slot.as_ref().is_some_and(|render| render.batch == batch));
        let render = slot.and_then(|slot| machine.slots[slot].take());
        if let Some(render) = render {
            self.invariants.render_ended(job, render.slice);
        }
        self.say(i, batch, NodeEvent::Ended);
        if let Some(slot) = slot {
            self.fill(i, slot);
        }
    }

    /// Gives a free slot the next batch.
    fn fill(&mut self, i: usize, slot: usize) {
        let machine = &mut self.machines[i];
        if machine.slots[slot].is_none()
            && let Some(batch) = machine.waiting.pop_front()
        {
            self.go_on(i, slot, batch);
        }
    }

    /// Begins the next slice of a batch, or ends it.
    fn go_on(&mut self, i: usize, slot: usize, batch: BatchId) {
        let broken = self.machines[i].broken;
        let held = self.machines[i].held.get_mut(&batch).unwrap();
        let job = held.job;
        let Some(slice) = held.slices.pop_front() else {
            held.ended = true;
            self.say(i, batch, NodeEvent::Ended);
            return self.fill(i, slot);
        };
        self.invariants.render_began(job, slice, batch);
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
        machine.renders += 1;
        let number = machine.renders;
        machine.slots[slot] = Some(Render { batch, slice, number });
        let incarnation = machine.incarnation;
        let after = Duration::from_secs_f64(seconds);
        if self.plans[&job].poison.contains(&slice.frame) {
            let swift = self.plans[&job].poison_is_swift;
            self.plan(
                if swift { Duration::ZERO } else { after / 2 },
                Happening::Timer(i, incarnation, Timer::Poisoned { slot, number }),
            );
        }
        let over = Timer::RenderOver { slot, number, seconds, failure };
        self.plan(after, Happening::Timer(i, incarnation, over));
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

    /// Keeps an event, and sends it to whoever reads the batch's stream.
    fn say(&mut self, i: usize, batch: BatchId, event: NodeEvent) {
        let again = self.chance(self.odds.event_again);
        let held = self.machines[i].held.get_mut(&batch).unwrap();
        held.events.push(event);
        let last = held.events.len() - 1;
        let from = if again { self.dice.usize(0..=last) } else { last };
        self.replay(i, batch, from);
    }

    /// Sends the events of a batch from a certain one on, in order unless the dice will have it otherwise.
    fn replay(&mut self, i: usize, batch: BatchId, from: usize) {
        let mute_until = self.machines[i].mute_until.max(self.machines[i].reached_again);
        let events = self.machines[i].held[&batch].events[from..].to_vec();
        for event in events {
            let sent_at = mute_until.max(self.now) + self.delay();
            let overtakes = self.chance(self.odds.event_overtakes);
            let held = self.machines[i].held.get_mut(&batch).unwrap();
            let at = if overtakes { sent_at } else { sent_at.max(held.arrives) };
            held.arrives = held.arrives.max(at);
            let message = Message::Batch { epoch: held.reader, batch, event };
            self.plan_at(at, Happening::ToOrchestrator(message));
        }
    }
}
