//! The books, checked in tests.

use super::{Scheduler, assignment::other_could};

impl Scheduler {
    /// Panics where the books do not agree; each relation in both directions.
    pub(crate) fn check_invariants(&self) {
        for (id, batch) in &self.batches {
            let node = self.nodes.get(&batch.node).expect("a live batch is on a live node");
            assert!(node.batches.contains(id), "a node knows the batches it has");
            match self.jobs.get(&batch.job) {
                Some(job) => assert!(job.batches.contains(id), "a job knows its batches"),
                None => assert!(batch.open.is_empty(), "a batch of a job that is over is empty"),
            }
            assert!(*id < self.next_batch, "batch ids rise");
        }
        let mut slots = 0;
        for (name, node) in &self.nodes {
            slots += node.slots();
            assert!(
                node.batches.len() <= 2 * node.slots(),
                "a node has a bounded number of batches"
            );
            let mut unsettled = 0;
            for id in &node.batches {
                let batch = self.batches.get(id).expect("a node's batches are live");
                assert_eq!(batch.node, *name, "a node's batches are its own");
                unsettled += batch.open.len();
            }
            assert_eq!(node.unsettled, unsettled, "unsettled slices are counted");
            assert!(self.alarms.contains(&(node.alarm, name.clone())), "nodes are watched");
            assert!(
                !node.silent || !node.batches.is_empty() || node.alarm <= node.heard + self.lease,
                "a silent node has something to lose, or is lost at once"
            );
            assert_eq!(
                node.cancels.keys().collect::<Vec<_>>(),
                node.batches.iter().filter(|id| self.batches[*id].cancelled).collect::<Vec<_>>(),
                "cancels are watched until they are confirmed"
            );
        }
        assert_eq!(self.slots, slots, "slots are counted");
        assert_eq!(self.alarms.len(), self.nodes.len(), "no alarm without a node");
        assert!(
            self.with_capacity.iter().all(|name| self.nodes.contains_key(name)),
            "with_capacity nodes live"
        );
        for (id, job) in &self.jobs {
            let mut in_batches = 0;
            for batch in &job.batches {
                let batch = self.batches.get(batch).expect("a job's batches are live");
                assert_eq!(batch.job, *id, "a job's batches are its own");
                in_batches += batch.open.len() as u64;
            }
            job.check_invariants(in_batches);
            assert_eq!(
                self.queue.contains(&job.place(*id)),
                job.waiting() > 0,
                "queued exactly while slices wait"
            );
        }
        assert!(self.queue.iter().all(|(.., id)| self.jobs.contains_key(id)), "queued jobs live");
        for (name, node) in &self.nodes {
            let empty = node.batches.is_empty();
            assert!(!node.alone || node.batches.len() == 1, "what must be alone is");
            if node.has_free_slot() {
                for (.., id) in &self.queue {
                    let job = &self.jobs[id];
                    if !node.description.meets(&job.requirements) {
                        continue;
                    }
                    let other_could =
                        |failed_on: &[_]| other_could(&self.nodes, failed_on, &job.requirements);
                    match job.would_give(name, empty, other_could) {
                        Some(true) => panic!("node {name} has a free slot while job {id} waits"),
                        Some(false) => {}
                        None if node.empties_for == Some(*id) => break,
                        None => assert!(
                            self.is_awaited_by_enough(*id),
                            "nodes run empty for what must be alone"
                        ),
                    }
                }
            }
        }
    }
}
