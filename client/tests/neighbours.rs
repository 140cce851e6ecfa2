//! When a node's process ends on the orchestrator's machine, it is certain to have ended, and nothing waits for
//! its lease.
#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, time::Duration};

use framecrew::{
    Cluster, Job, JobSpec, JobView, WatchEvent,
    proto::{JobState, Node, NodeState},
};
use framecrew_orchestrator::{Config, serve};
use futures::StreamExt as _;
use support::servers::{PATIENCE, Server, connect, finished_frames, free_address, node, watched};
use tokio::{net::TcpListener, time::timeout};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
/// A lease so long that no test can wait for it to end.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

async fn orchestrator(data: &Path) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let config = Config { lease: LEASE, ..Config::new(data.join("orchestrator")) };
    tokio::spawn(async move { serve(listener, config, std::future::pending()).await.unwrap() });
    connect(&url).await
}

/// Starts a node in a process of its own.
fn start(cluster: &Cluster, folder: &Path, name: &str, data: &str, per_frame: &str) -> Server {
    let mut command = std::process::Command::new(node());
    command.args(["--orchestrator", cluster.url(), "--listen", &free_address(), "--name", name]);
    command.arg("--data").arg(folder.join(data)).args(["--renderer", per_frame]);
    Server::start(command, folder.join(format!("{data}.log")))
}

/// Waits until a node satisfies `wanted`.
async fn until(cluster: &Cluster, wanted: impl Fn(&Node) -> bool) -> Node {
    let looking = async {
        loop {
            if let Some(node) = cluster.nodes().await.unwrap().into_iter().find(&wanted) {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap()
}

/// Waits until a node has begun a frame of the job.
async fn begun(job: &Job) {
    let mut watch = job.watch();
    let mut view = JobView::default();
    while view.active().count() == 0 {
        if let WatchEvent::Update(update) =
            timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap()
        {
            view.apply(&update);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_of_a_node_that_is_killed_are_drawn_by_another_at_once() {
    let base = tempfile::tempdir().unwrap();
    let cluster = orchestrator(base.path()).await;
    let mut a = start(&cluster, base.path(), "a", "a", "synthetic:3600s");
    let job = cluster.submit(JobSpec::still(DEMO, 7)).await.unwrap();
    begun(&job).await;
    let _b = start(&cluster, base.path(), "b", "b", "synthetic:1ms");
    until(&cluster, |node| node.name == "b" && node.state() == NodeState::Idle).await;

    a.kill();
    let killed = tokio::time::Instant::now();
    let view = watched(job.watch(), drop).await;
    eprintln!("finished by another {:?} after the kill", killed.elapsed());
    assert_eq!(view.state(), JobState::Finished);
    assert_eq!(finished_frames(&cluster, job.id()).await.len(), 1);
    let nodes = cluster.nodes().await.unwrap();
    let idle = nodes.iter().filter(|node| node.state() == NodeState::Idle);
    assert_eq!(idle.map(|node| node.name.as_str()).collect::<Vec<_>>(), ["b"], "a is not trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nodes_name_is_free_at_once_and_a_stopped_ones_is_not() {
    let base = tempfile::tempdir().unwrap();
    let cluster = orchestrator(base.path()).await;
    let mut first = start(&cluster, base.path(), "six", "first", "synthetic:3600s");
    let job = cluster.submit(JobSpec::still(DEMO, 7)).await.unwrap();
    begun(&job).await;
    let former = until(&cluster, |node| node.name == "six").await.address;

    // A stopped process may be slow for hours and then draw on.
    first.signal(rustix::process::Signal::STOP);
    let second = start(&cluster, base.path(), "six", "second", "synthetic:1ms");
    let refusing = async {
        while !second.log().contains("may still be running") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refusing).await.unwrap();
    assert_eq!(until(&cluster, |node| node.name == "six").await.address, former);

    first.kill();
    until(&cluster, |node| node.name == "six" && node.address != former).await;
    assert_eq!(watched(job.watch(), drop).await.state(), JobState::Finished);
}
