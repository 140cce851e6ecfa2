//! Puts a node together and runs it until it is told to stop.

use std::{
    fs, future, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use framecrew_blobs::BlobClient;
use framecrew_proto::v1::{NodeDescription, render_node_server::RenderNodeServer};
use sysinfo::System;
use tokio::{
    net::{self, TcpListener},
    sync::mpsc,
    task::{self, AbortHandle, JoinError, JoinHandle},
    time,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    server::NamedService as _,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tracing::{info, warn};

use crate::{
    adoption,
    blender::{Fetcher, Search},
    config::Config,
    confine::{self, Confine, Workplace},
    data::{DataError, DataFolder, incarnation},
    goodbye::Goodbye,
    membership::{self, Expelled, Reach},
    movie::Ffmpeg,
    node::{Command, FREE_BYTES_MIN, Node, Parts},
    outbox::Outbox,
    owner::Owner,
    project::{LAYOUTS, Projects},
    renderer::Slots,
    service::Service,
    uploads::Uploads,
};

/// Slices a node renders at a time, at most.
const SLOTS_MAX: u32 = 64;

/// Characters of a node's name, at most.
const NAME_CHARS_MAX: usize = 100;

/// Bytes of an outbox, at least: with less no frame fits in.
const OUTBOX_BYTES_MIN: u64 = 1 << 20;

/// Bytes of one request: a project of 100,000 files with paths of usual length takes 20 MB, with the longest
/// ones 120.
const REQUEST_BYTES_MAX: usize = 128 << 20;

/// When a peer that answers no ping counts as gone: well below a lease.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting to the orchestrator may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long open streams may hold up the end of the process after everything else is over.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a node waits for its Blenders to start before it announces those that have. A start usually takes a
/// second, and a slow one must not keep the others from working.
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);

/// How often Blenders without work are looked at.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Why a node could not run, or stopped on its own.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used: {error}; name another one with --data", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// The operating system's error. It is not a `source`, because the message already contains it.
        error: io::Error,
    },
    /// Another node uses the data folder.
    #[error(
        "another node uses the data folder {}; stop it, or choose another folder with --data (another --name of \
         framecrew-node has a folder of its own, too)",
        path.display()
    )]
    DataInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The orchestrator does not want this node.
    #[error(transparent)]
    Expelled(#[from] Expelled),
    /// The server failed.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The server ended though nobody had told it to.
    #[error("the server ended on its own: {0}")]
    ServerEnded(String),
    /// The task that owns the node's state failed.
    #[error("internal error; restart the node, which keeps its finished frames: {0}")]
    OwnerEnded(String),
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Listener(io::Error),
    /// Reflection could not be set up.
    #[error("reflection failed: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves RenderNode on `listener` and works for the orchestrator until `shutdown` completes; then kills the
/// renderers, deregisters and returns.
///
/// # Errors
/// When the configuration or the data folder cannot be used, the orchestrator expels the node, or the server
/// fails.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let none_more = future::ready(Ok(Search::default()));
    serve_until(listener, config, |_| none_more, future::pending(), shutdown).await
}

/// Does the same, and adds the Blenders that `find` finds. Finding them takes seconds, and the node registers
/// meanwhile, so that the cluster knows that its earlier incarnation is over. `find` gets a folder for temporary
/// files. When `leave` completes, the node accepts no more work, hands back the slices that have not begun, and
/// leaves when those in progress are done, or when `config.drain` has passed.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until<F: Future<Output = Result<Search, String>> + Send + 'static>(
    listener: TcpListener,
    config: Config,
    find: impl FnOnce(PathBuf) -> F,
    leave: impl Future<Output = ()> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    check(&config)?;
    let local = listener.local_addr().map_err(ServeError::Listener)?;
    check_reach(local, &config).await?;
    let channel = channel(&config.orchestrator)?;
    let unusable = |error: io::Error| data_error(&config.data, error.into());
    let data = DataFolder::open(&config.data).await;
    let data = data.map_err(|error| data_error(&config.data, error))?;
    let confined = check_walls(&config)?;
    // Removed when the search ends, also if the node is told to stop before.
    let asked = tempfile::Builder::new().prefix("asked").tempdir_in(&data.work);
    let asked = asked.map_err(unusable)?;
    let found = find(asked.path().to_owned());
    let found = async move {
        let found = found.await;
        drop(asked);
        found
    };
    let (node, commands) = assemble(&config, &data, channel.clone(), confined).await?;
    let node = Arc::new(node);
    let (owner, offers) = Owner::new(node.clone(), commands);
    let reach = Reach {
        address: config.advertise.unwrap_or_default(),
        port: local.port(),
        orchestrator: config.orchestrator.clone(),
    };
    info!(name = %node.name, %local, orchestrator = config.orchestrator, "node started");

    let mut equipping = std::pin::pin!(equip(node.clone(), found, config.ffmpeg, confined));
    let streams_end = CancellationToken::new();
    let mut server = tokio::spawn(server(node.clone(), listener, streams_end.clone())?);
    let mut owner = tokio::spawn(owner.run());
    let handing_in = tokio::spawn(adoption::hand_in(node.clone(), channel.clone(), offers));
    // No task of ours outlives this function, however it ends.
    let _tasks = [
        AbortOnDrop(server.abort_handle()),
        AbortOnDrop(owner.abort_handle()),
        AbortOnDrop(tokio::spawn(retire_idle(node.clone())).abort_handle()),
        AbortOnDrop(handing_in.abort_handle()),
    ];
    let membership = membership::keep(node.clone(), channel.clone(), reach);
    let leaving = async {
        leave.await;
        let seconds = config.drain.as_secs();
        info!("leaving: finishing the frames in progress, for at most {seconds} seconds");
        node.drain(config.drain).await;
    };
    let end = tokio::select! {
        Err(lacks) = &mut equipping => Err(lacks),
        expelled = membership => Err(expelled.into()),
        // A node that nobody can reach must not go on as if it were one.
        served = &mut server => Err(ended_early(served)),
        // Only a bug ends it: nothing could be decided any more.
        Err(panic) = &mut owner => Err(ServeError::OwnerEnded(panic.to_string())),
        () = leaving => Ok(()),
        () = shutdown => Ok(()),
    };

    info!("stopping");
    node.stop().await;
    if !matches!(end, Err(ServeError::Expelled(_))) {
        membership::leave(&node, channel).await;
    }
    if server.is_finished() {
        return end;
    }
    streams_end.cancel();
    close(server).await.and(end)
}

