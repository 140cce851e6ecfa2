//! Nodes come, go, fall silent, and are given up.
//!
//! A node's lease is renewed by each word of it. When it ends, the node is silent: it gets nothing new, and
//! loses its batches one by one, each when the job that it belongs to bears the silence no longer. Without a
//! batch left it is lost. A node that was silent registers again, so that whatever was sent to it before is
//! void.

use std::{collections::BTreeSet, time::Duration};

use super::{AWAITED_FOR, Action, Loss, Node, Scheduler};
use crate::domain::{BatchId, Incarnation, NodeDescription, NodeName, Time};

/// How long a node that is heard of may take to say that a batch has ended which it was told to end: a
/// renderer dies within seconds, and a link that broke is back within a lease.
const CANCEL_PATIENCE: Duration = Duration::from_secs(60);
/// How long a batch may be out of reach on a node that is heard of, at least: what stands between them seldom
/// lasts, and meanwhile the node draws on. A job that bears more silence than that bears it here too.
const OUT_OF_REACH_PATIENCE: Duration = Duration::from_secs(60);

impl Scheduler {
    pub(super) fn insert_node(&mut self, name: NodeName, node: Node) {
        self.slots += node.slots();
        self.departed.remove(&name);
        self.nodes.insert(name.clone(), node);
        self.watch(&name);
    }

    fn is_registered(&self, node: &str, incarnation: Incarnation) -> bool {
        self.incarnation(node) == Some(incarnation)
    }

    /// A new incarnation proves the old one dead: its work is free at once.
    pub(super) fn register(
        &mut self,
        now: Time,
        name: NodeName,
        incarnation: Incarnation,
        description: NodeDescription,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match self.nodes.get(&name).map(|node| (node.incarnation, node.end())) {
            Some((known, _)) if known > incarnation => return self.ignore(),
            Some((known, Loss::Evicted)) if known == incarnation => return self.ignore(),
            Some((known, _)) if known == incarnation => {
                if let Some(node) = self.nodes.get_mut(&name) {
                    // It may have found Blenders since.
                    self.slots -= node.slots();
                    node.description = description;
                    self.slots += node.slots();
                }
                self.hear(now, &name, actions);
                let mut looked_at = self.with_capacity.clone();
                looked_at.insert(name);
                return looked_at;
            }
            // People end one that was evicted, or its supervisor does.
            Some((_, loss)) => self.remove_node(now, &name, loss, actions),
            None => {}
        }
        let mut looked_at = self.with_capacity.clone();
        looked_at.insert(name.clone());
        self.insert_node(name.clone(), Node::new(incarnation, description, now));
        actions.push(Action::NodeChanged { node: name });
        looked_at
    }

    pub(super) fn renew(&mut self, now: Time, name: &NodeName, incarnation: Incarnation) {
        match self.nodes.get_mut(name) {
            Some(node) if node.incarnation == incarnation && node.is_listened_to() => {
                node.heard = node.heard.max(now);
                self.watch(name);
            }
            _ => self.ignored_events += 1,
        }
    }

    /// A node that may have been silent, or out of reach, is there.
    fn hear(&mut self, now: Time, name: &NodeName, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.heard = now;
        let was_unreachable = std::mem::take(&mut node.unreachable);
        let was_silent = std::mem::take(&mut node.silent);
        if was_silent {
            // It could not be told meanwhile.
            node.cancels.values_mut().for_each(|until| *until = now + CANCEL_PATIENCE);
        }
        if was_silent || was_unreachable {
            actions.push(Action::NodeChanged { node: name.clone() });
        }
        self.watch(name);
    }

    /// No call for a batch gets through to its node. That registers again, perhaps from another address; what does
    /// not help is given up in time: then the node hears by the answers to its own calls that it is to end the batch,
    /// and hands in what it has finished.
    pub(super) fn cannot_reach(
        &mut self,
        now: Time,
        id: BatchId,
        lasts: Duration,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some(batch) = self.batches.get(&id) else { return self.ignore() };
        let (name, patience) = (batch.node.clone(), batch.patience);
        let Some(node) = self.nodes.get_mut(&name) else { return self.ignore() };
        if !std::mem::replace(&mut node.unreachable, true) {
            actions.push(Action::NodeChanged { node: name.clone() });
        }
        if lasts >= OUT_OF_REACH_PATIENCE.max(patience) {
            node.pause_out_of_reach(now);
            self.cancel_batch(now, id, actions);
        }
        self.watch(&name);
        self.others_of(&name)
    }

