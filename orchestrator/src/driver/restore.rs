//! A new incarnation of the orchestrator continues from the store.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::info;

use super::{Driver, cycle::Cycle, open_job::OpenJob};
use crate::{
    dispatch::Dispatch,
    domain::{BatchId, JobId, NodeName, Slice, Time},
    feed::Feed,
    mailbox::Mailbox,
    observe::{Observer as _, Observers},
    scheduler::{RestoredBatch, RestoredJob, RestoredNode, Scheduler},
    store::{
        BatchRecord, JobProgressRecord, JobRecord, Ledger, NodeRecord, RestoredState, StoreError,
    },
};

impl Driver {
    /// Continues where the previous incarnation stopped: follows the batches that were live, and looks for work to
    /// assign.
    pub(crate) async fn restore(
        store: Arc<dyn Ledger>,
        feed: Arc<Feed>,
        dispatch: Dispatch,
        mailbox: Mailbox,
        lease: Duration,
        mut observers: Observers,
    ) -> Result<Self, StoreError> {
        let RestoredState { open_jobs, batches, nodes, last_job, commits } =
            store.restore().await?;
        observers.opened(feed.identity(), commits);
        let (jobs, restored_jobs) = restore_jobs(&*store, &feed, open_jobs).await?;
        info!(
            jobs = jobs.len(),
            nodes = nodes.len(),
            batches = batches.len(),
            epoch = feed.identity().epoch.0,
            commits,
            "store opened"
        );
        let restored_nodes = nodes.iter().map(restored_node).collect();
        let nodes: HashMap<_, _> = nodes.into_iter().collect();
        attach(&dispatch, &batches, &nodes);
        let restored_batches = open_batches(&restored_jobs, batches);
        let (scheduler, actions) = Scheduler::restore(
            feed.identity().epoch,
            lease,
            restored_jobs,
            restored_nodes,
            restored_batches,
        );
        let mut this = Self {
            scheduler,
            store,
            feed,
            dispatch,
            mailbox,
            started_at: Instant::now(),
            jobs,
            nodes,
            last_job,
            last_cycle: Time::ZERO,
            attended: Time::ZERO,
            clock_gap: false,
            stalled: false,
            checks_every: lease / 3,
            checked: Time::ZERO,
            renewals: BTreeMap::new(),
            deferred: Vec::new(),
            given_away: HashSet::new(),
            troubles: HashMap::new(),
            observers,
        };
        let mut cycle = Cycle::default();
        cycle.nodes.extend(this.nodes.keys().cloned());
        this.apply(&mut cycle, actions);
        this.finish(cycle).await?;
        Ok(this)
    }
}

/// Opens the jobs for watchers.
async fn restore_jobs(
    store: &dyn Ledger,
    feed: &Feed,
    records: Vec<(JobRecord, JobProgressRecord)>,
) -> Result<(HashMap<JobId, OpenJob>, Vec<RestoredJob>), StoreError> {
    let mut jobs = HashMap::new();
    let mut restored_jobs = Vec::new();
    for (record, progress) in records {
        let (open, restored) = OpenJob::restore(store, record.clone(), progress).await?;
        restored_jobs.push(restored);
        feed.open_job(&record);
        jobs.insert(record.job, open);
    }
    Ok((jobs, restored_jobs))
}

/// Follows the live batches on the nodes that are known.
fn attach(
    dispatch: &Dispatch,
    batches: &[(BatchId, BatchRecord)],
    nodes: &HashMap<NodeName, NodeRecord>,
) {
    for (batch, record) in batches {
        if let Some(node) = nodes.get(&record.node) {
            dispatch.attach(*batch, &record.node, node, record.log_sequence);
        }
    }
}

/// The live batches, without the slices that are settled.
fn open_batches(jobs: &[RestoredJob], batches: Vec<(BatchId, BatchRecord)>) -> Vec<RestoredBatch> {
    let settled: HashSet<_> = jobs
        .iter()
        .flat_map(|job| job.settled.iter().map(|frame| (job.job, Slice::whole(*frame))))
        .collect();
    let mut restored = Vec::new();
    for (batch, BatchRecord { job, node, mut slices, .. }) in batches {
        slices.retain(|slice| !settled.contains(&(job, *slice)));
        restored.push(RestoredBatch { batch, job, node, slices });
    }
    restored
}

fn restored_node((node, record): &(NodeName, NodeRecord)) -> RestoredNode {
    RestoredNode {
        node: node.clone(),
        incarnation: record.incarnation,
        description: record.description.clone(),
    }
}
