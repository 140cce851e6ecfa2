//! Puts the parts together and serves them on one port until told to stop.

use std::{
    fs::{File, TryLockError},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::service::Routes;
use tracing::{info, warn};

use crate::{
    blobs::{Blobs, collect},
    dispatch::Dispatch,
    driver::{self, Driver},
    feed::Feed,
    history::History,
    service::{
        StreamLimits, blob_store, connections, orchestrator::OrchestratorService, places::Places,
    },
    store::{self, Store, StoreError, sqlite::SqliteStore},
};

/// A node's lease: long enough for a link that flaps, short enough that a lost node's frames do not wait long.
const LEASE: Duration = Duration::from_secs(15);
/// How much longer than a lease the orchestrator waits before it gives work away: clocks that run at
/// different rates, and renderers that take a moment to die.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// Blobs that no job needs are kept for a day: what was uploaded today need not travel again.
const BLOB_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// But not more of them than a few large projects.
const BLOB_BYTES: u64 = 20 << 30;
/// How long open calls get to end when the orchestrator stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What an orchestrator needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of its database and blobs; made where it is not.
    pub data: PathBuf,
    /// Blobs that no job needs go when they were not used for so long; a day unless told otherwise, and never
    /// within the hour.
    pub blob_age: Duration,
    /// The oldest of them go when all of them take more than this, in bytes; 20 GiB unless told otherwise.
    pub blob_bytes: u64,
    /// A node's lease; 15 s unless a test wants to see one run out.
    pub lease: Duration,
    /// Bounds of what clients hold open.
    pub streams: StreamLimits,
    /// Bytes of the disk that uploads leave free; a gigabyte unless told otherwise, or a twentieth of a disk
    /// that is small.
    pub disk_reserve_bytes: Option<u64>,
    /// File that the history is appended to; none unless told otherwise.
    #[cfg(any(test, feature = "history"))]
    pub history: Option<PathBuf>,
}

impl Config {
    /// Everything but the folder as it is by default.
    #[must_use]
    pub fn new(data: PathBuf) -> Self {
        let streams = StreamLimits::default();
        Self {
            data,
            blob_age: BLOB_AGE,
            blob_bytes: BLOB_BYTES,
            lease: LEASE,
            streams,
            disk_reserve_bytes: None,
            #[cfg(any(test, feature = "history"))]
            history: None,
        }
    }
}

/// What keeps an orchestrator from serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {source}; choose another with --data", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The history cannot be written.
    #[cfg(any(test, feature = "history"))]
    #[error("cannot write the history {}: {source}; choose another with --history", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another orchestrator has it.
    #[error("another orchestrator uses the data folder {}; stop it, or choose another with --data", .0.display())]
    InUse(PathBuf),
    /// The database cannot be used.
    #[error("cannot use the database in {}: {reason}", path.display())]
    Store {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The driver ended; its panic is in the log.
    #[error("the orchestrator failed inside; start it again: it goes on where it was")]
    Driver,
}

