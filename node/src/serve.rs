//! Puts a node together and runs it until it is told to stop.

use std::{
    fs, future,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use framecrew_blobs::BlobClient;
use framecrew_proto::v1::{NodeDescription, render_node_server::RenderNodeServer};
use sysinfo::System;
use tokio::{
    net::{self, TcpListener},
    task::{self, AbortHandle, JoinError},
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
    goodbye::Goodbye,
    membership::{self, Expelled, Reach},
    movie::Ffmpeg,
    node::{FREE_BYTES_MIN, Node, Parts},
    outbox::Outbox,
    owner::Owner,
    platform,
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
/// renderers, says goodbye and returns.
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

/// The same; and what `find` finds comes to the Blenders of `config`: looking for them takes seconds, in which the
/// cluster knows already that an earlier life of this node is over. `find` gets a folder for what is asked to
/// put its temporary files in. And when `leave` completes, takes no work any more, hands back what has not begun,
/// and leaves as soon as what is being drawn is done, or `config.drain` has passed.
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
    let data = |error| ServeError::Data { path: config.data.clone(), error };
    fs::create_dir_all(&config.data).map_err(data)?;
    let _lock = lock(&config)?;
    // Blender runs in a folder of its own: what it is given must not depend on where we are.
    let root = fs::canonicalize(&config.data).map_err(data)?;
    let work = root.join("work");
    // What an earlier life left half-drawn, and who draws it. Only with the lock is it nobody's.
    let left = platform::end_all_in(&work).await;
    if left > 0 {
        warn!(left, "ended processes that an earlier life of this node had left behind");
    }
    // Once more: what one of them was still writing may have come in between.
    clear(&work).or_else(|_| clear(&work)).map_err(data)?;

    let confined = check_walls(&config)?;
    let workplace = Workplace { work: work.clone(), layouts: root.join(LAYOUTS), confined };
    // The walls only include existing folders, and a Blender may start before its first project arrives.
    fs::create_dir_all(&workplace.layouts).map_err(data)?;
    let fetcher = fetcher(config.provision).await;
    // Gone with whoever asks, also if that is told to end before there are answers.
    let asked = tempfile::Builder::new().prefix("asked").tempdir_in(&work).map_err(data)?;
    let found = find(asked.path().to_owned());
    let slots = Slots::new(config.renderer, config.faults, fetcher, config.slots, workplace);
    let blobs = BlobClient::new(channel.clone());
    let incarnation = incarnation(&root, SystemTime::now());
    let goodbye = Goodbye::read(&root).map_err(data)?;
    let outbox = root.join("outbox");
    let outbox = Outbox::open(outbox, incarnation, config.outbox_bytes);
    let (node, commands) = Node::new(Parts {
        incarnation,
        description: NodeDescription {
            tags: config.tags,
            allows_scripts: config.allow_scripts,
            confines: confined,
            ..describe(config.slots)
        },
        name: config.name,
        slots,
        projects: Projects::new(root, blobs.clone(), config.cache_bytes),
        outbox: outbox.map_err(data)?,
        uploads: Uploads::new(blobs),
        goodbye,
        work,
        free_bytes_min: FREE_BYTES_MIN,
    });
    let node = Arc::new(node);
    let (owner, offers) = Owner::new(node.clone(), commands);
    let reach = Reach {
        address: config.advertise.unwrap_or_default(),
        port: local.port(),
        orchestrator: config.orchestrator.clone(),
    };
    info!(name = %node.name, %local, orchestrator = config.orchestrator, "node started");

    let equipped = node.clone();
    let equipping = async move {
        let proved = async {
            let search = found.await.map_err(ServeError::Config)?;
            drop(asked);
            equipped.slots.add(search);
            // A slower Blender is announced once it has started.
            let _ = time::timeout(PROOF_TIMEOUT, equipped.slots.prove()).await;
            Ok::<_, ServeError>(())
        };
        let (proved, ffmpeg) = tokio::join!(proved, ffmpeg(config.ffmpeg, confined));
        proved?;
        let ffmpeg = ffmpeg?;
        equipped.equip(ffmpeg).await;
        equipped.slots.keep_proving().await;
        Ok(())
    };
    let mut equipping = std::pin::pin!(equipping);

    let streams_end = CancellationToken::new();
    let mut server = tokio::spawn(server(node.clone(), listener, streams_end.clone())?);
    let mut owner = tokio::spawn(owner.run());
    // No task of ours outlives this function, however it ends.
    let _tasks = [
        AbortOnDrop(server.abort_handle()),
        AbortOnDrop(owner.abort_handle()),
        AbortOnDrop(tokio::spawn(retire_idle(node.clone())).abort_handle()),
        AbortOnDrop(
            tokio::spawn(adoption::hand_in(node.clone(), channel.clone(), offers)).abort_handle(),
        ),
    ];
    let membership = membership::keep(node.clone(), channel.clone(), reach);
    let leaving = async {
        leave.await;
        info!(
            "leaving: finishing what is being drawn, for {} seconds at most",
            config.drain.as_secs()
        );
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
    match time::timeout(SHUTDOWN_TIMEOUT, &mut server).await {
        Ok(Ok(served)) => served?,
        Ok(Err(panic)) => warn!(%panic, "the server ended badly"),
        Err(_) => {
            server.abort();
            warn!("closed streams that nobody read");
        }
    }
    end
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

/// Holds the data folder until it is dropped, or the process dies.
fn lock(config: &Config) -> Result<fs::File, ServeError> {
    let path = config.data.join("lock");
    let data = |error| ServeError::Data { path: config.data.clone(), error };
    let file = fs::File::create(path).map_err(data)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(ServeError::DataInUse { path: config.data.clone() })
        }
        Err(fs::TryLockError::Error(error)) => Err(data(error)),
    }
}

/// Makes a folder anew.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
}

/// Rises with every life of the node, also where the machine's clock was set back: the last one is kept in the data
/// folder, as far as it can be read.
fn incarnation(folder: &Path, now: SystemTime) -> u64 {
    let path = folder.join("incarnation");
    let last = fs::read_to_string(&path).ok().and_then(|last| last.parse().ok());
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let next = last.map_or(now, |last: u64| now.max(last.saturating_add(1)));
    // Durable before anyone hears of it, and never half of it.
    let keep = || {
        let part = path.with_extension("part");
        let mut file = fs::File::create(&part)?;
        file.write_all(next.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        if cfg!(unix) { fs::File::open(folder)?.sync_all() } else { Ok(()) }
    };
    // A disk that is full keeps no node from handing in what fills it.
    if let Err(error) = keep() {
        warn!(%error, "cannot keep this life's number: the next one needs a clock that is right");
    }
    next
}

/// Whether renderers are confined; says so.
fn check_walls(config: &Config) -> Result<bool, ServeError> {
    if config.confine == Confine::Off {
        warn!("nothing is confined here: a .blend can make Blender write wherever this node can");
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
            warn!(%why, "nothing is confined here: a .blend can make Blender write wherever this node can");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_life_is_newer_than_the_last_though_the_clock_is_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let life = |seconds| {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            incarnation(folder.path(), now)
        };
        assert_eq!(life(1_000), 1_000_000_000);
        assert_eq!([life(0), life(1_000), life(1)], [1, 2, 3].map(|n| 1_000_000_000 + n));
        assert_eq!(life(2_000), 2_000_000_000);
        for torn in [&b""[..], b"\0\0", b"\xff\xfe", b"99999999999999999999"] {
            fs::write(folder.path().join("incarnation"), torn).unwrap();
            assert_eq!(life(3), 3_000_000);
        }
    }
}
