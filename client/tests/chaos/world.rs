//! The processes of a cluster, each behind links that can break.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use framecrew::proto::{ListJobsRequest, orchestrator_client::OrchestratorClient};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::Mutex as Turn,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{
    disk::Disk,
    history::History,
    load::Ledger,
    process::{self, MARK, NODE, ORCHESTRATOR, Programs, Server},
    proxy::{Proxy, Weather, free_address},
    settings::Settings,
};

/// Links between clients and the orchestrator.
const CLIENT_LINKS: usize = 4;
/// How often processes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often an orchestrator that starts is asked whether it serves.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// How long a call may take before it counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than an orchestrator ever takes to serve, also on a machine that is busy.
const SERVE_TIMEOUT: Duration = Duration::from_secs(120);
/// The node's flag for what its synthetic renderer does wrong.
const FAULTS_FLAG: &str = "--synthetic-faults";
/// The orchestrator's flag for the file that it writes what it decides to.
const HISTORY_FLAG: &str = "--history";
/// Last lines of a log that are told when a process ended by itself.
const LOG_LINES: usize = 4;

/// What is counted when a frame kills a node.
pub(crate) const POISONED: &str = "nodes that the poisoned frame killed";

/// What draws on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Synthetic,
    Blender,
}

impl Kind {
    /// The tag by which jobs ask for it.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Synthetic => "synthetic",
            Self::Blender => "blender",
        }
    }
}

/// The orchestrator: its process, and what it keeps.
#[derive(Debug)]
pub(crate) struct Orchestrator {
    pub(crate) server: Mutex<Server>,
    pub(crate) address: SocketAddr,
    /// Where its blobs are.
    pub(crate) blobs: Disk,
    /// Where its database is. After `blobs`, which is mounted in it: dropped in this order.
    pub(crate) data: Disk,
    /// Whoever does something to it holds this.
    pub(crate) turn: Arc<Turn<()>>,
    /// When something was last done to it.
    pub(crate) disturbed_at: Mutex<Option<Instant>>,
    /// Whether what is done to it may make it end.
    pub(crate) may_end: AtomicBool,
    /// Shift of its wall clock in seconds, where that can be shifted.
    pub(crate) clock: Option<PathBuf>,
    /// Where it writes what it decides, if its program can.
    pub(crate) history: Option<PathBuf>,
}

/// A node's place: who has it may be replaced by another.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    listen: SocketAddr,
    /// From the node to the orchestrator.
    pub(crate) up: Proxy,
    /// From the orchestrator to the node.
    pub(crate) down: Proxy,
    life: Mutex<Life>,
    pub(crate) turn: Arc<Turn<()>>,
    pub(crate) may_end: AtomicBool,
    pub(crate) clock: Option<PathBuf>,
}

/// A node: its name, its process, its disk.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) server: Server,
    pub(crate) disk: Disk,
}

impl Node {
    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap()
    }

    /// Kills its process and starts it again with a renderer that does so much wrong; empty: nothing.
    pub(crate) fn restart_with(&self, wrong: &str) {
        let mut life = self.life();
        life.server.kill();
        let poison = format!("poison={}", crate::load::POISON);
        if let Some(at) = life.server.args.iter().position(|arg| arg == FAULTS_FLAG) {
            let all = [poison.as_str(), wrong].join(",");
            life.server.args[at + 1] = all.trim_end_matches(',').to_owned();
        }
        life.server.start();
    }

    /// Whether its renderer does what is wrong when it is asked to.
    pub(crate) fn can_do_wrong(&self) -> bool {
        self.life().server.args.iter().any(|arg| arg == FAULTS_FLAG)
    }

    pub(crate) fn set(&self, up: Weather, down: Weather) {
        self.up.set(up);
        self.down.set(down);
    }

    pub(crate) fn heal(&self) {
        self.set(Weather::default(), Weather::default());
    }
}

/// A cluster of processes, and what is known about it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) history: History,
    pub(crate) ledger: Ledger,
    pub(crate) orchestrator: Orchestrator,
    pub(crate) nodes: Vec<Arc<Node>>,
    /// From clients to the orchestrator.
    pub(crate) links: Vec<Proxy>,
    pub(crate) clients_turn: Arc<Turn<()>>,
    /// No new work any more.
    pub(crate) closing: CancellationToken,
    pub(crate) settings: Settings,
    pub(crate) programs: Programs,
    blender: Option<PathBuf>,
    mark: String,
    nodes_made: AtomicU64,
    /// Last: everything else lives in it.
    folder: tempfile::TempDir,
}

