//! A whole cluster in one process: an orchestrator and its nodes, for `framecrew up`, `demo` and tests.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use framecrew_node::RendererChoice;
use framecrew_proto::v1::{Node, NodeState};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, error::Error};

/// How long the nodes may take to join: each asks its Blenders for their versions first.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// Time between two looks at who has joined.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long nodes may take to kill their renderers, and the orchestrator to finish its last commit.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Remembers a node's port, in its data folder.
const PORT_FILE: &str = "port";

/// What a local cluster consists of.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Nodes, 1 or more.
    pub nodes: usize,
    /// Folder for what the cluster remembers and works with; the same one continues where it was left.
    pub data: PathBuf,
    /// Where the orchestrator listens; port 0 takes a free one. The nodes listen on the loopback.
    pub listen: SocketAddr,
    /// What the nodes draw with.
    pub renderer: RendererChoice,
    /// Whether the nodes render jobs whose files run their own Python.
    pub allow_scripts: bool,
}

impl LocalConfig {
    /// A cluster on the loopback, on a free port.
    #[must_use]
    pub fn new(nodes: usize, data: impl Into<PathBuf>, renderer: RendererChoice) -> Self {
        Self {
            nodes,
            data: data.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            renderer,
            allow_scripts: false,
        }
    }
}

/// Why a local cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The orchestrator's port is taken.
    #[error(
        "{address} is in use: another orchestrator may be running there; stop it, or listen elsewhere with --listen"
    )]
    PortInUse {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the cluster ended by itself.
    #[error("the {part} stopped: {reason}")]
    Stopped {
        /// `orchestrator`, or the node's name.
        part: String,
        /// Why.
        reason: String,
    },
    /// Nodes did not join in time.
    #[error("only {joined} of {nodes} nodes have joined within {} s; `framecrew doctor` may know why", JOIN_WITHIN.as_secs())]
    NotJoined {
        /// Nodes that have.
        joined: usize,
        /// Nodes that should.
        nodes: usize,
    },
    /// The orchestrator does not answer.
    #[error(transparent)]
    Cluster(#[from] Error),
}

/// An orchestrator and its nodes, running in this process. Call [`shutdown`](Self::shutdown): a drop
/// only cuts it off, and may leave renderers behind until the process ends.
pub struct LocalCluster {
    url: String,
    cluster: Cluster,
    stop_nodes: CancellationToken,
    stop_orchestrator: CancellationToken,
    nodes: JoinSet<LocalError>,
    orchestrator: JoinSet<LocalError>,
}

impl fmt::Debug for LocalCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCluster").field("url", &self.url).finish_non_exhaustive()
    }
}

impl LocalCluster {
    /// Starts the orchestrator and the nodes; returns when all have joined.
    ///
    /// # Errors
    /// When the address is taken, a part does not start, or a node does not join.
    pub async fn start(config: LocalConfig) -> Result<Self, LocalError> {
        let listener = listen(config.listen).await?;
        let address = local_address(&listener, config.listen)?;
        let url = format!("http://{}", reachable(address));
        let stop_nodes = CancellationToken::new();
        let stop_orchestrator = CancellationToken::new();

        let mut orchestrator = JoinSet::new();
        let settings = framecrew_orchestrator::Config::new(config.data.join("orchestrator"));
        let stop = stop_orchestrator.clone().cancelled_owned();
        orchestrator.spawn(async move {
            stopped("orchestrator", framecrew_orchestrator::serve(listener, settings, stop).await)
        });

        let mut nodes = JoinSet::new();
        let mut addresses = Vec::new();
        for number in 1..=config.nodes {
            let name = format!("node-{number}");
            let data = config.data.join(&name);
            let (listener, address) = listen_again(&data.join(PORT_FILE)).await?;
            let address = format!("http://{address}");
            addresses.push(address.clone());
            let renderer = config.renderer.clone();
            let settings = framecrew_node::Config {
                advertise: Some(address),
                allow_scripts: config.allow_scripts,
                ..framecrew_node::Config::new(&name, &url, renderer, data)
            };
            let stop = stop_nodes.clone().cancelled_owned();
            nodes.spawn(async move {
                stopped(&name, framecrew_node::serve(listener, settings, stop).await)
            });
        }

        let joining = async {
            let cluster = Cluster::connect(url.as_str()).await?;
            all_joined(&cluster, &addresses).await?;
            Ok::<_, LocalError>(cluster)
        };
        let cluster = tokio::select! {
            cluster = joining => cluster?,
            why = first_end(&mut orchestrator, &mut nodes) => return Err(why),
        };
        Ok(Self { url, cluster, stop_nodes, stop_orchestrator, nodes, orchestrator })
    }

