use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use framecrew::{
    Error,
    proto::{Node, NodeState},
};
use tokio::{
    process::Command,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tonic::transport::Uri;

use super::global::Global;
use crate::{
    console::{Exit, Failure, say, say_json, wants_color},
    doctor::{self, Blender, Check, Cluster, Facts, Library, Port, Verdict},
};

/// How long a program may take to say what it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the two clocks are compared.
const CLOCK_INTERVAL: Duration = Duration::from_millis(200);
/// Ports that are used unless others are named.
const PORTS: [(u16, &str); 2] = [(4000, "orchestrator"), (3000, "node")];

/// Check what this machine has for rendering, what is missing, the impact, and how to fix it
///
/// Exits with 1 when no frame can be rendered here.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Folder whose free space counts [default: where `framecrew up` keeps its data]
    #[arg(long, env = "FRAMECREW_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Doctor {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let data = self.data.map_or_else(default_data, Ok)?;
        let checks = doctor::checks(&examine(global, &data).await);
        for check in &checks {
            if global.json {
                say_json(check)?;
            } else {
                say(Shown { check, color: wants_color() && crate::console::can_draw() })?;
            }
        }
        Ok(if checks.iter().any(Check::blocks) { Exit::JobFailed } else { Exit::Success })
    }
}

#[cfg(feature = "local")]
fn default_data() -> Result<PathBuf, Failure> {
    crate::console::paths::data()
}

#[cfg(not(feature = "local"))]
fn default_data() -> Result<PathBuf, Failure> {
    Ok(PathBuf::from("."))
}

/// Looks at everything, all at once.
async fn examine(global: &Global, data: &Path) -> Facts {
    let (local, (cluster, nodes), clock, python, ffmpeg, docker, compose) = tokio::join!(
        spawn_blocking(local::examine),
        ask_cluster(global),
        compare_clocks(),
        find_python(),
        first_line("ffmpeg", &["-version"]),
        first_line("docker", &["version", "--format", "{{.Server.Version}}"]),
        first_line("docker", &["compose", "version", "--short"]),
    );
    let Examined { blenders, unsure, broken_module, likely_missing, walls } =
        local.unwrap_or_default();
    let ours = ours(&cluster, &nodes).await;
    let ports = PORTS.map(|(number, user)| Port {
        number,
        user,
        is_free: is_free(number),
        is_ours: ours.contains(&number),
    });
    Facts {
        blenders,
        unsure,
        broken_module,
        likely_missing,
        walls,
        python,
        ffmpeg,
        disk: free_bytes(data).map(|free| (data.to_owned(), free)),
        ports: ports.into(),
        docker,
        compose,
        clock: Some(clock),
        cluster,
    }
}

/// The Blenders of this machine; nothing in a build that cannot run one.
#[derive(Default)]
struct Examined {
    /// The Blenders that report their version.
    blenders: Option<Vec<Blender>>,
    /// Programs that may be Blenders but do not answer or do not run, each described in words.
    unsure: Vec<String>,
    /// Where there is none, one that is installed but does not load.
    broken_module: Option<Blender>,
    /// Where there is none either, what the one to be provisioned will lack.
    likely_missing: Option<Vec<Library>>,
    /// What walls renderers in, or why nothing does.
    walls: Option<Result<String, String>>,
}

#[cfg(feature = "local")]
mod local {
    use std::{fs, path::PathBuf};

    use framecrew_node::{
        Version,
        blender::{self, FoundBlender, Kind, MissingLibrary},
    };

    use tokio::runtime::Handle;

    use super::Examined;
    use crate::doctor::{Blender, Library};

