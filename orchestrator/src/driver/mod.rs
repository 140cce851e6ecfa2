//! The one task that owns the scheduler, and the only place where order matters.
//!
//! Its loop, a cycle: it takes the commands that are ready, lets the scheduler decide, writes every decision in one
//! transaction, and only then shows it: answers callers, publishes to watchers, starts and ends batches.
//!
//! One transaction for all commands that wait is what makes it cheap: a sync of the disk takes some milliseconds,
//! whether it covers one event or 256. The price is latency: a caller waits for the commit under way and for its own.
//! Heartbeats do not: a lease must not depend on the disk (see `leases`).
//!
//! When a commit fails (the disk is full), nothing of it becomes visible: the driver holds it, retries, and refuses new
//! jobs meanwhile. It recovers without a restart. Showing first and writing later was rejected: a crash in between
//! would take back what people and nodes have seen.
//!
//! Each file adds one group of methods to [`Driver`]; `cycle`, `open_job` and `renewal` hold plain data.

mod amend;
mod apply;
mod cycle;
mod leases;
mod open_job;
mod registrations;
mod renewal;
mod reports;
mod restore;
mod settle;
mod submissions;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{cycle::Cycle, open_job::OpenJob, renewal::Renewal};
use crate::{
    dispatch::Dispatch,
    domain::{BatchId, Incarnation, JobId, NodeName, Time},
    feed::Feed,
    mailbox::{Command, Heartbeat, Mailbox},
    observe::Observers,
    scheduler::{Action, Event, Scheduler},
    store::{Ledger, NodeRecord, StoreError},
};

/// Commands in one commit: bounds how long an answer waits for others, at some ten milliseconds.
const GROUP_MAX: usize = 256;
/// Time between two cycles when nothing happens, so that a longer gap means a stall.
const TICK: Duration = Duration::from_secs(1);
/// Pause before a failed commit is retried; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest such pause: a disk with room again is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(2);

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
    /// When the latest cycle decided.
    last_cycle: Time,
    /// When the time was last noted.
    attended: Time,
    /// Whether there was a gap since, and the epoch is not verified yet.
    clock_gap: bool,
    /// Whether there was a gap that the scheduler has not heard of yet.
    stalled: bool,
    /// How often the epoch is verified, so that an orchestrator that lost its store soon stops renewing leases.
    checks_every: Duration,
    /// When it was last verified.
    checked: Time,
    /// Leases that were renewed since the latest cycle began.
    renewals: BTreeMap<(NodeName, Incarnation), Renewal>,
    /// Heartbeats that wait for the commit under way.
    deferred: Vec<Heartbeat>,
    /// Batches that this cycle takes from their nodes because their time is over.
    given_away: HashSet<BatchId>,
    /// Why live nodes were last paused.
    troubles: HashMap<NodeName, String>,
    observers: Observers,
}

impl Driver {
    /// Runs until `shutdown`. A command that is not committed then gets no answer.
    ///
    /// # Errors
    /// When another orchestrator has opened the store.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), StoreError> {
        loop {
            let tick = self.last_cycle + TICK;
            let deadline = self.scheduler.next_deadline().map_or(tick, |at| at.min(tick));
            let mut commands = Vec::new();
            let mut heartbeats = std::mem::take(&mut self.deferred);
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
            self.run_cycle(commands, heartbeats).await?;
        }
    }

    fn now(&self) -> Time {
        self.started_at.elapsed()
    }

    async fn run_cycle(
        &mut self,
        commands: Vec<Command>,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<(), StoreError> {
        let mut cycle = Cycle::default();
        self.given_away.clear();
        self.note_gap();
        self.verify_epoch_if_due().await?;
        for heartbeat in heartbeats {
            self.answer(heartbeat);
        }
        let mut others = Vec::with_capacity(commands.len());
        let mut submissions = Vec::new();
        let mut amendments = Vec::new();
        for command in commands {
            match command {
                Command::Submit(job, reply) => submissions.push((job, reply)),
                // The node gave up waiting and has asked again. Its frames are looked at once, and a node that is
                // no longer there gets no work.
                Command::Adopt { reply, .. } if reply.is_closed() => {}
                Command::Register(_, reply) if reply.is_closed() => {}
                Command::Retry(..) | Command::Adopt { .. } => {
                    amendments.extend(self.look_up(command).await);
                }
                other => others.push(other),
            }
        }
        if !submissions.is_empty() {
            self.accept(submissions, &mut cycle).await?;
        }
        if std::mem::take(&mut self.stalled) {
            warn!("this process was suspended or stalled; extending all leases");
            self.decide(Event::Stalled, &mut cycle);
        }
        for ((node, incarnation), renewal) in std::mem::take(&mut self.renewals) {
            self.renew(node, incarnation, renewal, &mut cycle);
        }
        // Before the other commands: the scheduler's state is still the one that was looked up.
        for amendment in amendments {
            self.amend(amendment, &mut cycle);
        }
        for command in others {
            self.take(command, &mut cycle);
        }
        let actions = self.scheduler.handle(self.now(), Event::TimePassed);
        self.given_away.extend(actions.iter().filter_map(|action| match action {
            Action::EndBatch { batch, .. } => Some(*batch),
            _ => None,
        }));
        self.apply(&mut cycle, actions);
        self.last_cycle = self.now();
        self.finish(cycle).await
    }

    fn take(&mut self, command: Command, cycle: &mut Cycle) {
        match command {
            // Handled by `accept` and `amend`.
            Command::Submit(..) | Command::Retry(..) | Command::Adopt { .. } => {}
            Command::Cancel(job, reply) => {
                if self.jobs.contains_key(&job) {
                    info!(%job, "job cancelled");
                    self.decide(Event::JobCancelled { job }, cycle);
                }
                cycle.reply(reply, ());
            }
            Command::Register(registration, reply) => match self.may_register(&registration) {
                Ok(()) => {
                    let welcome = self.register(*registration, cycle);
                    cycle.reply(reply, Ok(welcome));
                }
                Err(error) => cycle.reply(reply, Err(error)),
            },
            Command::Unregister { node, incarnation, reply } => {
                self.decide(Event::NodeLeft { node, incarnation }, cycle);
                cycle.reply(reply, ());
            }
            Command::Batch(batch, reports) => {
                for report in reports {
                    self.take_report(batch, report, cycle);
                }
            }
        }
    }

    fn decide(&mut self, event: Event, cycle: &mut Cycle) {
        let actions = self.scheduler.handle(self.now(), event);
        self.apply(cycle, actions);
    }
}

#[cfg(test)]
mod tests;
