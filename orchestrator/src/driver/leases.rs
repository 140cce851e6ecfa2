//! Leases. A node that gets no answer within its lease kills its renderers, so heartbeats are answered also while the
//! driver waits for the store.

use std::time::Duration;

use tracing::{error, warn};

use super::{Driver, RETRY_MAX, RETRY_MIN, TICK, cycle::Cycle, renewal::Renewal};
use crate::{
    clock::wall_ms,
    domain::{Incarnation, NodeName},
    mailbox::{Heartbeat, MembershipError},
    scheduler::{Event, NodeStatus},
    store::StoreError,
};

/// A gap that no load explains: the process was suspended. Heartbeats of that time are still unread, so silence
/// proves nothing; and another orchestrator may have opened the store.
pub(super) const STALL: Duration = Duration::from_secs(4);
/// Heartbeats that wait for a commit because their answer is not durable before it: one from each of 500 nodes, and
/// some repeats. Further ones get no answer; their nodes ask again.
pub(super) const DEFERRED_MAX: usize = 1_024;

impl Driver {
    /// Notes the time, and whether there was a gap since the last call.
    pub(super) fn note_gap(&mut self) {
        let now = self.now();
        if now > self.attended + STALL {
            (self.clock_gap, self.stalled) = (true, true);
        }
        self.attended = now;
    }

    /// Verifies that no other orchestrator has opened the store: after a gap, before any answer, and otherwise every
    /// `checks_every`.
    pub(super) async fn verify_epoch_if_due(&mut self) -> Result<(), StoreError> {
        if !self.clock_gap && self.now() >= self.checked + self.checks_every {
            let store = self.store.clone();
            match self.meanwhile(store.check_epoch()).await {
                Ok(()) => self.checked = self.now(),
                Err(error @ StoreError::Superseded) => return Err(error),
                Err(error) => warn!(%error, "cannot read the store; retrying"),
            }
        }
        if self.clock_gap {
            self.check_epoch().await?;
            self.clock_gap = false;
            for heartbeat in std::mem::take(&mut self.deferred) {
                self.answer_meanwhile(heartbeat);
            }
        }
        Ok(())
    }

    /// Verifies it for however long reading the store takes.
    pub(super) async fn check_epoch(&mut self) -> Result<(), StoreError> {
        let mut pause = RETRY_MIN;
        loop {
            match self.store.check_epoch().await {
                Err(error) if !matches!(error, StoreError::Superseded) => {
                    error!(%error, "cannot read the store; holding everything and retrying");
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

    /// Answers a heartbeat between two cycles, when every decision is durable.
    pub(super) fn answer(&mut self, heartbeat: Heartbeat) {
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
        // If the caller has gone, its lease is renewed all the same.
        let _ = reply.send(answer);
    }

    /// Why the lease of a registered node is not renewed.
    pub(super) fn why_unheard(&self, node: NodeName) -> MembershipError {
        let status = self.scheduler.load(&node).map(|load| load.standing);
        match (status, self.nodes.get(&node)) {
            (Some(NodeStatus::Unreachable), Some(record)) => {
                MembershipError::Unreachable { node, address: record.address.clone() }
            }
            _ => MembershipError::NotRegistered(node),
        }
    }

    /// Answers a heartbeat during a commit. The decisions are not durable, so the answer only renews the lease; the
    /// next one lists the abandoned batches.
    ///
    /// Two kinds of heartbeats are deferred until the commit is done: those of nodes that it removes, and those that
    /// list a batch which it takes from the node because its time is over. By its own clock the node has killed that
    /// batch; a renewal must not keep it alive.
    pub(super) fn answer_meanwhile(&mut self, heartbeat: Heartbeat) {
        let is_listened_to = self.scheduler.is_listened_to(&heartbeat.node, heartbeat.incarnation);
        let loses = heartbeat.batches.iter().any(|batch| self.given_away.contains(batch));
        if !is_listened_to || loses {
            self.defer(heartbeat);
            return;
        }
        let Heartbeat { node, incarnation, draining, reply, .. } = heartbeat;
        self.feed.note_seen(&node, wall_ms());
        self.note_renewal(node, incarnation, draining);
        let _ = reply.send(Ok(Vec::new()));
    }

    pub(super) fn defer(&mut self, heartbeat: Heartbeat) {
        // A node that gave up waiting has asked again.
        self.deferred.retain(|earlier| !earlier.reply.is_closed());
        if self.deferred.len() < DEFERRED_MAX {
            self.deferred.push(heartbeat);
        }
    }

    pub(super) fn note_renewal(
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

    /// Waits for the store, and answers heartbeats meanwhile.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            // After a gap the epoch is verified before anything is answered.
            let listens = !self.clock_gap;
            tokio::select! {
                biased;
                done = &mut work => {
                    self.note_gap();
                    return done;
                }
                Some(heartbeat) = self.mailbox.heartbeats.recv(), if listens => {
                    self.note_gap();
                    if self.clock_gap {
                        self.defer(heartbeat);
                    } else {
                        self.answer_meanwhile(heartbeat);
                    }
                }
                () = tokio::time::sleep(TICK) => self.note_gap(),
            }
        }
    }

    pub(super) fn renew(
        &mut self,
        node: NodeName,
        incarnation: Incarnation,
        renewal: Renewal,
        cycle: &mut Cycle,
    ) {
        let Renewal { at, draining, ended } = renewal;
        // An earlier answer listed them as abandoned, and the node has ended them.
        for batch in ended {
            self.decide(Event::BatchEnded { batch }, cycle);
        }
        if draining {
            self.decide(Event::NodeDraining { node: node.clone(), incarnation }, cycle);
        }
        let actions = self.scheduler.handle(at, Event::LeaseRenewed { node, incarnation });
        self.apply(cycle, actions);
    }
}