    pub(super) fn examine() -> Examined {
        let cache = blender::default_cache();
        let blender::Search { found, unsure } = blender::search(&[], &cache);
        // Start each one as a node does: a Blender that reports its version may still not start for a job.
        let proofs = Handle::current().block_on(framecrew_node::prove(&found));
        let mut proofs = proofs.unwrap_or_default().into_iter();
        let broken_module = if found.is_empty() { broken_module(&cache) } else { None };
        let likely_missing = (found.is_empty() && broken_module.is_none())
            .then(|| libraries(blender::likely_missing_libraries()));
        let proved = |found| {
            let does_not_start = proofs.next().and_then(Result::err);
            Blender { does_not_start, ..describe(found) }
        };
        let blenders = Some(found.iter().map(proved).collect());
        let unsure = unsure.into_iter().map(|unsure| unsure.why).collect();
        let walls = Some(framecrew_node::walls());
        Examined { blenders, unsure, broken_module, likely_missing, walls }
    }

    fn broken_module(cache: &std::path::Path) -> Option<Blender> {
        let venvs = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
        let provisioned =
            venvs.map(|venv| venv.join("bin/python")).filter(|python| python.exists());
        let candidates = provisioned.chain(["python3".into(), "python3.11".into()]);
        let unknown = Version { major: 0, minor: 0, patch: 0 };
        let modules = candidates.map(|path: PathBuf| FoundBlender {
            version: unknown,
            kind: Kind::Module,
            path,
        });
        modules
            .map(|module| describe(&module))
            .find(|module| module.missing.iter().any(|lib| !lib.only_for_eevee))
    }

    fn describe(found: &FoundBlender) -> Blender {
        Blender {
            version: found.version.to_string(),
            path: found.path.clone(),
            does_not_start: None,
            missing: libraries(blender::missing_libraries(found)),
        }
    }

    fn libraries(missing: Vec<MissingLibrary>) -> Vec<Library> {
        let library = |library: MissingLibrary| Library {
            name: library.name,
            package: library.package,
            only_for_eevee: library.only_for_eevee,
        };
        missing.into_iter().map(library).collect()
    }
}

#[cfg(not(feature = "local"))]
mod local {
    use super::Examined;

    /// Nothing here can run a Blender.
    pub(super) fn examine() -> Examined {
        LocalSession::default()
    }
}

/// Asks the cluster; gives its live nodes too.
async fn ask_cluster(global: &Global) -> (Cluster, Vec<Node>) {
    let url = global.cluster.clone();
    let nodes = match framecrew::Cluster::connect(url.as_str()).await {
        Ok(cluster) => cluster.nodes().await,
        Err(error) => Err(error),
    };
    let live = |state| matches!(state, NodeState::Idle | NodeState::Rendering | NodeState::Paused);
    let nodes =
        nodes.map(|nodes| nodes.into_iter().filter(|node| live(node.state())).collect::<Vec<_>>());
    let seen_at_ms = nodes.iter().flatten().map(|node| node.seen_at_ms).max();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clock_ahead_ms =
        seen_at_ms.zip(i64::try_from(now.as_millis()).ok()).map(|(seen, now)| seen - now);
    let (nodes, count) = match nodes {
        Ok(nodes) => {
            let count = nodes.len();
            (nodes, Ok(count))
        }
        Err(Error::Unreachable { url, reason }) => {
            (Vec::new(), Err(format!("nothing answers at {url} ({reason})")))
        }
        Err(error) => (Vec::new(), Err(error.to_string())),
    };
    (Cluster { url, nodes: Some(count), clock_ahead_ms }, nodes)
}

/// Ports of this machine at which the cluster and its nodes are reached.
async fn ours(cluster: &Cluster, nodes: &[Node]) -> Vec<u16> {
    if !matches!(cluster.nodes, Some(Ok(_))) {
        return Vec::new();
    }
    let orchestrator = here(&cluster.url).await;
    let mut ports: Vec<u16> = orchestrator.iter().map(SocketAddr::port).collect();
    for node in nodes {
        let at = here(&node.address).await;
        // The loopback that a node names is that of the orchestrator's machine.
        let at = at.filter(|at| !at.ip().is_loopback() || orchestrator.is_some());
        ports.extend(at.map(|at| at.port()));
    }
    ports
}