    /// Where its orchestrator is reached.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection to it.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Waits until a part of it stops by itself, which none should.
    pub async fn failed(&mut self) -> LocalError {
        first_end(&mut self.orchestrator, &mut self.nodes).await
    }

    /// Ends the nodes with their renderers, then the orchestrator. What was acknowledged stays in the data
    /// folder.
    pub async fn shutdown(mut self) {
        // The nodes go first: they say goodbye to the orchestrator.
        for (stop, tasks) in
            [(&self.stop_nodes, &mut self.nodes), (&self.stop_orchestrator, &mut self.orchestrator)]
        {
            stop.cancel();
            let all_ended = async { while tasks.join_next().await.is_some() {} };
            if tokio::time::timeout(STOP_WITHIN, all_ended).await.is_err() {
                tracing::warn!("a part of the local cluster did not stop in time and is cut off");
                tasks.shutdown().await;
            }
        }
    }
}

/// Makes sure that an orchestrator can listen at an address, before more is done for it.
///
/// # Errors
/// [`LocalError::PortInUse`] or [`LocalError::Listen`].
pub async fn check_address(address: SocketAddr) -> Result<(), LocalError> {
    listen(address).await.map(drop)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, LocalError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => LocalError::PortInUse { address },
        _ => LocalError::Listen { address, source },
    })
}

fn local_address(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, LocalError> {
    listener.local_addr().map_err(|source| LocalError::Listen { address: asked, source })
}

/// Where an address that stands for all of the machine's is reached from the machine itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Listens on the loopback where this node did in its last life, if it can. To the orchestrator a node that
/// comes back at its old address is the same one and may work at once; at another address it would have to
/// wait until the lease of its last life has run out.
async fn listen_again(port_file: &Path) -> Result<(TcpListener, SocketAddr), LocalError> {
    let last = tokio::fs::read_to_string(port_file).await.unwrap_or_default();
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = match listen(at(last.trim().parse().unwrap_or(0))).await {
        Ok(listener) => listener,
        Err(_) => listen(at(0)).await?,
    };
    let address = local_address(&listener, at(0))?;
    let remember = async {
        tokio::fs::create_dir_all(port_file.parent().unwrap_or(port_file)).await?;
        tokio::fs::write(port_file, address.port().to_string()).await
    };
    if let Err(error) = remember.await {
        // The node itself will say what is wrong with its folder.
        tracing::debug!(%error, "the port is not remembered");
    }
    Ok((listener, address))
}

async fn all_joined(cluster: &Cluster, addresses: &[String]) -> Result<(), LocalError> {
    let nodes = addresses.len();
    let mut joined = 0;
    let look = async {
        loop {
            // Those of an earlier life may still be listed.
            let is_ours = |node: &Node| {
                let live = matches!(
                    node.state(),
                    NodeState::Idle | NodeState::Rendering | NodeState::Paused
                );
                live && addresses.contains(&node.address)
            };
            joined = cluster.nodes().await?.iter().filter(|node| is_ours(node)).count();
            if joined >= nodes {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(JOIN_WITHIN, look)
        .await
        .unwrap_or(Err(LocalError::NotJoined { joined, nodes }))
}

fn stopped<E: fmt::Display>(part: &str, result: Result<(), E>) -> LocalError {
    LocalError::Stopped {
        part: part.into(),
        reason: result.map_or_else(|error| error.to_string(), |()| "it was asked to".into()),
    }
}

async fn first_end(
    orchestrator: &mut JoinSet<LocalError>,
    nodes: &mut JoinSet<LocalError>,
) -> LocalError {
    let ended = tokio::select! {
        Some(ended) = orchestrator.join_next() => ended,
        Some(ended) = nodes.join_next() => ended,
        else => std::future::pending().await,
    };
    ended.unwrap_or_else(|panic| stopped("cluster", Err::<(), _>(panic)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_cluster_that_listens_everywhere_is_reached_over_the_loopback() {
        let reach = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:4000"), "127.0.0.1:4000");
        assert_eq!(reach("[::]:4000"), "[::1]:4000");
        assert_eq!(reach("10.0.0.7:4000"), "10.0.0.7:4000");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let data = tempfile::tempdir().unwrap();
        let renderer = RendererChoice::Synthetic(Duration::ZERO);
        let config = LocalConfig { listen, ..LocalConfig::new(1, data.path(), renderer) };
        let error = LocalCluster::start(config).await.unwrap_err();
        assert!(matches!(error, LocalError::PortInUse { address } if address == listen));
        assert!(error.to_string().contains(&listen.to_string()));
    }
}
