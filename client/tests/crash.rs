//! Real processes, a real Blender in each node, and `kill -9`. Nothing that was acknowledged is lost, nothing is
//! drawn twice that need not be, and who watched through it all ends equal to one who joins afresh.
#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use framecrew::{
    Cluster, JobSpec, JobView, WatchEvent,
    proto::{ActiveSlice, FrameState, JobState},
};
use framecrew_node::blender::FoundBlender;
use futures::StreamExt as _;
use support::blenders;
use tokio::time::timeout;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");
const FRAMES: i32 = 24;
/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(300);

/// The folder of the servers' programs. Those of other packages are not built for this one's tests by themselves.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let ours = Path::new(env!("CARGO_BIN_EXE_framecrew"));
    let folder = ours.parent().unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--bins",
        "-p",
        "framecrew-orchestrator",
        "-p",
        "framecrew-node",
    ]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    folder
});

/// A server of the cluster as a process of its own. Dropping it kills it.
struct Server {
    command: Command,
    log: PathBuf,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    fn start(program: &str, args: &[&str], log: PathBuf) -> Self {
        let mut command = Command::new(PROGRAMS.join(program));
        command.args(args).env("FRAMECREW_LOG", "info,framecrew_node=debug").stdin(Stdio::null());
        let process = spawn(&mut command, &log);
        Self { command, log, process }
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = spawn(&mut self.command, &self.log);
    }
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// An orchestrator and three nodes with a real Blender each.
struct Crew {
    folder: tempfile::TempDir,
    url: String,
    orchestrator: Server,
    nodes: Vec<Server>,
}

impl Crew {
    fn start(blender: &FoundBlender) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let listen = free_address();
        let url = format!("http://{listen}");
        let data = path("orchestrator");
        let orchestrator = Server::start(
            "framecrew-orchestrator",
            &["--listen", &listen, "--data", &data],
            path("orchestrator.log").into(),
        );
        let nodes = ["a", "b", "c"].map(|name| {
            let (listen, data, log) = (free_address(), path(name), path(&format!("{name}.log")));
            let blender = blender.path.to_str().unwrap();
            let args = ["--orchestrator", &url, "--listen", &listen, "--name", name];
            let args = [&args[..], &["--data", &data, "--blender", blender]].concat();
            Server::start("framecrew-node", &args, log.into())
        });
        Self { folder, url, orchestrator, nodes: nodes.into() }
    }

    async fn cluster(&self) -> Cluster {
        let connected = async {
            loop {
                match Cluster::connect(self.url.as_str()).await {
                    Ok(cluster) => return cluster,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(PATIENCE, connected).await.unwrap()
    }

    /// How often each frame was drawn to its end, by what the nodes say.
    fn drawn(&self) -> BTreeMap<i32, u32> {
        let mut drawn = BTreeMap::new();
        for node in &self.nodes {
            for line in fs::read_to_string(&node.log).unwrap().lines() {
                let Some((_, rest)) = line.split_once("frame drawn frame=") else { continue };
                let number = rest.split_whitespace().next().unwrap().parse().unwrap();
                *drawn.entry(number).or_default() += 1;
            }
        }
        drawn
    }

    /// What the test does to a job while it is watched from its beginning to its end.
    async fn render(&mut self, meanwhile: impl Fn(&mut Self, &JobView)) -> JobView {
        let cluster = self.cluster().await;
        let spec = JobSpec::animation(DEMO).frames(1..=FRAMES).scale_percent(30).samples(4);
        let job = cluster.submit(spec).await.unwrap();
        let mut watch = job.watch();
        let mut view = JobView::default();
        let watching = async {
            while let Some(event) = watch.next().await {
                if let WatchEvent::Update(update) = event.unwrap() {
                    view.apply(&update);
                    meanwhile(self, &view);
                }
            }
        };
        timeout(PATIENCE, watching).await.unwrap();

        assert_eq!(view.state(), JobState::Finished);
        let all = [(1, FRAMES, FrameState::Finished)];
        assert_eq!(view.runs().collect::<Vec<_>>(), all);
        let mut afresh = JobView::default();
        let mut watch = self.cluster().await.watch(job.id());
        while let Some(event) = watch.next().await {
            if let WatchEvent::Update(update) = event.unwrap() {
                afresh.apply(&update);
            }
        }
        assert!(afresh.runs().eq(view.runs()), "who watched through it all ends equal");
        assert_eq!(afresh.counts(), view.counts());
        assert_eq!(afresh.revision(), view.revision());

        let out = self.folder.path().join("frames");
        self.cluster().await.fetch(job.id(), &out).await.unwrap();
        let mut pictures = std::collections::HashSet::new();
        for number in 1..=FRAMES {
            let picture = image::open(out.join(format!("framecrew-{number:04}.png"))).unwrap();
            assert_eq!(picture.width(), 144, "30 % of 480");
            pictures.insert(picture.into_bytes());
        }
        assert_eq!(pictures.len(), FRAMES as usize, "every frame differs");
        view
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_killed_in_mid_job_goes_on_and_nothing_is_drawn_twice() {
    let Some(blender) = blenders().pop() else { return };
    let mut crew = Crew::start(&blender);
    let killed = std::cell::Cell::new(false);
    let view = crew
        .render(|crew, view| {
            if view.counts().finished >= 5 && view.active().count() > 0 && !killed.replace(true) {
                crew.orchestrator.kill();
                crew.orchestrator.restart();
            }
        })
        .await;
    assert!(killed.get());
    assert_eq!(view.troubled().count(), 0, "no try failed");
    let drawn = crew.drawn();
    assert_eq!(drawn.len(), FRAMES as usize);
    assert!(drawn.values().all(|times| *times == 1), "each frame was drawn once: {drawn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_mid_frame_costs_at_most_one_more_render_a_slot() {
    let Some(blender) = blenders().pop() else { return };
    let mut crew = Crew::start(&blender);
    let killed = std::cell::Cell::new(None);
    let view = crew
        .render(|crew, view| {
            let at_work = |active: &&ActiveSlice| active.node == "b";
            let Some(active) = view.active().find(at_work) else { return };
            if view.counts().finished >= 5 && killed.get().is_none() {
                killed.set(active.slice.map(|slice| slice.frame));
                crew.nodes[1].kill();
                crew.nodes[1].restart();
            }
        })
        .await;
    assert!(killed.get().is_some());
    // The tries that failed, and what the killed node had drawn but not yet told.
    let tries: u32 = view.troubled().map(|frame| frame.failed_attempts).sum();
    assert!(tries <= 1, "one slot lost one frame: {:?}", view.troubled().collect::<Vec<_>>());
    let drawn = crew.drawn();
    assert_eq!(drawn.len(), FRAMES as usize);
    let times: u32 = drawn.values().sum();
    assert!(times <= FRAMES as u32 + 1, "at most one extra render: {drawn:?}");
}
