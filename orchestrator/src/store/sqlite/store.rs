//! The database's connections: how they are opened and closed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    domain::Epoch,
    store::{Identity, StoreError},
};

/// Connections for readers: more would only wait for the processors.
const READERS: u32 = 4;
/// Connections of the driver, which reads one thing after the other. They are its own, so that leases and commits
/// never wait for watchers.
const DRIVER_READERS: u32 = 1;
/// How long a statement waits for another one's lock; only a checkpoint can hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Space that new jobs leave free on the disk for the frames of accepted ones: some hundred thousand of them. Less
/// than uploads leave free.
const RESERVE_BYTES: u64 = 128 << 20;
/// Databases of up to this size are checked before they are used: some tens of milliseconds.
const CHECK_FIRST_BYTES: u64 = 16 << 20;

/// Rows in one INSERT: SQLite takes 32,766 parameters, and a row of the widest table has 12.
pub(super) const ROWS_MAX: usize = 1_000;

/// Where the database of a data folder lies.
pub(crate) fn database_in(data: &Path) -> PathBuf {
    data.join("framecrew.db")
}

/// Whether the database is gone, or empty, although there are blobs: only an orchestrator with a database stores any.
pub(crate) fn is_lost(database: &Path, has_blobs: bool) -> bool {
    has_blobs && fs::metadata(database).map_or(0, |file| file.len()) == 0
}

/// A database, and the connections to it.
#[derive(Debug, Clone)]
pub(crate) struct SqliteStore {
    /// One connection: commits take turns.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    driver_readers: SqlitePool,
    /// Bytes of the disk that are not for new jobs.
    pub(super) reserve_bytes: u64,
    pub(super) folder: PathBuf,
    /// The epoch that this store was opened in; another orchestrator may have begun a later one since.
    pub(super) epoch: Epoch,
}

impl SqliteStore {
    /// Opens the database, creates it if it is missing, migrates its tables, and begins a new epoch.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Identity), StoreError> {
        let options = options(path).create_if_missing(true);
        let writer = pool(1).connect_with(options.clone()).await?;
        // A larger file is checked while it serves, so that a restart does not wait for it to be read whole.
        if fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_FIRST_BYTES) {
            quick_check(&writer).await?;
        }
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| StoreError::Failed(error.into()))?;
        let identity = begin_epoch(&writer).await?;
        let options = options.read_only(true);
        let driver_readers = pool(DRIVER_READERS).connect_with(options.clone()).await?;
        let readers = pool(READERS).connect_with(options).await?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let (reserve_bytes, epoch) = (RESERVE_BYTES, identity.epoch);
        Ok((Self { writer, readers, driver_readers, reserve_bytes, folder, epoch }, identity))
    }

    /// The same store with the driver's own connection for reads.
    pub(crate) fn for_driver(&self) -> Self {
        Self { readers: self.driver_readers.clone(), ..self.clone() }
    }

    /// Takes every connection that watchers read with, as many slow ones do.
    #[cfg(test)]
    pub(crate) async fn take_readers(&self) -> Vec<PoolConnection<Sqlite>> {
        let mut taken = Vec::new();
        for _ in 0..READERS {
            taken.extend(self.readers.acquire().await);
        }
        taken
    }

    /// The same store with another number of bytes that new jobs leave free.
    #[must_use]
    pub(crate) fn with_reserve(mut self, reserve_bytes: u64) -> Self {
        self.reserve_bytes = reserve_bytes;
        self
    }

    pub(super) async fn close_all(&self) {
        self.writer.close().await;
        self.readers.close().await;
        self.driver_readers.close().await;
    }
}

/// How the database is opened: durable when a commit returns.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
}

pub(super) async fn quick_check(pool: &SqlitePool) -> Result<(), StoreError> {
    let check: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await?;
    if check == "ok" { Ok(()) } else { Err(StoreError::Corrupt(check)) }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // A connection to a local file does not go stale: asking it first would double every read.
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false)
}

async fn begin_epoch(writer: &SqlitePool) -> Result<Identity, StoreError> {
    // Waits for a write that a former run in this process has not ended yet, instead of failing on it.
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let known: Option<(String, i64)> =
        sqlx::query_as("SELECT store_id, epoch FROM store").fetch_optional(&mut *tx).await?;
    let known = known.map(|(store_id, epoch)| Identity {
        store_id: store_id.into(),
        epoch: Epoch(epoch as u32),
    });
    let identity = Identity::next(known.as_ref());
    let statement = match known {
        Some(_) => "UPDATE store SET epoch = $2 WHERE store_id = $1",
        None => "INSERT INTO store (store_id, epoch) VALUES ($1, $2)",
    };
    sqlx::query(statement)
        .bind(&*identity.store_id)
        .bind(i64::from(identity.epoch.0))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(identity)
}

/// Refused once another orchestrator has opened the store.
pub(super) async fn still_in(tx: &mut SqliteConnection, epoch: Epoch) -> Result<(), StoreError> {
    let now: i64 = sqlx::query_scalar("SELECT epoch FROM store").fetch_one(tx).await?;
    if now == i64::from(epoch.0) { Ok(()) } else { Err(StoreError::Superseded) }
}

/// Gives a connection back after a write, or closes it when the write failed.
pub(super) fn close_after_error<T>(
    mut connection: PoolConnection<Sqlite>,
    written: Result<T, StoreError>,
) -> Result<T, StoreError> {
    if written.is_err() {
        // A full disk ends SQLite's transaction and not the connection's: it would never begin another one.
        connection.close_on_drop();
    }
    written
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else { return Self::Failed(error.into()) };
        // A table or column is missing.
        if database.message().starts_with("no such ") {
            return Self::OtherVersion(database.message().to_owned());
        }
        match database.code().and_then(|code| code.parse::<u32>().ok()) {
            // SQLITE_FULL; SQLITE_IOERR_WRITE is what a full disk under the WAL may give.
            Some(13 | 778) => Self::Full,
            // SQLITE_CORRUPT with all its kinds, SQLITE_NOTADB; SQLITE_IOERR_SHORT_READ is a file cut short.
            Some(26 | 522) => Self::Corrupt(error.to_string()),
            Some(code) if code & 0xff == 11 => Self::Corrupt(error.to_string()),
            _ => Self::Failed(error.into()),
        }
    }
}