fn data_error(path: &Path, error: DataError) -> ServeError {
    let path = path.to_owned();
    match error {
        DataError::Unusable(error) => ServeError::Data { path, error },
        DataError::InUse => ServeError::DataInUse { path },
    }
}

/// Puts a node together over its data folder.
async fn assemble(
    config: &Config,
    data: &DataFolder,
    channel: Channel,
    confined: bool,
) -> Result<(Node, mpsc::Receiver<Command>), ServeError> {
    let unusable = |error: io::Error| data_error(&config.data, error.into());
    let (root, work) = (data.root.clone(), data.work.clone());
    let workplace = Workplace { work: work.clone(), layouts: root.join(LAYOUTS), confined };
    // The walls only include existing folders, and a Blender may start before its first project arrives.
    fs::create_dir_all(&workplace.layouts).map_err(unusable)?;
    let fetcher = fetcher(config.provision.clone()).await;
    let (renderer, faults) = (config.renderer.clone(), config.faults.clone());
    let slots = Slots::new(renderer, faults, fetcher, config.slots, workplace);
    let blobs = BlobClient::new(channel);
    let incarnation = incarnation(&root, SystemTime::now());
    let goodbye = Goodbye::read(&root).map_err(unusable)?;
    let outbox = Outbox::open(root.join("outbox"), incarnation, config.outbox_bytes);
    Ok(Node::new(Parts {
        incarnation,
        description: NodeDescription {
            tags: config.tags.clone(),
            allows_scripts: config.allow_scripts,
            confines: confined,
            ..describe(config.slots)
        },
        name: config.name.clone(),
        slots,
        projects: Projects::new(root, blobs.clone(), config.cache_bytes),
        outbox: outbox.map_err(unusable)?,
        uploads: Uploads::new(blobs),
        goodbye,
        work,
        free_bytes_min: FREE_BYTES_MIN,
    }))
}

/// Gives a node the Blenders that are `found` and an ffmpeg. Then keeps proving its Blenders, and ends only with an
/// error.
async fn equip(
    node: Arc<Node>,
    found: impl Future<Output = Result<Search, String>>,
    given_ffmpeg: Option<PathBuf>,
    confined: bool,
) -> Result<(), ServeError> {
    let proved = async {
        node.slots.add(found.await.map_err(ServeError::Config)?);
        // A slower Blender is announced once it has started.
        let _ = time::timeout(PROOF_TIMEOUT, node.slots.prove()).await;
        Ok::<_, ServeError>(())
    };
    let (proved, ffmpeg) = tokio::join!(proved, ffmpeg(given_ffmpeg, confined));
    proved?;
    node.equip(ffmpeg?).await;
    node.slots.keep_proving().await;
    Ok(())
}

/// Waits for the server to end, which open streams may hold up.
async fn close(
    mut server: JoinHandle<Result<(), tonic::transport::Error>>,
) -> Result<(), ServeError> {
    match time::timeout(SHUTDOWN_TIMEOUT, &mut server).await {
        Ok(Ok(served)) => served?,
        Ok(Err(panic)) => warn!(%panic, "the server ended badly"),
        Err(_) => {
            server.abort();
            warn!("closed streams that nobody read");
        }
    }
    Ok(())
}

fn ended_early(served: Result<Result<(), tonic::transport::Error>, JoinError>) -> ServeError {
    match served {
        Ok(Ok(())) => ServeError::ServerEnded("its listener has closed".into()),
        Ok(Err(error)) => error.into(),
        Err(panic) => ServeError::ServerEnded(panic.to_string()),
    }
}

