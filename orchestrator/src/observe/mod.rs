//! Observers see what the driver decides and when it becomes durable. They decide nothing.
//!
//! [`history`] is the first: it writes everything to a file, for tests of whole processes. Metrics and traces are to be
//! further ones: a counter needs [`Observer::acted`], the latency of a commit the time from [`Observer::announced`] to
//! [`Observer::durable`].

#[cfg(any(test, feature = "history"))]
pub mod history;

use crate::{
    domain::{Incarnation, NodeName},
    scheduler::Action,
    store::{Identity, JobRecord},
};

/// Sees the driver's work, in its order. Methods run on the driver's task, so they must not wait.
pub(crate) trait Observer: Send {
    /// The store was opened; it has so many commits.
    fn opened(&mut self, _identity: &Identity, _commits: u64) {}

    /// A job is about to be written.
    fn submitted(&mut self, _job: &JobRecord) {}

    /// The decisions until [`Self::registered`] are about a node that registers.
    fn registering(&mut self, _node: &NodeName, _incarnation: Incarnation, _slots: u32) {}

    /// Ends [`Self::registering`].
    fn registered(&mut self) {}

    /// The scheduler decided.
    fn acted(&mut self, _action: &Action) {}

    /// Everything since the last call becomes visible with the next commit, or at once if there is none.
    fn announced(&mut self, _is_commit: bool) {}

    /// The announced commit is durable.
    fn durable(&mut self) {}
}

/// All observers of a driver.
#[derive(Default)]
pub(crate) struct Observers(Vec<Box<dyn Observer>>);

impl Observers {
    /// Adds an observer.
    #[cfg(any(test, feature = "history"))]
    pub(crate) fn with(mut self, observer: impl Observer + 'static) -> Self {
        self.0.push(Box::new(observer));
        self
    }
}

impl Observer for Observers {
    fn opened(&mut self, identity: &Identity, commits: u64) {
        self.0.iter_mut().for_each(|one| one.opened(identity, commits));
    }

    fn submitted(&mut self, job: &JobRecord) {
        self.0.iter_mut().for_each(|one| one.submitted(job));
    }

    fn registering(&mut self, node: &NodeName, incarnation: Incarnation, slots: u32) {
        self.0.iter_mut().for_each(|one| one.registering(node, incarnation, slots));
    }

    fn registered(&mut self) {
        self.0.iter_mut().for_each(|one| one.registered());
    }

    fn acted(&mut self, action: &Action) {
        self.0.iter_mut().for_each(|one| one.acted(action));
    }

    fn announced(&mut self, is_commit: bool) {
        self.0.iter_mut().for_each(|one| one.announced(is_commit));
    }

    fn durable(&mut self) {
        self.0.iter_mut().for_each(|one| one.durable());
    }
}