/// Where a URL leads to, if that is this machine.
async fn here(url: &str) -> Option<SocketAddr> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let lookup = tokio::net::lookup_host((host, uri.port_u16()?));
    let mut found = timeout(ANSWER_TIMEOUT, lookup).await.ok()?.ok()?;
    // Only an address of one's own can be bound.
    found.find(|at| UdpSocket::bind((at.ip(), 0)).is_ok())
}

/// The wall clock, and how far it and the monotonic one part within a moment.
async fn compare_clocks() -> (SystemTime, Duration) {
    let (wall, steady) = (SystemTime::now(), Instant::now());
    tokio::time::sleep(CLOCK_INTERVAL).await;
    let now = SystemTime::now();
    let walked = now.duration_since(wall).unwrap_or_default();
    (now, walked.abs_diff(steady.elapsed()))
}

async fn find_python() -> Option<PathBuf> {
    // As what installs Blender's module needs it: Debian splits venv's ensurepip off.
    const ASK: &str = "\
import sys, venv, importlib.util as util
fits = sys.implementation.name == 'cpython' and sys.version_info[:2] == (3, 11)
pip = any(util.find_spec(name) for name in ('pip', 'ensurepip'))
print(sys.executable) if fits and pip else sys.exit(1)";
    for name in ["python3.11", "python3", "python"] {
        if let Some(path) = first_line(name, &["-c", ASK]).await {
            return Some(path.into());
        }
    }
    None
}

/// First line that a program writes, if it is there and ends well.
async fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = timeout(ANSWER_TIMEOUT, command.output()).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().next().filter(|_| output.status.success())?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Whether a server could listen on a port of the loopback.
fn is_free(port: u16) -> bool {
    !matches!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)), Err(error) if error.kind() == io::ErrorKind::AddrInUse)
}

/// Bytes free where a folder is, or would be made.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let folder = std::path::absolute(folder).ok()?;
        let nearest = folder.ancestors().find(|ancestor| ancestor.exists())?;
        let disk = rustix::fs::statvfs(nearest).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// A check as people read it.
struct Shown<'a> {
    check: &'a Check,
    color: bool,
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Check { name, verdict, detail } = self.check;
        let (mark, color) = match verdict {
            Verdict::Ok => ("ok     ", 32),
            Verdict::Missing { blocks: true, .. } => ("BLOCKS ", 31),
            Verdict::Missing { .. } => ("missing", 33),
            Verdict::Unknown => ("unknown", 90),
        };
        match self.color {
            true => write!(f, "\x1b[{color}m{mark}\x1b[0m  {name}: {detail}")?,
            false => write!(f, "{mark}  {name}: {detail}")?,
        }
        if let Verdict::Missing { impact, fix, .. } = verdict {
            write!(f, "\n         impact  {impact}\n         fix     {fix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(url: &str) -> Cluster {
        Cluster { url: url.into(), nodes: Some(Ok(1)), clock_ahead_ms: None }
    }

    fn node(address: &str) -> Node {
        Node { address: address.into(), ..Node::default() }
    }

    #[tokio::test]
    async fn a_cluster_on_this_machine_and_its_nodes_explain_their_ports() {
        let nodes = [node("http://127.0.0.1:3000"), node("http://192.0.2.1:3001")];
        assert_eq!(ours(&cluster("http://127.0.0.1:4000"), &nodes).await, [4000, 3000]);
    }

    #[tokio::test]
    async fn a_cluster_elsewhere_explains_no_port_of_this_machine() {
        let nodes = [node("http://127.0.0.1:3000")];
        assert!(ours(&cluster("http://192.0.2.1:4000"), &nodes).await.is_empty());
        let away = Cluster { nodes: Some(Err("away".into())), ..cluster("http://127.0.0.1:4000") };
        assert!(ours(&away, &[]).await.is_empty());
    }
}
