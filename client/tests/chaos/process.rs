//! Servers as processes of their own, and what the process table says of them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// Environment variable that every process of a world bears, those that a server starts included.
pub(crate) const MARK: &str = "FRAMECREW_CHAOS_WORLD";
/// What the servers tell in their logs: also each frame that is begun.
const LOG: &str = "info,framecrew_node=debug";
/// How long a server may take to end when it is asked to: a node ends the frames that it has begun.
const TERM_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

/// The programs of the servers.
pub(crate) const ORCHESTRATOR: &str = "framecrew-orchestrator";
pub(crate) const NODE: &str = "framecrew-node";

/// A folder with the servers' programs.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

impl Programs {
    /// Copies them to a new folder: who builds them next may do so with other features, and a server that is
    /// started again has to be the one that it was.
    pub(crate) fn copied_to(folder: PathBuf) -> Self {
        let built = built();
        fs::create_dir(&folder).unwrap();
        for program in [ORCHESTRATOR, NODE] {
            fs::copy(built.join(program), folder.join(program)).unwrap();
        }
        Self(folder)
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    /// Whether a program knows a flag: some are there only when it was built with a feature.
    pub(crate) fn knows(&self, program: &str, flag: &str) -> bool {
        let help = Command::new(self.path(program)).arg("--help").output().unwrap();
        String::from_utf8_lossy(&help.stdout).contains(flag)
    }
}

const READY_MADE: &str = "FRAMECREW_CHAOS_PROGRAMS";

/// Whether somebody else has built them, with whatever features.
pub(crate) fn are_ready_made() -> bool {
    std::env::var_os(READY_MADE).is_some()
}

/// Where they are: `FRAMECREW_CHAOS_PROGRAMS`, or where the tests are built. Those of other packages are not built
/// for this one's tests by themselves.
fn built() -> PathBuf {
    if let Some(folder) = std::env::var_os(READY_MADE) {
        return folder.into();
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_framecrew")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--bins", "-p", ORCHESTRATOR, "-p", NODE]);
    cargo.args(["--features", "framecrew-orchestrator/history"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    folder.into()
}

/// A server as a process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    pub(crate) args: Vec<String>,
    env: Vec<(&'static str, OsString)>,
    log: PathBuf,
    process: Option<Child>,
    pub(crate) started: Instant,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(crate) fn new(
        program: PathBuf,
        args: Vec<String>,
        env: Vec<(&'static str, OsString)>,
        log: PathBuf,
    ) -> Self {
        Self { program, args, env, log, process: None, started: Instant::now() }
    }

    pub(crate) fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned()).env("FRAMECREW_LOG", LOG);
        // A group of its own: Ctrl-C ends the harness first, which ends them.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.started = Instant::now();
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Lets go of the process, which is then none of a supervisor's business.
    pub(crate) fn release(&mut self) -> Option<Child> {
        self.process.take()
    }

    /// How it ended, if it did so by itself; it is not running then.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    pub(crate) fn signal(&self, what: Signal) {
        if let Some(id) = self.id() {
            signal(id, what);
        }
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

/// Asks a process to end, and waits until it has. `None`: it did not, and was killed; or there was none.
pub(crate) async fn terminate(process: Option<Child>) -> Option<ExitStatus> {
    let mut process = process?;
    signal(process.id(), Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < TERM_TIMEOUT {
        if let Some(status) = process.try_wait().unwrap() {
            return Some(status);
        }
        sleep(POLL).await;
    }
    let _ = process.kill();
    let _ = process.wait();
    None
}

/// Sends a signal to a process that may be gone.
pub(crate) fn signal(id: u32, what: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(id, what);
    }
}

/// A line of the process table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    parent: u32,
    pub(crate) command: String,
    marked: String,
    folder: PathBuf,
}

/// The process table, without those that are dead and not yet waited for.
fn table() -> Vec<Entry> {
    let mut table = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
        let at = entry.path();
        // It may end while it is looked at.
        let Ok(stat) = fs::read_to_string(at.join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next(), fields.next().and_then(|id| id.parse().ok()));
        if matches!(state, Some("Z" | "X")) {
            continue;
        }
        let text = |name: &str| {
            let bytes = fs::read(at.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let environment = text("environ");
        let marked =
            environment.split('\0').find_map(|line| line.strip_prefix(MARK)?.strip_prefix('='));
        table.push(Entry {
            id,
            parent: parent.unwrap_or_default(),
            command: text("cmdline").replace('\0', " "),
            marked: marked.unwrap_or_default().to_owned(),
            folder: fs::read_link(at.join("cwd")).unwrap_or_default(),
        });
    }
    table
}

/// Processes that a process has started, and those that they have started.
pub(crate) fn descendants(id: u32) -> Vec<Entry> {
    let table = table();
    let mut children: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
    for entry in &table {
        children.entry(entry.parent).or_default().push(entry);
    }
    let (mut found, mut next) = (Vec::new(), vec![id]);
    while let Some(id) = next.pop() {
        for child in children.get(&id).into_iter().flatten() {
            found.push((*child).clone());
            next.push(child.id);
        }
    }
    found
}

/// Processes that belong to a world: by the mark they inherited, or because they work in its folder.
pub(crate) fn belonging_to(mark: &str, folder: &Path) -> Vec<Entry> {
    let ours = std::process::id();
    let path = folder.to_string_lossy();
    let belongs = |entry: &Entry| {
        entry.id != ours
            && (entry.marked == mark
                || entry.folder.starts_with(folder)
                || entry.command.contains(&*path))
    };
    table().into_iter().filter(belongs).collect()
}

/// Bytes of memory that a process holds now.
pub(crate) fn resident_bytes(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
