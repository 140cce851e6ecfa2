//! The Compose stack, used as a person would from outside: built, started, rendered on, hurt, and scaled.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use framecrew::{
    Cluster,
    proto::{JobState, Node, NodeState},
};
use futures::TryStreamExt as _;
use tokio::time::{sleep, timeout};

/// Frames of the demo scene.
const FRAMES: usize = 24;
/// How long anything but the build of the images may take. The lease of the lost node runs out in it.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A stack of its own name, on a port of its own; taken down, volumes and all, when dropped.
struct Stack {
    port: u16,
}

impl Stack {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let stack = Self { port };
        stack.compose(&["build"]);
        stack.compose(&["up", "--detach", "--wait"]);
        stack
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker
            .args(["compose", "--file", "deploy/compose.yaml", "--project-name", "framecrew-test"])
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
            .env("FRAMECREW_PORT", self.port.to_string())
            .stdin(Stdio::null());
        docker
    }

    fn compose(&self, arguments: &[&str]) {
        let status = self.command(arguments).status().expect("docker can be run");
        assert!(status.success(), "docker compose {}: {status}", arguments.join(" "));
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.command(&["ps", "--all"]).status();
            let _ = self.command(&["logs", "--tail", "100"]).status();
        }
        let _ = self.command(&["down", "--volumes", "--remove-orphans", "--timeout", "5"]).status();
    }
}

/// Waits until the cluster's live nodes are as wished, and returns them.
async fn nodes_that(cluster: &Cluster, wish: impl Fn(&[Node]) -> bool) -> Vec<Node> {
    let look = async {
        loop {
            let mut nodes = cluster.nodes().await.unwrap();
            nodes.retain(|node| matches!(node.state(), NodeState::Idle | NodeState::Rendering));
            if wish(&nodes) {
                return nodes;
            }
            sleep(LOOK_INTERVAL).await;
        }
    };
    timeout(TIMEOUT, look).await.expect("the nodes come to be as wished")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and builds two images; .ci/run runs it"]
async fn the_stack_renders_a_job_though_a_container_is_killed_and_scales_to_five_nodes() {
    let stack = Stack::start();
    let cluster = Cluster::connect(stack.url().as_str()).await.unwrap();
    let three = nodes_that(&cluster, |nodes| nodes.len() == 3).await;

    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    let mut render = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
        .args(["--cluster", &stack.url(), "render", "-o"])
        .arg(&frames)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.blend"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    nodes_that(&cluster, |nodes| nodes.iter().all(|node| node.finished_slices > 0)).await;
    // A container's node is called like its host, and that like the container.
    let killed = Command::new("docker")
        .args(["kill", &three[0].name])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(killed.success());
    let jobs = cluster.jobs(1).await.unwrap();
    assert_eq!(
        jobs[0].state(),
        JobState::Rendering,
        "a node was killed in mid-job: {:?}",
        jobs[0].counts
    );

    let status = timeout(TIMEOUT, render.wait()).await.expect("the job ends").unwrap();
    assert!(status.success(), "framecrew render: {status}");

    let pictures: BTreeSet<Vec<u8>> = fs::read_dir(&frames)
        .unwrap()
        .map(|entry| image::open(entry.unwrap().path()).unwrap().into_rgb8().into_raw())
        .collect();
    assert_eq!(
        pictures.len(),
        FRAMES,
        "every frame is there, decodes, and differs from every other"
    );
    let rendered: Vec<_> = cluster.frames(jobs[0].job_id).try_concat().await.unwrap();
    let workers: BTreeSet<_> = rendered.iter().map(|frame| &frame.node).collect();
    assert_eq!(
        workers,
        three.iter().map(|node| &node.name).collect(),
        "all three nodes have rendered"
    );

    stack.compose(&["up", "--detach", "--wait", "--no-recreate", "--scale", "node=5"]);
    nodes_that(&cluster, |nodes| nodes.len() == 5).await;
}
