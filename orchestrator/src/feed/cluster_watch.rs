//! One watcher of the cluster.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Feed, lock};
use crate::{domain::NodeView, store::JobRecord};

/// Pause between two messages of a cluster watch: ten a second, faster than people look.
const CLUSTER_PAUSE: Duration = Duration::from_millis(100);

/// One watcher of the cluster.
#[derive(Debug)]
pub(crate) struct ClusterWatch {
    feed: Arc<Feed>,
    changed: watch::Receiver<()>,
    /// `None` before the first message.
    version: Option<u64>,
}

impl Feed {
    pub(crate) fn watch_cluster(self: &Arc<Self>) -> ClusterWatch {
        ClusterWatch {
            feed: self.clone(),
            changed: self.cluster_changed.subscribe(),
            version: None,
        }
    }
}

impl ClusterWatch {
    /// Waits for jobs and nodes that are new or changed, and returns them.
    pub(crate) async fn next(&mut self) -> (Vec<JobRecord>, Vec<NodeView>) {
        if self.version.is_some() {
            tokio::time::sleep(CLUSTER_PAUSE).await;
            let _ = self.changed.changed().await;
        }
        let cluster = lock(&self.feed.cluster);
        let is_first = self.version.is_none();
        let seen = self.version.replace(cluster.version).unwrap_or(0);
        let jobs = cluster
            .jobs
            .values()
            .filter(|(version, job)| *version > seen && !(is_first && job.status.state.is_final()));
        let nodes = cluster.nodes.values().filter(|(version, _)| *version > seen);
        (jobs.map(|(_, j)| j.clone()).collect(), nodes.map(|(_, n)| n.clone()).collect())
    }
}
