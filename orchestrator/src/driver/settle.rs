//! Commits a cycle, then shows it.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tracing::{error, info};

use super::{
    Driver, RETRY_MAX, RETRY_MIN,
    cycle::{Cycle, Effect, Pending},
};
use crate::{
    clock::wall_ms,
    domain::{JobId, NodeName, NodeView},
    feed::{JobChange, reasons::describe_status},
    observe::Observer as _,
    store::{Group, StoreError},
};

/// How long a commit is held before watchers learn that it is.
pub(super) const HELD_SHOWN_AFTER: Duration = Duration::from_secs(2);

impl Driver {
    /// Finishes a cycle, and one more in which its followups begin.
    pub(super) async fn finish(&mut self, cycle: Cycle) -> Result<(), StoreError> {
        let followups = cycle.followups.clone();
        self.settle(cycle).await?;
        if !followups.is_empty() {
            let mut next = Cycle::default();
            for record in &followups {
                self.begin(record, &mut next);
            }
            self.settle(next).await?;
        }
        Ok(())
    }

    /// Commits a cycle, retrying for as long as it takes, and then shows it.
    async fn settle(&mut self, cycle: Cycle) -> Result<(), StoreError> {
        let Cycle { group, effects, followups, reopened, jobs, nodes, gone } = cycle;
        self.observers.announced(!group.is_empty());
        if !group.is_empty() {
            self.commit(&group).await?;
            self.observers.durable();
        }
        for record in &reopened {
            self.feed.open_job(record);
        }
        // Before the finished job is shown: whoever sees its end may ask for its followup.
        for record in &followups {
            self.open(record);
        }
        for view in gone {
            self.feed.publish_node(view);
        }
        for name in nodes {
            if let Some(view) = self.view_of(name) {
                self.feed.publish_node(view);
            }
        }
        self.publish_jobs(jobs);
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

    /// A live node as people see it.
    fn view_of(&self, name: NodeName) -> Option<NodeView> {
        let (record, load) = (self.nodes.get(&name)?, self.scheduler.load(&name)?);
        let trouble = self.troubles.get(&name).map_or("", String::as_str);
        let (state, reason, until) = describe_status(&load, trouble);
        let (address, description) = (record.address.clone(), record.description.clone());
        let mut view =
            NodeView::new(name, record.incarnation, address, description, state, wall_ms());
        view.state_reason = reason;
        view.state_until_ms = until
            .map_or(0, |until| wall_ms() + until.saturating_sub(self.now()).as_millis() as i64);
        view.unsettled_slices = load.unsettled_slices;
        view.finished_slices = load.finished_slices;
        Some(view)
    }

    fn publish_jobs(&mut self, jobs: BTreeMap<JobId, Pending>) {
        for (job, Pending { frames, previews, active }) in jobs {
            let Some(open) = self.jobs.get(&job) else { continue };
            let status = open.record.status.clone();
            let is_final = status.state.is_final();
            // A slice that began and was settled in the same cycle is no longer active.
            let settled: HashSet<i32> = frames.iter().map(|frame| frame.frame).collect();
            let active = active
                .into_values()
                .filter(|active| !settled.contains(&active.slice.frame))
                .collect();
            self.feed.publish_job(&open.record, JobChange { status, frames, previews, active });
            if is_final {
                self.jobs.remove(&job);
            }
        }
    }

    async fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut pause = RETRY_MIN;
        let mut logged = String::new();
        let store = self.store.clone();
        let since = self.now();
        while let Err(error) = self.meanwhile(store.commit(group)).await {
            if matches!(error, StoreError::Superseded) {
                return Err(error);
            }
            self.mailbox.store_health.failed();
            self.feed.hold(self.now() >= since + HELD_SHOWN_AFTER);
            let text = error.to_string();
            if logged != text {
                error!(error = text, "cannot write to the store; holding everything and retrying");
                logged = text;
            }
            self.verify_epoch_if_due().await?;
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