fn server(
    node: Arc<Node>,
    listener: TcpListener,
    end: CancellationToken,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send, ServeError> {
    let descriptors = [
        framecrew_proto::DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_types::pb::FILE_DESCRIPTOR_SET,
    ];
    let reflection = || {
        descriptors
            .into_iter()
            .fold(tonic_reflection::server::Builder::configure(), |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            })
    };
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = RenderNodeServer::new(Service::new(node.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(health_service)
        .add_service(service);
    Ok(async move {
        let name = RenderNodeServer::<Service>::NAME;
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        // Whoever asks while we stop must hear it before the port closes.
        let goodbye = async move {
            node.stopping.cancelled().await;
            for name in ["", name] {
                let status = tonic_health::ServingStatus::NotServing;
                health.set_service_status(name, status).await;
            }
            end.cancelled().await;
        };
        // The server's own setting does not reach sockets that it did not open.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming_shutdown(incoming, goodbye).await
    })
}

async fn retire_idle(node: Arc<Node>) {
    loop {
        time::sleep(IDLE_CHECK_INTERVAL).await;
        node.slots.kill_long_idle();
    }
}

fn check(config: &Config) -> Result<(), ServeError> {
    let wrong = |text: String| Err(ServeError::Config(text));
    if !(1..=SLOTS_MAX).contains(&config.slots) {
        return wrong(format!("{} slots: a node has 1 to {SLOTS_MAX}", config.slots));
    }
    if !(1..=NAME_CHARS_MAX).contains(&config.name.chars().count()) {
        return wrong(format!("the node's name must have 1 to {NAME_CHARS_MAX} characters"));
    }
    if config.outbox_bytes < OUTBOX_BYTES_MIN {
        return wrong(format!("an outbox must have {OUTBOX_BYTES_MIN} bytes or more"));
    }
    if config.has_idle_faults() {
        return wrong("--synthetic-faults goes with --renderer synthetic:TIME only".into());
    }
    if let Some(address) = &config.advertise {
        endpoint(address)?;
    }
    Ok(())
}

/// Refuses an address that only this machine reaches, where the orchestrator is on another one: it would
/// register, get work, and never be reached.
async fn check_reach(local: SocketAddr, config: &Config) -> Result<(), ServeError> {
    if config.advertise.is_some() || !local.ip().is_loopback() {
        return Ok(());
    }
    let url = &config.orchestrator;
    let endpoint = endpoint(url)?;
    let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    // A machine's own name may stand for a loopback address.
    let mut here = net::lookup_host((host, 0)).await.into_iter().flatten();
    if here.any(|address| address.ip().to_canonical().is_loopback()) {
        return Ok(());
    }
    let port = local.port();
    Err(ServeError::Config(format!(
        "this node listens on {} only, where {url} cannot reach it: start it with --listen 0.0.0.0:{port} or --advertise URL",
        local.ip()
    )))
}

fn endpoint(url: &str) -> Result<Endpoint, ServeError> {
    let wrong = || {
        ServeError::Config(format!(
            "{url:?} is not an address; it must look like http://10.0.0.1:4000"
        ))
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
    let uri = endpoint.uri();
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(endpoint),
        _ => Err(wrong()),
    }
}

fn channel(url: &str) -> Result<Channel, ServeError> {
    let endpoint = endpoint(url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// Whether renderers are confined; says so.
fn check_walls(config: &Config) -> Result<bool, ServeError> {
    if config.confine == Confine::Off {
        warn!(
            "Blender is not sandboxed on this machine: a .blend can make it write anywhere this user can"
        );
        return Ok(false);
    }
    match confine::probe() {
        Ok(walls) => {
            info!(%walls, "what renders is confined to its own folder");
            Ok(true)
        }
        Err(why) if config.confine == Confine::Require => Err(ServeError::Config(format!(
            "what renders cannot be confined here, as --confine require wants: {why}"
        ))),
        Err(why) => {
            warn!(%why, "Blender is not sandboxed on this machine: a .blend can make it write anywhere this user can");
            Ok(false)
        }
    }
}

/// What gets Blenders that jobs need into `cache`.
async fn fetcher(cache: Option<PathBuf>) -> Option<Fetcher> {
    let cache = cache?;
    task::spawn_blocking(move || Fetcher::new(cache)).await.ok()
}

/// What makes movies. One that was given must work.
async fn ffmpeg(given: Option<PathBuf>, confined: bool) -> Result<Option<Ffmpeg>, ServeError> {
    let is_given = given.is_some();
    let found = task::spawn_blocking(move || Ffmpeg::find(given.as_deref(), confined)).await;
    match found {
        Ok(Ok(ffmpeg)) => Ok(Some(ffmpeg)),
        Ok(Err(why)) if is_given => {
            Err(ServeError::Config(format!("the ffmpeg of --ffmpeg cannot be used: {why}")))
        }
        Ok(Err(why)) => {
            info!(%why, "this node makes no movies: it has no ffmpeg that can");
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

fn describe(slots: u32) -> NodeDescription {
    let mut system = System::new();
    system.refresh_memory();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeDescription {
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: system.total_memory(),
        slots,
        version: env!("CARGO_PKG_VERSION").into(),
        ..NodeDescription::default()
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
