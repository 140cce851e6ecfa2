//! Puts the parts together and serves them on one port until shutdown.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

#[cfg(any(test, feature = "history"))]
use crate::observe::history::History;
use crate::{
    blobs::{Blobs, layout},
    collect::{self, Collector},
    disk::make_folder,
    dispatch::Dispatch,
    driver::Driver,
    feed::Feed,
    mailbox::{self, DriverHandle},
    observe::Observers,
    service::{
        StreamLimits, blob_store, connections, orchestrator::OrchestratorService, quotas::Quota,
    },
    store::{self, Archive, Ledger, Location, Opened, StoreError},
};

/// A node's lease: long enough for a link that flaps, short enough that a lost node's frames do not wait long.
const LEASE: Duration = Duration::from_secs(15);
/// How much longer than a lease the orchestrator waits before it reassigns work: clocks run at different rates, and
/// renderers take a moment to stop.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// Blobs that no job needs are kept for a day, so that today's uploads are not sent again.
const BLOB_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of such blobs: a few large projects.
const BLOB_BYTES: u64 = 20 << 30;
/// How long open calls get to end when the orchestrator stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Settings of an orchestrator.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of its database and blobs; created if it is missing.
    pub data: PathBuf,
    /// URL of the store: `sqlite:///PATH`, a plain path, or `memory:` for a trial. By default the database in the
    /// data folder.
    pub store: Option<String>,
    /// Blobs that no job needs are removed when they were not used for so long. A day by default; never within the
    /// hour.
    pub blob_age: Duration,
    /// The oldest of them are removed when all of them take more bytes than this; 20 GiB by default.
    pub blob_bytes: u64,
    /// A node's lease; 15 s by default.
    pub lease: Duration,
    /// Bounds of what clients hold open.
    pub streams: StreamLimits,
    /// Bytes of the disk that uploads leave free. By default a gigabyte, or a twentieth of a small disk.
    pub disk_reserve_bytes: Option<u64>,
    /// File that the history is appended to; none by default.
    #[cfg(any(test, feature = "history"))]
    pub history: Option<PathBuf>,
}

impl Config {
    /// The default settings, with a data folder.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        let streams = StreamLimits::default();
        Self {
            data,
            store: None,
            blob_age: BLOB_AGE,
            blob_bytes: BLOB_BYTES,
            lease: LEASE,
            streams,
            disk_reserve_bytes: None,
            #[cfg(any(test, feature = "history"))]
            history: None,
        }
    }

    fn data_error(&self, error: io::Error) -> ServeError {
        ServeError::Data { path: self.data.clone(), error }
    }

    fn store_error(&self, error: StoreError) -> ServeError {
        ServeError::Store { path: self.data.clone(), error: error.into() }
    }
}

/// Why an orchestrator does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {error}; choose another with --data", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The history cannot be written.
    #[cfg(any(test, feature = "history"))]
    #[error("cannot write the history {}: {error}; choose another with --history", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another orchestrator holds the folder's lock.
    #[error("another orchestrator uses the data folder {}; stop it, or choose another with --data", .0.display())]
    InUse(PathBuf),
    /// The store cannot be used.
    #[error("cannot use the store of the data folder {}: {error}", path.display())]
    Store {
        /// The folder.
        path: PathBuf,
        /// The store's error, which says what to do.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The driver panicked; the panic is in the log.
    #[error("internal error; restart the orchestrator, nothing acknowledged is lost")]
    Driver,
}

/// Services whose health is reported; the empty name is the server's.
const HEALTH_NAMES: [&str; 3] = ["", "framecrew.v1.Orchestrator", "framecrew.v1.BlobStore"];

/// Serves `Orchestrator` and `BlobStore`, health and reflection on `listener` until `shutdown`.
///
/// # Errors
/// When the data folder or the database cannot be used, or the server fails.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let observers = open_observers(&config)?;
    // Held until this function returns: two orchestrators on one store would both assign work.
    let lock = lock_data(&config.data)?;
    let address = listener.local_addr().map_err(|error| config.data_error(error))?;
    let Opened { ledger, archive, identity } = open_store(&config).await?;
    let mut damage = pin!(find_damage(archive.clone()));
    let blobs = Blobs::open(&layout::blobs_in(&config.data), config.disk_reserve_bytes)
        .map_err(|error| config.data_error(io::Error::other(error)))?;

    // Streams end first, then the driver, then the collector. Dropping this future ends all of them.
    let streams = CancellationToken::new();
    let stop = CancellationToken::new();
    let driver_ended = CancellationToken::new();
    let _streams_end = streams.clone().drop_guard();
    let feed = Arc::new(Feed::new(archive.clone(), identity));
    let (driver, mailbox) = mailbox::mailbox(blobs.clone());
    let dispatch = Dispatch::new(driver.clone(), blobs.clone(), feed.identity(), streams.clone());
    let patience = config.lease + LEASE_MARGIN;
    let restored =
        Driver::restore(ledger.clone(), feed.clone(), dispatch, mailbox, patience, observers)
            .await
            .map_err(|error| config.store_error(error))?;
    // Before the driver runs: from then on uses of blobs may be unsaved.
    let mut collecting = collect_garbage(
        &config,
        blobs.clone(),
        ledger.clone(),
        archive.clone(),
        driver.clone(),
        driver_ended.clone(),
    )
    .await?;
    let mut driving = AbortOnDropHandle::new(tokio::spawn(restored.run(stop.clone())));

    let parts = Parts { driver, archive, feed, blobs, streams: streams.clone() };
    let serving = parts.serve(listener, &config, shutdown)?;
    info!(%address, data = %config.data.display(), "orchestrator serves");
    tokio::select! {
        () = serving => {}
        error = &mut damage => return Err(config.store_error(error)),
        // Only a bug ends the driver first; serving on without it would answer nobody.
        ended = &mut driving => return Err(match ended {
            Ok(Err(error)) => config.store_error(error),
            _ => ServeError::Driver,
        }),
        () = async {
            streams.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } => warn!("some calls did not end in time"),
    }
    streams.cancel();
    stop.cancel();
    // A commit that keeps failing is given up here: nothing of it was acknowledged.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, &mut driving).await;
    driving.abort();
    driver_ended.cancel();
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, &mut collecting).await;
    // The next orchestrator may use the folder only once this one has closed the database.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, ledger.close()).await;
    drop(lock);
    Ok(())
}

