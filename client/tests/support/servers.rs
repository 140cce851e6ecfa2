//! Servers as processes of their own: a whole cluster that a test can kill piece by piece.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::Duration,
};

use framecrew::{
    Cluster, JobView, Watch, WatchEvent,
    proto::{Frame, FrameState, watch_job_response::Update},
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{sleep, timeout};

/// Far longer than anything here takes, so that a slow machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The orchestrator's data folder, in the crew's.
pub const DATA: &str = "orchestrator";
/// How often what has no other way of telling is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The folder of the servers' programs.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| build(&[]));

/// Builds the servers' programs, which those of other packages are not by themselves for this one's tests, and
/// gives back their folder.
pub fn build(options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_framecrew")).parent().unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--bins", "-p", "framecrew-orchestrator"]);
    cargo.args(["-p", "framecrew-node"]).args(options);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    folder
}

/// The orchestrator's program, to be started with whatever a test adds to it.
pub fn orchestrator() -> Command {
    Command::new(PROGRAMS.join("framecrew-orchestrator"))
}

/// Path of the node's program, which `build` or `orchestrator` has built.
pub fn node() -> PathBuf {
    PROGRAMS.join("framecrew-node")
}

/// A server of the cluster. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    pub command: Command,
    pub log: PathBuf,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        command.env("FRAMECREW_LOG", "info,framecrew_node=debug").stdin(Stdio::null());
        let process = spawn(&mut command, &log);
        Self { command, log, process }
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.process = spawn(&mut self.command, &self.log);
    }

    /// As `kill` does: asks it to stop.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits until it has ended by itself, and tells how.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                match self.process.try_wait().unwrap() {
                    Some(status) => return status,
                    None => sleep(POLL).await,
                }
            }
        };
        timeout(PATIENCE, ended).await.unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// An orchestrator and its nodes.
#[derive(Debug)]
pub struct Crew {
    pub orchestrator: Server,
    pub nodes: Vec<Server>,
    pub url: String,
    /// Of the orchestrator.
    pub data: PathBuf,
    /// Last: everything else lives in it.
    pub folder: tempfile::TempDir,
}

impl Crew {
    /// Starts an orchestrator by `command`, and nodes with these names that draw as `drawing` says.
    pub fn start(command: Command, names: &[&str], drawing: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), command, names, drawing)
    }

    /// The same, in a folder that the test has made.
    pub fn start_in(
        folder: tempfile::TempDir,
        mut command: Command,
        names: &[&str],
        drawing: &[&str],
    ) -> Self {
        let path = |name: &str| folder.path().join(name);
        let listen = free_address();
        let url = format!("http://{listen}");
        let data = path(DATA);
        command.args(["--listen", &listen, "--data"]).arg(&data);
        let orchestrator = Server::start(command, path("orchestrator.log"));
        let start = |name: &&str| {
            let mut command = Command::new(node());
            command.args(["--orchestrator", &url, "--listen", &free_address(), "--name", name]);
            command.arg("--data").arg(path(name)).args(drawing);
            Server::start(command, path(&format!("{name}.log")))
        };
        let nodes = names.iter().map(start).collect();
        Self { orchestrator, nodes, url, data, folder }
    }

    pub async fn cluster(&self) -> Cluster {
        connect(&self.url).await
    }

    /// How often what a line of the nodes' logs tells of was told, by the fields that it names.
    pub fn told<const N: usize>(&self, line: &str, fields: [&str; N]) -> BTreeMap<[i64; N], u32> {
        let mut told = BTreeMap::new();
        for text in self.nodes.iter().map(Server::log) {
            for (_, rest) in text.lines().filter_map(|text| text.split_once(line)) {
                let value = |field: &str| {
                    let word =
                        |word: &str| word.strip_prefix(field)?.strip_prefix('=')?.parse().ok();
                    rest.split_whitespace().find_map(word).unwrap()
                };
                *told.entry(fields.map(value)).or_default() += 1;
            }
        }
        told
    }
}

/// Connects, as soon as there is an orchestrator.
pub async fn connect(url: &str) -> Cluster {
    let connected = async {
        loop {
            match Cluster::connect(url).await {
                Ok(cluster) => return cluster,
                Err(_) => sleep(POLL).await,
            }
        }
    };
    timeout(PATIENCE, connected).await.unwrap()
}

/// Returns a loopback address at which nothing is listening at the moment.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A frame as it was finished, once and for all: number, revision, and what was drawn.
pub type FinishedFrame = (i32, u64, String);

fn finished(frame: &Frame) -> Option<FinishedFrame> {
    let output = frame.outputs.first()?;
    (frame.state() == FrameState::Finished)
        .then(|| (frame.frame, frame.revision, output.digest.clone()))
}

/// Watches a job to its end, through whatever happens to the orchestrator; `told` hears of each frame that a
/// change finishes.
pub async fn watched(mut watch: Watch, mut told: impl FnMut(FinishedFrame)) -> JobView {
    let mut view = JobView::default();
    let watching = async {
        while let Some(event) = watch.next().await {
            let WatchEvent::Update(update) = event.unwrap() else { continue };
            assert!(update.revision >= view.revision(), "revisions only rise");
            if let Some(Update::Changes(changes)) = &update.update {
                changes.frames.iter().filter_map(finished).for_each(&mut told);
            }
            view.apply(&update);
        }
    };
    timeout(PATIENCE, watching).await.unwrap();
    view
}

/// The frames of a job that are finished.
pub async fn finished_frames(cluster: &Cluster, job: u64) -> Vec<FinishedFrame> {
    let pages: Vec<Vec<Frame>> = cluster.frames(job).try_collect().await.unwrap();
    pages.iter().flatten().filter_map(finished).collect()
}

/// That who watched through it all ends equal to one who joins afresh.
pub async fn assert_as_good_as_afresh(cluster: &Cluster, job: u64, view: &JobView) {
    let afresh = watched(cluster.watch(job), drop).await;
    assert!(afresh.runs().eq(view.runs()), "who watched through it all ends equal");
    // Without their previews: pictures come with what happens, not afterwards.
    let troubled = |view: &JobView| {
        let frames = view.troubled().cloned();
        frames.map(|frame| Frame { preview: None, ..frame }).collect::<Vec<_>>()
    };
    assert_eq!(troubled(&afresh), troubled(view));
    assert_eq!(afresh.counts(), view.counts());
    assert_eq!((afresh.state(), afresh.revision()), (view.state(), view.revision()));
}
