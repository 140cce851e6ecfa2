//! How many slots the open jobs could use: what an autoscaler needs to know.

use std::collections::BTreeMap;

use super::Scheduler;
use crate::domain::Requirements;

/// The open jobs that ask the same of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// What a node must be and have to render them.
    pub requirements: Requirements,
    /// Slices that no node has.
    pub waiting_slices: u64,
    /// Slots that would have something to render now: those that have, and one more for each slice that waits. A job
    /// whose frames continue each other uses one.
    pub slots_wanted: u64,
    /// Slots of the live nodes that could render them; some may be busy with other jobs.
    pub slots_there: u64,
}

impl Scheduler {
    /// The demand for slots, by requirements, the most important jobs' first. Looks at each open job and, for each
    /// requirement, at each node: for a watcher's pace, not for each event.
    #[must_use]
    pub fn demand(&self) -> Vec<Demand> {
        let mut by_requirements: BTreeMap<_, Demand> = BTreeMap::new();
        let mut jobs: Vec<_> = self.jobs.iter().collect();
        jobs.sort_unstable_by_key(|(id, job)| job.place(**id));
        for (order, (_, job)) in jobs.into_iter().enumerate() {
            let known = by_requirements
                .iter()
                .find(|(_, demand)| demand.requirements == job.requirements)
                .map(|(order, _)| *order);
            let demand = by_requirements.entry(known.unwrap_or(order)).or_insert_with(|| Demand {
                requirements: job.requirements.clone(),
                waiting_slices: 0,
                slots_wanted: 0,
                slots_there: self.slots_for(&job.requirements),
            });
            let rendering = job.batches.len() as u64;
            demand.waiting_slices += job.waiting();
            demand.slots_wanted += match job.is_in_order() {
                true => 1,
                false => rendering + job.waiting(),
            };
        }
        by_requirements.into_values().collect()
    }

    fn slots_for(&self, requirements: &Requirements) -> u64 {
        let able = self
            .nodes
            .values()
            .filter(|node| node.is_available() && node.description.meets(requirements));
        able.map(|node| u64::from(node.description.slots)).sum()
    }
}