#[cfg(any(test, feature = "history"))]
fn open_observers(config: &Config) -> Result<Observers, ServeError> {
    let Some(path) = &config.history else { return Ok(Observers::default()) };
    let history = History::append_to(path)
        .map_err(|error| ServeError::History { path: path.clone(), error })?;
    Ok(Observers::default().with(history))
}

#[cfg(not(any(test, feature = "history")))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
fn open_observers(_: &Config) -> Result<Observers, ServeError> {
    Ok(Observers::default())
}

/// Creates the data folder and locks it for this process.
fn lock_data(data: &Path) -> Result<File, ServeError> {
    let failed = |error| ServeError::Data { path: data.to_owned(), error };
    make_folder(data).map_err(failed)?;
    let lock = File::create(data.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse(data.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn open_store(config: &Config) -> Result<Opened, ServeError> {
    let location = match &config.store {
        Some(url) => Location::parse(url),
        None => Ok(Location::in_folder(&config.data)),
    };
    let options = store::Options {
        // Uploads stop first, then new jobs.
        reserve_bytes: config.disk_reserve_bytes.map(|bytes| bytes / 8),
        has_blobs: layout::has_blobs(&layout::blobs_in(&config.data)),
    };
    let opened = async { store::open(&location?, options).await };
    opened.await.map_err(|error| config.store_error(error))
}

/// Ends with the error when the store is damaged. Reads all of it, so a restart does not wait for this.
async fn find_damage(archive: Arc<dyn Archive>) -> StoreError {
    let checking = AbortOnDropHandle::new(tokio::spawn(async move { archive.verify().await }));
    match checking.await {
        Ok(Err(error @ StoreError::Corrupt(_))) => error,
        _ => std::future::pending().await,
    }
}

/// Takes over the uses of blobs, and starts the task that saves them and removes unused blobs.
async fn collect_garbage(
    config: &Config,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    archive: Arc<dyn Archive>,
    driver: DriverHandle,
    stop: CancellationToken,
) -> Result<AbortOnDropHandle<()>, ServeError> {
    let limits = collect::Limits { age: config.blob_age, bytes: config.blob_bytes };
    let collector = Collector::open(blobs, ledger, archive, limits).await;
    let collector = collector.map_err(|error| config.store_error(error))?;
    let holds = move || driver.store_failed_within(collect::UNUSED_MIN);
    Ok(AbortOnDropHandle::new(tokio::spawn(collector.run(holds, stop))))
}

/// The parts that services need.
struct Parts {
    driver: DriverHandle,
    archive: Arc<dyn Archive>,
    feed: Arc<Feed>,
    blobs: Blobs,
    streams: CancellationToken,
}

impl Parts {
    /// Serves until `shutdown`; then closes the mailbox and ends the streams.
    fn serve(
        self,
        listener: TcpListener,
        config: &Config,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<impl Future<Output = ()>, ServeError> {
        let Self { driver, archive, feed, blobs, streams } = self;
        let limits = config.streams;
        let quota = Quota::new(limits.per_client, limits.total);
        let closing = driver.clone();
        let stopping = streams.clone();
        let service = OrchestratorService::new(
            driver,
            archive,
            feed,
            blobs.clone(),
            config.lease,
            quota.clone(),
            streams,
        );
        let outputs = Arc::new(service.clone());
        let uploads = service.uploads();
        let (health_reporter, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(health)
            .add_service(reflection().build_v1().map_err(reflection_error)?)
            .add_service(reflection().build_v1alpha().map_err(reflection_error)?)
            .add_service(service.server())
            .add_service(blob_store::server(blobs, outputs, quota, uploads));
        Ok(async move {
            set_health(&health_reporter, ServingStatus::Serving).await;
            connections::serve(listener, routes, limits, async move {
                shutdown.await;
                closing.close();
                info!("orchestrator stops; nodes keep rendering and reconnect at its next start");
                set_health(&health_reporter, ServingStatus::NotServing).await;
                stopping.cancel();
            })
            .await;
        })
    }
}

async fn set_health(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let mut builder = tonic_reflection::server::Builder::configure();
    // Only what is served here is listed; the types of all of the protocol are described.
    for name in [
        "framecrew.v1.Orchestrator",
        "framecrew.v1.BlobStore",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        builder = builder.with_service_name(name);
    }
    builder
        .register_encoded_file_descriptor_set(framecrew_proto::DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

fn reflection_error(error: tonic_reflection::server::Error) -> ServeError {
    ServeError::Data {
        path: PathBuf::from("the protocol's descriptors"),
        error: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
