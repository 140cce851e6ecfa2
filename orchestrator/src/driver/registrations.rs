//! Nodes join.

use tracing::info;

use super::{Driver, cycle::Cycle};
use crate::{
    domain::BatchId,
    mailbox::{MembershipError, Registration, Welcome},
    observe::Observer as _,
    scheduler::Event,
    store::NodeRecord,
};

impl Driver {
    pub(super) fn may_register(&self, registration: &Registration) -> Result<(), MembershipError> {
        let node = &registration.node;
        if self.scheduler.is_evicted(node, registration.incarnation) {
            return Err(MembershipError::NotRegistered(node.clone()));
        }
        match (self.scheduler.incarnation(node), self.nodes.get(node)) {
            (Some(known), _) if known > registration.incarnation => {
                Err(MembershipError::NewerIncarnation(node.clone()))
            }
            // The same address proves that the earlier process there has ended. So does a port at which nothing
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

    pub(super) fn register(&mut self, registration: Registration, cycle: &mut Cycle) -> Welcome {
        let first_batch = self.scheduler.next_batch();
        let Registration { node, incarnation, address, description, batches, neighbour, .. } =
            registration;
        info!(%node, incarnation = incarnation.0, %address, slots = description.slots, "node registered");
        let event = Event::NodeRegistered {
            node: node.clone(),
            incarnation,
            description: description.clone(),
        };
        // Record the address first: batches started by this registration, and followers of existing ones, must use it.
        self.dispatch.set_address(&node, &address, neighbour);
        let record = NodeRecord { incarnation, address, description };
        let former = self.nodes.insert(node.clone(), record.clone());
        if former.is_some_and(|former| former.incarnation != incarnation) {
            self.troubles.remove(&node);
        }
        self.observers.registering(&node, incarnation, record.description.slots);
        self.decide(event, cycle);
        self.observers.registered();
        cycle.group.nodes.insert(node.clone(), Some(record));
        cycle.nodes.insert(node.clone());
        Welcome { abandoned: self.abandoned(&node, batches), first_batch }
    }

    pub(super) fn abandoned(&self, node: &str, mut batches: Vec<BatchId>) -> Vec<BatchId> {
        batches.retain(|batch| !self.scheduler.holds(node, *batch));
        batches
    }
}