    /// Nobody could be heard until now: no silence before proves anything.
    pub(super) fn prolong(&mut self, now: Time) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for name in names {
            if let Some(node) = self.nodes.get_mut(&name)
                && !node.evicted
            {
                node.heard = now;
                self.watch(&name);
            }
        }
    }

    pub(super) fn drain(
        &mut self,
        name: &NodeName,
        incarnation: Incarnation,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match self.nodes.get_mut(name) {
            Some(node) if node.incarnation == incarnation => {
                if !std::mem::replace(&mut node.draining, true) {
                    actions.push(Action::NodeChanged { node: name.clone() });
                }
                self.others_of(name)
            }
            _ => self.ignore(),
        }
    }

    pub(super) fn leave(
        &mut self,
        now: Time,
        name: &NodeName,
        incarnation: Incarnation,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        if !self.is_registered(name, incarnation) {
            return self.ignore();
        }
        self.remove_node(now, name, Loss::SaidGoodbye, actions);
        self.with_capacity.clone()
    }

    fn remove_node(&mut self, now: Time, name: &NodeName, loss: Loss, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.remove(name) else { return };
        self.slots -= node.slots();
        self.alarms.remove(&(node.alarm, name.clone()));
        self.with_capacity.remove(name);
        for batch in node.batches {
            self.lose_batch(batch, loss, actions);
        }
        self.departed.retain(|_, (left, _)| left.saturating_add(AWAITED_FOR) > now);
        self.departed.insert(name.clone(), (now, node.description));
        let said_goodbye = loss == Loss::SaidGoodbye;
        actions.push(Action::NodeGone { node: name.clone(), said_goodbye });
    }

    /// Those that may get what this node cannot: it takes no more itself.
    fn others_of(&mut self, name: &NodeName) -> BTreeSet<NodeName> {
        self.with_capacity.remove(name);
        self.with_capacity.clone()
    }

    pub(super) fn pause(&mut self, now: Time, name: &NodeName) {
        // Troubles during a pause are of one piece with what it was paused for.
        if let Some(node) = self.nodes.get_mut(name)
            && node.paused_until.is_none()
        {
            node.pause(now);
            self.with_capacity.remove(name);
            self.watch(name);
        }
    }

    /// Tells a node to end a batch, and sees to it that it does.
    pub(super) fn cancel_batch(&mut self, now: Time, id: BatchId, actions: &mut Vec<Action>) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        if std::mem::replace(&mut batch.cancelled, true) {
            return;
        }
        let name = batch.node.clone();
        if let Some(node) = self.nodes.get_mut(&name) {
            node.cancels.insert(id, now + CANCEL_PATIENCE);
        }
        actions.push(Action::CancelBatch { batch: id, node: name.clone() });
        self.watch(&name);
    }

    /// Sees to it that a node is looked at when something of it is due.
    pub(super) fn watch(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.get(name) else { return };
        let silence = self.silence_borne(node).unwrap_or(self.lease);
        let heard = if node.silent { silence } else { self.lease };
        let cancels = node.cancels.values().min().copied();
        let cancels = cancels.filter(|_| !node.silent && !node.evicted);
        let pauses = [node.paused_until, node.trust.quarantined_until(), cancels];
        let alarm = pauses.into_iter().flatten().fold(node.heard.saturating_add(heard), Time::min);
        if let Some(node) = self.nodes.get_mut(name) {
            self.alarms.remove(&(node.alarm, name.clone()));
            node.alarm = alarm;
            self.alarms.insert((alarm, name.clone()));
        }
    }

    /// How long the most impatient of a node's batches waits for a silent one; `None` without batches.
    pub(super) fn silence_borne(&self, node: &Node) -> Option<Duration> {
        let batches = node.batches.iter().filter_map(|id| self.batches.get(id));
        batches.map(|batch| batch.patience(self.lease)).min()
    }

    pub(super) fn pass_time(&mut self, now: Time, actions: &mut Vec<Action>) -> BTreeSet<NodeName> {
        let mut due = Vec::new();
        while let Some((at, name)) = self.alarms.first().cloned().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, name.clone()));
            due.push(name);
        }
        if due.is_empty() {
            return BTreeSet::new();
        }
        let mut looked_at = BTreeSet::new();
        for name in due {
            if self.look_after(now, &name, actions) {
                looked_at.insert(name.clone());
            }
            self.watch(&name);
        }
        // Who could render a slice instead of the nodes that failed it has changed.
        looked_at.extend(self.with_capacity.iter().cloned());
        looked_at
    }

    /// Does what is due for a node; returns whether it may take work again.
    fn look_after(&mut self, now: Time, name: &NodeName, actions: &mut Vec<Action>) -> bool {
        let is_due = |until: Option<Time>| until.is_some_and(|until| until <= now);
        let Some(node) = self.nodes.get_mut(name) else { return false };
        let mut freed = false;
        if is_due(node.paused_until) {
            node.paused_until = None;
            freed = true;
        }
        if is_due(node.trust.quarantined_until()) {
            node.trust.begin_probation();
            freed = true;
        }
        let over = !node.silent && node.heard.saturating_add(self.lease) <= now;
        let defies = !over && !node.silent && is_due(node.cancels.values().min().copied());
        let evicted = defies && !std::mem::replace(&mut node.evicted, true);
        node.silent |= over;
        if freed || over || evicted {
            actions.push(Action::NodeChanged { node: name.clone() });
        }
        if evicted || over {
            self.with_capacity.remove(name);
        }
        self.lose_by_silence(now, name, actions);
        freed
    }

    /// Takes from a silent node what bears its silence no longer, and gives it up when nothing is left.
    fn lose_by_silence(&mut self, now: Time, name: &NodeName, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.get(name).filter(|node| node.silent) else { return };
        let loss = node.end();
        let is_over = |id: &&BatchId| {
            self.batches
                .get(id)
                .is_none_or(|batch| node.heard.saturating_add(batch.patience(self.lease)) <= now)
        };
        let over: Vec<BatchId> = node.batches.iter().filter(is_over).copied().collect();
        if over.len() == node.batches.len() {
            return self.remove_node(now, name, loss, actions);
        }
        for batch in over {
            self.lose_batch(batch, loss, actions);
        }
    }
}