/// Serves `Orchestrator` and `BlobStore`, health and reflection on `listener` until `shutdown`.
///
/// # Errors
/// When the data folder or the database cannot be used, or the server fails.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    #[cfg(any(test, feature = "history"))]
    let history = match &config.history {
        Some(path) => History::append_to(path)
            .map_err(|source| ServeError::History { path: path.clone(), source })?,
        None => History::default(),
    };
    #[cfg(not(any(test, feature = "history")))]
    let history = History;
    let Config { data, blob_age, blob_bytes, lease, streams: limits, disk_reserve_bytes, .. } =
        config;
    let data_error = |source| ServeError::Data { path: data.clone(), source };
    let store_error =
        |error: StoreError| ServeError::Store { path: data.clone(), reason: error.to_string() };
    store::make_folder(&data).map_err(data_error)?;
    // Held until this function returns: two orchestrators on one store would both give work away.
    let lock = File::create(data.join("lock")).map_err(data_error)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ServeError::InUse(data)),
        Err(TryLockError::Error(source)) => return Err(data_error(source)),
    }
    if store::check::has_lost_its_database(&data) {
        return Err(ServeError::Store {
            path: data,
            reason: store::check::LOST_DATABASE.to_owned(),
        });
    }
    let (store, identity) =
        SqliteStore::open(&data.join("framecrew.db")).await.map_err(store_error)?;
    let store = match disk_reserve_bytes {
        // Uploads stop first, then new jobs.
        Some(bytes) => store.with_reserve(bytes / 8),
        None => store,
    };
    let driver_store = Arc::new(store.for_driver());
    let store = Arc::new(store);
    let opened = store.clone();
    let checked = store.clone();
    let mut checking =
        AbortOnDropHandle::new(tokio::spawn(async move { checked.quick_check().await }));
    let store: Arc<dyn Store> = store;
    let blobs = Blobs::open(&data.join("blobs"), disk_reserve_bytes).map_err(|error| {
        ServeError::Data { path: data.clone(), source: io::Error::other(error) }
    })?;

    // Streams end by this; the driver goes on until they have. All of it ends when this future is dropped.
    let streams = CancellationToken::new();
    let stop = CancellationToken::new();
    let _streams_end = streams.clone().drop_guard();
    let feed = Arc::new(Feed::new(store.clone(), identity));
    let (driver, mailbox) = driver::mailbox(blobs.clone());
    let dispatch = Dispatch::new(driver.clone(), blobs.clone(), feed.identity(), streams.clone());
    let patience = lease + LEASE_MARGIN;
    let restored =
        Driver::restore(driver_store, feed.clone(), dispatch, mailbox, patience, history)
            .await
            .map_err(store_error)?;
    let mut driving = AbortOnDropHandle::new(tokio::spawn(restored.run(stop.clone())));

    let kept = collect::Limits { age: blob_age, bytes: blob_bytes };
    let held = driver.clone();
    let holds = move || held.store_failed_within(collect::UNUSED_MIN);
    let collecting = collect::run(blobs.clone(), store.clone(), kept, holds);
    let _collecting = AbortOnDropHandle::new(tokio::spawn(collecting));
    let places = Places::new(limits.per_client, limits.total);
    let closing = driver.clone();
    let service = OrchestratorService::new(
        driver,
        store,
        feed,
        blobs.clone(),
        lease,
        places.clone(),
        streams.clone(),
    );
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let outputs = Arc::new(service.clone());
    let uploads = service.uploads();
    let orchestrator = service.server();
    let blob_store = blob_store::server(blobs, outputs, places, uploads);
    for name in ["", "framecrew.v1.Orchestrator", "framecrew.v1.BlobStore"] {
        health_reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }

    let address = listener.local_addr().map_err(data_error)?;
    info!(%address, data = %data.display(), "orchestrator serves");
    let stopping = streams.clone();
    let routes = Routes::new(health)
        .add_service(reflection().build_v1().map_err(reflection_error)?)
        .add_service(reflection().build_v1alpha().map_err(reflection_error)?)
        .add_service(orchestrator)
        .add_service(blob_store);
    let serving = connections::serve(listener, routes, limits, async move {
        shutdown.await;
        closing.close();
        info!("orchestrator stops; nodes render on, and are found again at the next start");
        for name in ["", "framecrew.v1.Orchestrator", "framecrew.v1.BlobStore"] {
            let status = tonic_health::ServingStatus::NotServing;
            health_reporter.set_service_status(name, status).await;
        }
        stopping.cancel();
    });
    // Reads all of the database, so it does not stand between a restart and its nodes.
    let damage = async {
        match (&mut checking).await {
            Ok(Err(error @ StoreError::Corrupt(_))) => error,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serving => {}
        error = damage => return Err(store_error(error)),
        // Only a bug ends the driver first; serving on without it would answer nobody.
        ended = &mut driving => return Err(match ended {
            Ok(Err(error)) => ServeError::Store { path: data, reason: error.to_string() },
            _ => ServeError::Driver,
        }),
        () = async {
            streams.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } => warn!("some calls did not end in time"),
    }
    streams.cancel();
    stop.cancel();
    // A commit that keeps failing is given up here: nobody was told of it.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, &mut driving).await;
    driving.abort();
    // The folder is the next one's only when this one has let go of its file.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, opened.close()).await;
    drop(lock);
    Ok(())
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
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