impl World {
    /// Starts a cluster. What happens in it is written to `history`.
    pub(crate) async fn start(settings: &Settings, history: &Path) -> Arc<Self> {
        let folder = tempfile::Builder::new().prefix("framecrew-chaos-").tempdir().unwrap();
        fs::create_dir(folder.path().join(TEMPORARY)).unwrap();
        let mark = uuid::Uuid::new_v4().to_string();
        let blender = if settings.blenders > 0 { crate::blender() } else { None };
        let shim = clock_shim(folder.path());
        let programs = Programs::copied_to(folder.path().join(PROGRAMS));
        let orchestrator = Orchestrator::new(folder.path(), &programs, &mark, shim.as_deref());
        let links = (0..CLIENT_LINKS).map(|_| Proxy::to(orchestrator.address)).collect();
        let mut world = Self {
            history: History::create(history),
            ledger: Ledger::default(),
            orchestrator,
            nodes: Vec::new(),
            links,
            clients_turn: Arc::default(),
            closing: CancellationToken::new(),
            settings: settings.clone(),
            programs,
            blender,
            mark,
            nodes_made: AtomicU64::new(0),
            folder,
        };
        let blenders = if world.blender.is_some() { settings.blenders } else { 0 };
        let kinds = std::iter::repeat_n(Kind::Synthetic, settings.synthetic);
        for kind in kinds.chain(std::iter::repeat_n(Kind::Blender, blenders)) {
            let node = world.node(kind, shim.as_deref());
            world.nodes.push(Arc::new(node));
        }
        world.orchestrator.server().start();
        world.serves().await;
        for node in &world.nodes {
            node.life().server.start();
        }
        let world = Arc::new(world);
        let looking = world.clone();
        tokio::spawn(async move { looking.look_after().await });
        world
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    fn node(&self, kind: Kind, shim: Option<&Path>) -> Node {
        let listen = free_address();
        let (up, down) = (Proxy::to(self.orchestrator.address), Proxy::to(listen));
        // Blender's walls do not let it read the shim.
        let shim = shim.filter(|_| kind == Kind::Synthetic);
        let clock = shim.map(|_| clock_file(self.folder(), &listen.port().to_string()));
        let life = self.life(kind, listen, (&up, &down), shim.zip(clock.as_deref()));
        let (turn, may_end) = (Arc::default(), AtomicBool::new(false));
        Node { kind, listen, up, down, life: Mutex::new(life), turn, may_end, clock }
    }

    /// A node that was never there before.
    fn life(
        &self,
        kind: Kind,
        listen: SocketAddr,
        (up, down): (&Proxy, &Proxy),
        clock: Option<(&Path, &Path)>,
    ) -> Life {
        let number = self.nodes_made.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", kind.tag());
        let disk = Disk::new(self.folder().join(&name));
        let path = disk.path().display().to_string();
        let mut args = vec!["--orchestrator".into(), up.url(), "--advertise".into(), down.url()];
        args.extend(["--listen".into(), listen.to_string(), "--name".into(), name.clone()]);
        args.extend(["--data".into(), path, "--tag".into(), kind.tag().into()]);
        match (kind, &self.blender) {
            (Kind::Blender, Some(blender)) => {
                args.extend(["--blender".into(), blender.display().to_string()]);
            }
            _ => {
                let time = format!("synthetic:{}ms", self.settings.frame.as_millis());
                args.extend(["--renderer".into(), time]);
                if self.programs.knows(NODE, FAULTS_FLAG) {
                    let poison = format!("poison={}", crate::load::POISON);
                    args.extend([FAULTS_FLAG.into(), poison]);
                }
            }
        }
        let log = self.folder().join(format!("{name}.log"));
        let environment = environment(&self.mark, self.folder(), clock);
        let server = Server::new(self.programs.path(NODE), args, environment, log);
        Life { name, server, disk }
    }

    /// Puts another node in the place of one that is gone for good, with its data.
    pub(crate) fn replace(&self, node: &Node) {
        let shim = node.clock.as_deref().map(|clock| (self.folder().join(SHIM), clock));
        let shim = shim.as_ref().map(|(shim, clock)| (shim.as_path(), *clock));
        let mut life = self.life(node.kind, node.listen, (&node.up, &node.down), shim);
        life.server.start();
        *node.life() = life;
    }

    /// Waits until the orchestrator serves, and gives back whether it does.
    pub(crate) async fn serves(&self) -> bool {
        let url = format!("http://{}", self.orchestrator.address);
        let begun = Instant::now();
        while begun.elapsed() < SERVE_TIMEOUT {
            let endpoint = Endpoint::from_shared(url.clone()).unwrap();
            if let Ok(channel) = endpoint.connect().await {
                let ask = ListJobsRequest { page_size: 1, ..ListJobsRequest::default() };
                let mut rpc = OrchestratorClient::new(channel);
                if let Ok(Ok(_)) = timeout(CALL_TIMEOUT, rpc.list_jobs(ask)).await {
                    return true;
                }
            }
            sleep(ASK_INTERVAL).await;
        }
        self.history.finding(format!("the orchestrator did not serve within {SERVE_TIMEOUT:?}"));
        false
    }

    /// A connection of a client's own, by one of the links.
    pub(crate) fn channel(&self, link: usize) -> Channel {
        channel(&self.links[link % self.links.len()].url())
    }

    /// A connection that nothing happens to.
    pub(crate) fn straight(&self) -> Channel {
        channel(&format!("http://{}", self.orchestrator.address))
    }

    /// Restarts what ended by itself, as a supervisor does, and tells of it.
    async fn look_after(&self) {
        while !self.closing.is_cancelled() || self.ledger.is_open() {
            self.look(
                "the orchestrator",
                &self.orchestrator.may_end,
                &mut self.orchestrator.server(),
            );
            for node in &self.nodes {
                let mut life = node.life();
                let name = life.name.clone();
                self.look(&name, &node.may_end, &mut life.server);
            }
            if let Some(bytes) = self.orchestrator.server().id().and_then(process::resident_bytes) {
                self.ledger.memory(bytes);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether a process ended as only the poisoned frame makes it end (a panic ends no process here): counted then.
    pub(crate) fn was_poisoned(&self, who: &str, status: ExitStatus, said: &str) -> bool {
        let was = status.signal() == Some(Signal::ABORT.as_raw()) && !said.contains("panicked");
        if was {
            self.history.tell("poisoned", &json!(who));
            self.history.count(POISONED);
        }
        was
    }

    fn look(&self, who: &str, may_end: &AtomicBool, server: &mut Server) {
        let Some(status) = server.ended() else { return };
        let said = last_lines(server.log());
        let what = format!("{who} ended by itself ({status}): {said}");
        if !self.was_poisoned(who, status, &said) {
            if may_end.load(Ordering::Relaxed) {
                self.history.tell("ended", &json!(what));
                self.history.count("processes that ended by themselves on a full disk");
            } else {
                self.history.finding(what);
            }
        }
        server.start();
    }
}

impl Orchestrator {
    fn new(folder: &Path, programs: &Programs, mark: &str, shim: Option<&Path>) -> Self {
        let address = free_address();
        let data = Disk::new(folder.join("orchestrator"));
        let blobs = Disk::new(data.path().join("blobs"));
        let mut args = vec!["--listen".into(), address.to_string()];
        args.extend(["--data".into(), data.path().display().to_string()]);
        let history = programs.knows(ORCHESTRATOR, HISTORY_FLAG);
        let history = history.then(|| folder.join("orchestrator.history"));
        if let Some(history) = &history {
            args.extend([HISTORY_FLAG.into(), history.display().to_string()]);
        }
        let clock = shim.map(|_| clock_file(folder, "orchestrator"));
        let environment = environment(mark, folder, shim.zip(clock.as_deref()));
        let log = folder.join("orchestrator.log");
        let server = Server::new(programs.path(ORCHESTRATOR), args, environment, log);
        let server = Mutex::new(server);
        let (turn, disturbed_at) = (Arc::default(), Mutex::default());
        let may_end = AtomicBool::new(false);
        Self { server, address, blobs, data, turn, disturbed_at, may_end, clock, history }
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    pub(crate) fn disturb(&self) {
        *self.disturbed_at.lock().unwrap() = Some(Instant::now());
    }
}

fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    let endpoint = endpoint.connect_timeout(CALL_TIMEOUT).tcp_nodelay(true);
    let endpoint =
        endpoint.http2_keep_alive_interval(CALL_TIMEOUT).keep_alive_timeout(CALL_TIMEOUT);
    endpoint.connect_lazy()
}

fn environment(
    mark: &str,
    folder: &Path,
    clock: Option<(&Path, &Path)>,
) -> Vec<(&'static str, OsString)> {
    let mut environment = vec![(MARK, mark.into()), ("TMPDIR", folder.join(TEMPORARY).into())];
    if let Some((shim, clock)) = clock {
        environment.push(("LD_PRELOAD", shim.into()));
        environment.push(("FRAMECREW_CHAOS_CLOCK", clock.into()));
    }
    environment
}

/// The servers' folder for temporary files, in the world's.
pub(crate) const TEMPORARY: &str = "tmp";
/// Their programs, in the world's folder too.
const PROGRAMS: &str = "programs";
const SHIM: &str = "clock.so";

/// What shifts a process's wall clock, where there is a C compiler to make it.
fn clock_shim(folder: &Path) -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let (source, shim) = (folder.join("clock.c"), folder.join(SHIM));
    fs::write(&source, include_str!("clock.c")).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&shim).arg(&source);
    cc.status().is_ok_and(|status| status.success()).then_some(shim)
}

fn clock_file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.clock"));
    fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
    path
}

pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}
