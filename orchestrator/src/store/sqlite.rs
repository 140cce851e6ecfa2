//! The store in SQLite: one writer whose commits are durable (WAL, `synchronous=FULL`), readers beside it.
//! Statements keep to what PostgreSQL says too (`$1`, `ON CONFLICT`).

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use framecrew_blobs::Digest;
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{
    Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};

use super::{
    BatchRecord, Group, Identity, JobRecord, JobStanding, LOG_LINES_MAX, LogRecord, NodeRecord,
    Remains, Remembered, Request, Snapshot, Store, StoreError, without_project,
};
use crate::domain::{
    Attempts, BatchId, Epoch, Frame, FrameCounts, FrameState, Incarnation, JobId, NodeName, Output,
    Preview, Rendered, Revision, Warning,
};

/// Connections for readers: more would only wait for the processors.
const READERS: u32 = 4;
/// Connections of the driver, which reads one thing after the other. Its own: however many watchers read, and
/// however long, leases and commits do not wait for them.
const DRIVER_READERS: u32 = 1;
/// How long a statement waits for another one's lock; only a checkpoint can hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// What new jobs leave free on the disk, for the frames of those that are there: some hundred thousand of them.
/// Less than what uploads leave free.
const RESERVE_BYTES: u64 = 128 << 20;
/// But no more than this part of a small disk.
const RESERVE_SHARE: u64 = 80;
/// Databases of up to this size are checked before they are used: some tens of milliseconds.
const CHECK_FIRST_BYTES: u64 = 16 << 20;
/// Rows in one INSERT: SQLite takes 32,766 parameters, and a row of the widest table has 12.
const ROWS_MAX: usize = 1_000;

#[derive(Debug, Clone)]
pub(crate) struct SqliteStore {
    /// One connection: commits take turns.
    writer: SqlitePool,
    readers: SqlitePool,
    driver_readers: SqlitePool,
    /// Bytes of the disk that are not for new jobs.
    reserve_bytes: u64,
    folder: PathBuf,
    /// This life; the store may pass on to another one.
    epoch: Epoch,
}

impl SqliteStore {
    /// Opens the database, makes it where it is not, brings its tables up to date, and begins a new epoch.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Identity), StoreError> {
        let options = options(path).create_if_missing(true);
        let writer = pool(1).connect_with(options.clone()).await?;
        // What is larger is checked while it serves: nobody waits for a file to be read from end to end.
        if fs::metadata(path).is_ok_and(|file| file.len() <= CHECK_FIRST_BYTES) {
            quick_check(&writer).await?;
        }
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| StoreError::Database(error.into()))?;
        let identity = begin_epoch(&writer).await?;
        let options = options.read_only(true);
        let driver_readers = pool(DRIVER_READERS).connect_with(options.clone()).await?;
        let readers = pool(READERS).connect_with(options).await?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let (reserve_bytes, epoch) = (RESERVE_BYTES, identity.epoch);
        Ok((Self { writer, readers, driver_readers, reserve_bytes, folder, epoch }, identity))
    }

    /// The same store, whose reads wait for no other reader: for the driver alone.
    pub(crate) fn for_driver(&self) -> Self {
        Self { readers: self.driver_readers.clone(), ..self.clone() }
    }

    /// Takes every connection that watchers read with, as many slow ones do.
    #[cfg(test)]
    pub(crate) async fn take_readers(&self) -> Vec<sqlx::pool::PoolConnection<Sqlite>> {
        let mut taken = Vec::new();
        for _ in 0..READERS {
            taken.extend(self.readers.acquire().await);
        }
        taken
    }

    /// Another number of bytes of the disk that new jobs leave free.
    #[must_use]
    pub(crate) fn with_reserve(mut self, reserve_bytes: u64) -> Self {
        self.reserve_bytes = reserve_bytes;
        self
    }

    /// Looks for damage in all of the file, beside those who work with it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when there is some.
    pub(crate) async fn quick_check(&self) -> Result<(), StoreError> {
        quick_check(&self.readers).await
    }

    /// Lets go of the file, when whoever reads it is done.
    pub(crate) async fn close(&self) {
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

async fn quick_check(pool: &SqlitePool) -> Result<(), StoreError> {
    let check: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await?;
    if check == "ok" { Ok(()) } else { Err(StoreError::Corrupt(check)) }
}

pub(super) fn pool(connections: u32) -> SqlitePoolOptions {
    // A connection to a local file does not go stale: asking it first would double every read.
    SqlitePoolOptions::new().max_connections(connections).test_before_acquire(false)
}

async fn begin_epoch(writer: &SqlitePool) -> Result<Identity, StoreError> {
    // At least the seconds since 1970, so that it rises for nodes also when the data folder is a new one.
    let seconds = crate::driver::wall_ms() / 1_000;
    // Waits for what a former life in this process is still writing, instead of failing on it.
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let known: Option<(String, i64)> =
        sqlx::query_as("SELECT store_id, epoch FROM store").fetch_optional(&mut *tx).await?;
    let (store_id, epoch) = match known {
        Some((store_id, epoch)) => {
            let epoch = seconds.max(epoch + 1);
            sqlx::query("UPDATE store SET epoch = $1").bind(epoch).execute(&mut *tx).await?;
            (store_id, epoch)
        }
        None => {
            let store_id = uuid::Uuid::new_v4().simple().to_string();
            let epoch = seconds.max(1);
            sqlx::query("INSERT INTO store (store_id, epoch) VALUES ($1, $2)")
                .bind(&store_id)
                .bind(epoch)
                .execute(&mut *tx)
                .await?;
            (store_id, epoch)
        }
    };
    tx.commit().await?;
    Ok(Identity { store_id: store_id.into(), epoch: Epoch(epoch as u32) })
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.and_then(|code| code.parse::<u32>().ok()) {
            // SQLITE_FULL; SQLITE_IOERR_WRITE is what a full disk under the WAL may give.
            Some(13 | 778) => Self::Full,
            // SQLITE_CORRUPT with all its kinds, SQLITE_NOTADB; SQLITE_IOERR_SHORT_READ is a file cut short.
            Some(26 | 522) => Self::Corrupt(error.to_string()),
            Some(code) if code & 0xff == 11 => Self::Corrupt(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> String {
    // Fails only for maps whose keys are not strings; no record has one.
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn from_json<T: DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Unreadable { what, detail: error.to_string() })
}

/// An enum as the bare word it is in JSON.
fn to_word<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

fn from_word<T: DeserializeOwned>(what: &'static str, word: &str) -> Result<T, StoreError> {
    from_json(what, &format!("\"{word}\""))
}

async fn still_in(tx: &mut SqliteConnection, epoch: Epoch) -> Result<(), StoreError> {
    let now: i64 = sqlx::query_scalar("SELECT epoch FROM store").fetch_one(tx).await?;
    if now == i64::from(epoch.0) { Ok(()) } else { Err(StoreError::Superseded) }
}

async fn write(writer: &SqlitePool, epoch: Epoch, group: &Group) -> Result<(), StoreError> {
    super::point("commit-before");
    let mut connection = writer.acquire().await?;
    let written = write_in(&mut connection, epoch, group).await;
    if written.is_err() {
        // A full disk ends SQLite's transaction and not the connection's: it would never begin another one.
        connection.close_on_drop();
    }
    written
}

async fn write_in(
    writer: &mut SqliteConnection,
    epoch: Epoch,
    group: &Group,
) -> Result<(), StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let counted = sqlx::query("UPDATE store SET commits = commits + 1 WHERE epoch = $1")
        .bind(i64::from(epoch.0))
        .execute(&mut *tx)
        .await?;
    if counted.rows_affected() != 1 {
        return Err(StoreError::Superseded);
    }
    for (request, record) in &group.new_jobs {
        // A job begins without warnings and without a movie.
        let JobStanding { state, counts, revision, started_at_ms, ended_at_ms, .. } =
            &record.standing;
        sqlx::query(
            "INSERT INTO job (job_id, request_id, fingerprint, spec, file_version, state, open_frames, \
             finished_frames, failed_frames, cancelled_frames, revision, submitted_at_ms, \
             started_at_ms, ended_at_ms) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)",
        )
            .bind(record.job.0 as i64)
            .bind(&request.request_id)
            .bind(&request.fingerprint)
            .bind(to_json(&without_project(&record.spec)))
            .bind(record.file_version.to_string())
            .bind(to_word(state))
            .bind(counts.open as i64)
            .bind(counts.finished as i64)
            .bind(counts.failed as i64)
            .bind(counts.cancelled as i64)
            .bind(*revision as i64)
            .bind(record.submitted_at_ms)
            .bind(started_at_ms)
            .bind(ended_at_ms)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO project (job_id, project) VALUES ($1,$2)")
            .bind(record.job.0 as i64)
            .bind(to_json(&record.spec.project))
            .execute(&mut *tx)
            .await?;
    }
    for (job, standing) in &group.jobs {
        let JobStanding {
            state,
            counts,
            revision,
            started_at_ms,
            ended_at_ms,
            movie_job,
            warnings: _,
        } = standing;
        sqlx::query(
            "UPDATE job SET state = $2, open_frames = $3, finished_frames = $4, failed_frames = $5, \
             cancelled_frames = $6, revision = $7, started_at_ms = $8, ended_at_ms = $9, \
             movie_job_id = $10 WHERE job_id = $1",
        )
        .bind(job.0 as i64)
        .bind(to_word(state))
        .bind(counts.open as i64)
        .bind(counts.finished as i64)
        .bind(counts.failed as i64)
        .bind(counts.cancelled as i64)
        .bind(*revision as i64)
        .bind(started_at_ms)
        .bind(ended_at_ms)
        .bind(movie_job.map(|job| job.0 as i64))
        .execute(&mut *tx)
        .await?;
    }
    for (job, warnings) in &group.warnings {
        for (number, Warning { kind, text }) in warnings {
            sqlx::query("INSERT INTO warning (job_id, number, kind, text) VALUES ($1,$2,$3,$4)")
                .bind(job.0 as i64)
                .bind(*number as i64)
                .bind(i64::from(*kind))
                .bind(text)
                .execute(&mut *tx)
                .await?;
        }
    }
    let frames: Vec<_> = group.frames.iter().collect();
    for chunk in frames.chunks(ROWS_MAX) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO slice (job_id, frame, slice_index, state, revision, attempts, outputs, \
             failure, node, render_seconds, peak_memory_bytes, preview) ",
        );
        insert.push_values(chunk, |mut row, ((job, slice), frame)| {
            let rendered = frame.rendered.as_ref();
            row.push_bind(job.0 as i64)
                .push_bind(i64::from(slice.frame))
                .push_bind(i64::from(slice.index))
                .push_bind(to_word(&frame.state))
                .push_bind(frame.revision as i64)
                .push_bind(to_json(&frame.attempts))
                .push_bind(rendered.map_or_else(|| "[]".to_owned(), |r| to_json(&r.outputs)))
                .push_bind(frame.failure.as_ref().map(to_json))
                .push_bind(frame.node.as_deref().map(str::to_owned))
                .push_bind(rendered.map_or(0.0, |r| r.render_seconds))
                .push_bind(rendered.map_or(0, |r| r.peak_memory_bytes as i64))
                .push_bind(rendered.and_then(|r| r.preview.as_ref()).map(to_json));
        });
        insert.push(
            " ON CONFLICT (job_id, frame, slice_index) DO UPDATE SET state = excluded.state, \
             revision = excluded.revision, attempts = excluded.attempts, outputs = excluded.outputs, \
             failure = excluded.failure, node = excluded.node, \
             render_seconds = excluded.render_seconds, \
             peak_memory_bytes = excluded.peak_memory_bytes, preview = excluded.preview",
        );
        insert.build().execute(&mut *tx).await?;
    }
    for (batch, record) in &group.started_batches {
        sqlx::query("INSERT INTO batch VALUES ($1,$2,$3,$4,$5)")
            .bind(batch.0 as i64)
            .bind(record.job.0 as i64)
            .bind(&*record.node)
            .bind(to_json(&record.slices))
            .bind(record.log_sequence as i64)
            .execute(&mut *tx)
            .await?;
    }
    for (batch, sequence) in &group.log_sequences {
        sqlx::query("UPDATE batch SET log_sequence = $2 WHERE batch_id = $1")
            .bind(batch.0 as i64)
            .bind(*sequence as i64)
            .execute(&mut *tx)
            .await?;
    }
    for batch in &group.ended_batches {
        sqlx::query("DELETE FROM batch WHERE batch_id = $1")
            .bind(batch.0 as i64)
            .execute(&mut *tx)
            .await?;
    }
    for (name, record) in &group.nodes {
        match record {
            Some(record) => sqlx::query(
                "INSERT INTO node VALUES ($1,$2,$3,$4) ON CONFLICT (name) DO UPDATE SET \
                 incarnation = excluded.incarnation, address = excluded.address, \
                 description = excluded.description",
            )
            .bind(&**name)
            .bind(record.incarnation.0 as i64)
            .bind(&record.address)
            .bind(to_json(&record.description)),
            None => sqlx::query("DELETE FROM node WHERE name = $1").bind(&**name),
        }
        .execute(&mut *tx)
        .await?;
    }
    for (job, lines) in &group.log {
        for chunk in lines.chunks(ROWS_MAX) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO log_line ");
            insert.push_values(chunk, |mut row, record| {
                row.push_bind(job.0 as i64)
                    .push_bind(record.line as i64)
                    .push_bind(record.frame.map(i64::from))
                    .push_bind(record.node.to_string())
                    .push_bind(record.at_ms)
                    .push_bind(record.text.clone());
            });
            insert.build().execute(&mut *tx).await?;
        }
        let last = lines.last().map_or(0, |record| record.line);
        sqlx::query("DELETE FROM log_line WHERE job_id = $1 AND line <= $2")
            .bind(job.0 as i64)
            .bind(last as i64 - LOG_LINES_MAX as i64)
            .execute(&mut *tx)
            .await?;
    }
    super::point("commit-inside");
    tx.commit().await?;
    super::point("commit-after");
    Ok(())
}

pub(super) const JOB: &str = "SELECT job_id, spec, file_version, state, open_frames, finished_frames, \
     failed_frames, cancelled_frames, revision, submitted_at_ms, started_at_ms, ended_at_ms, \
     movie_job_id FROM job ";

/// With its project, which lies in a table of its own: it may be large.
pub(super) const WHOLE_JOB: &str =
    "SELECT job.*, project FROM job LEFT JOIN project USING (job_id) ";

/// A job with its project, but without its warnings.
pub(super) fn whole_job_of(row: &SqliteRow) -> Result<JobRecord, StoreError> {
    let mut record = job_of(row)?;
    // Nobody shares it yet, so nothing is copied.
    let spec = Arc::make_mut(&mut record.spec);
    spec.project = from_json("a job's project", row.try_get("project")?)?;
    Ok(record)
}

/// A job without its project and its warnings, which lie in other tables.
pub(super) fn job_of(row: &SqliteRow) -> Result<JobRecord, StoreError> {
    let count = |column| row.try_get::<i64, _>(column).map(|n| n as u64);
    let version: String = row.try_get("file_version")?;
    let movie_job: Option<i64> = row.try_get("movie_job_id")?;
    Ok(JobRecord {
        job: JobId(count("job_id")?),
        spec: Arc::new(from_json("a job", row.try_get("spec")?)?),
        file_version: version.parse().map_err(|error: std::num::ParseIntError| {
            StoreError::Unreadable { what: "a job's version", detail: error.to_string() }
        })?,
        submitted_at_ms: row.try_get("submitted_at_ms")?,
        standing: JobStanding {
            state: from_word("a job's state", row.try_get("state")?)?,
            counts: FrameCounts {
                open: count("open_frames")?,
                finished: count("finished_frames")?,
                failed: count("failed_frames")?,
                cancelled: count("cancelled_frames")?,
            },
            revision: count("revision")?,
            started_at_ms: row.try_get("started_at_ms")?,
            ended_at_ms: row.try_get("ended_at_ms")?,
            warnings: Arc::default(),
            movie_job: movie_job.map(|job| JobId(job as u64)),
        },
    })
}

/// Jobs of adjoining numbers, read with their warnings: in a transaction, so that both are of one moment.
async fn with_warnings(
    tx: &mut SqliteConnection,
    mut jobs: Vec<JobRecord>,
) -> Result<Vec<JobRecord>, StoreError> {
    let numbers = || jobs.iter().map(|record| record.job.0 as i64);
    let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else { return Ok(jobs) };
    let rows = sqlx::query(
        "SELECT job_id, kind, text FROM warning WHERE job_id BETWEEN $1 AND $2 \
         ORDER BY job_id, number",
    )
    .bind(first)
    .bind(last)
    .fetch_all(tx)
    .await?;
    let mut warnings: HashMap<JobId, Vec<Warning>> = HashMap::new();
    for row in &rows {
        let job = JobId(row.try_get::<i64, _>("job_id")? as u64);
        let warning = Warning { kind: row.try_get("kind")?, text: row.try_get("text")? };
        warnings.entry(job).or_default().push(warning);
    }
    for record in &mut jobs {
        if let Some(warnings) = warnings.remove(&record.job) {
            record.standing.warnings = warnings.into();
        }
    }
    Ok(jobs)
}

/// What [`Attempts::total`] says.
const FAILED_TRIES: &str = "attempts ->> 'renderer' + attempts ->> 'node_lost' \
     + attempts ->> 'out_of_memory' + attempts ->> 'infrastructure'";

pub(super) const FRAME: &str = "SELECT frame, state, revision, attempts, outputs, failure, node, \
     render_seconds, peak_memory_bytes, preview FROM slice ";

pub(super) fn frame_of(row: &SqliteRow) -> Result<Frame, StoreError> {
    let state: FrameState = from_word("a frame's state", row.try_get("state")?)?;
    let outputs: Vec<Output> = from_json("a frame's outputs", row.try_get("outputs")?)?;
    let preview: Option<String> = row.try_get("preview")?;
    let preview: Option<Preview> =
        preview.map(|text| from_json("a frame's preview", &text)).transpose()?;
    let failure: Option<String> = row.try_get("failure")?;
    let node: Option<String> = row.try_get("node")?;
    Ok(Frame {
        frame: row.try_get("frame")?,
        state,
        revision: row.try_get::<i64, _>("revision")? as Revision,
        attempts: from_json::<Attempts>("a frame's attempts", row.try_get("attempts")?)?,
        rendered: (state == FrameState::Finished)
            .then(|| {
                Ok::<_, StoreError>(Rendered {
                    outputs,
                    render_seconds: row.try_get("render_seconds")?,
                    peak_memory_bytes: row.try_get::<i64, _>("peak_memory_bytes")? as u64,
                    preview,
                })
            })
            .transpose()?,
        failure: failure.map(|text| from_json("a frame's failure", &text)).transpose()?,
        node: node.map(NodeName::from),
    })
}

fn line_of(row: &SqliteRow) -> Result<LogRecord, StoreError> {
    Ok(LogRecord {
        line: row.try_get::<i64, _>("line")? as u64,
        frame: row.try_get("frame")?,
        node: NodeName::from(row.try_get::<String, _>("node")?),
        at_ms: row.try_get("at_ms")?,
        text: row.try_get("text")?,
    })
}

/// What of a project names blobs.
#[derive(Deserialize)]
struct PinningProject {
    files: Vec<Pin>,
}

/// Something that names a blob, or those of its chunks.
#[derive(Deserialize)]
struct Pin {
    digest: Digest,
    #[serde(default)]
    chunks: Vec<Pin>,
}

impl Store for SqliteStore {
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>> {
        write(&self.writer, self.epoch, group).boxed()
    }

    fn check_room(&self) -> Result<(), StoreError> {
        #[cfg(target_os = "linux")]
        {
            // Who cannot be asked is not full.
            let Ok(disk) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
            let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
            let total_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
            let reserve_bytes = self.reserve_bytes.min(total_bytes / RESERVE_SHARE);
            if free_bytes < reserve_bytes {
                return Err(StoreError::Low { free_bytes, reserve_bytes });
            }
        }
        Ok(())
    }

    fn check_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { still_in(&mut *self.readers.acquire().await?, self.epoch).await }.boxed()
    }

    fn remember(&self) -> BoxFuture<'_, Result<Remembered, StoreError>> {
        async move {
            let mut remembered = Remembered::default();
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "{WHOLE_JOB} WHERE state IN ('Queued', 'Rendering') ORDER BY job_id"
            )))
            .fetch_all(&self.readers)
            .await?;
            let records = rows.iter().map(whole_job_of).collect::<Result<_, _>>()?;
            let mut reader = self.readers.acquire().await?;
            let records = with_warnings(&mut reader, records).await?;
            drop(reader);
            for record in records {
                let remains = self.remains(record.job).await?;
                remembered.open_jobs.push((record, remains));
            }
            for row in &sqlx::query(
                "SELECT batch_id, job_id, node, slices, log_sequence FROM batch ORDER BY batch_id",
            )
            .fetch_all(&self.readers)
            .await?
            {
                let record = BatchRecord {
                    job: JobId(row.try_get::<i64, _>("job_id")? as u64),
                    node: NodeName::from(row.try_get::<String, _>("node")?),
                    slices: from_json("a batch", row.try_get("slices")?)?,
                    log_sequence: row.try_get::<i64, _>("log_sequence")? as u64,
                };
                remembered
                    .batches
                    .push((BatchId(row.try_get::<i64, _>("batch_id")? as u64), record));
            }
            for row in &sqlx::query("SELECT name, incarnation, address, description FROM node")
                .fetch_all(&self.readers)
                .await?
            {
                let record = NodeRecord {
                    incarnation: Incarnation(row.try_get::<i64, _>("incarnation")? as u64),
                    address: row.try_get("address")?,
                    description: from_json("a node", row.try_get("description")?)?,
                };
                remembered.nodes.push((NodeName::from(row.try_get::<String, _>("name")?), record));
            }
            let last: Option<i64> =
                sqlx::query_scalar("SELECT MAX(job_id) FROM job").fetch_one(&self.readers).await?;
            remembered.last_job = last.unwrap_or(0) as u64;
            let commits: i64 =
                sqlx::query_scalar("SELECT commits FROM store").fetch_one(&self.readers).await?;
            remembered.commits = commits as u64;
            Ok(remembered)
        }
        .boxed()
    }

    fn find_request<'a>(
        &'a self,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<(JobId, Request)>, StoreError>> {
        async move {
            let row: Option<(i64, String)> =
                sqlx::query_as("SELECT job_id, fingerprint FROM job WHERE request_id = $1")
                    .bind(request_id)
                    .fetch_optional(&self.readers)
                    .await?;
            Ok(row.map(|(job, fingerprint)| {
                (JobId(job as u64), Request { request_id: request_id.to_owned(), fingerprint })
            }))
        }
        .boxed()
    }

    fn job(&self, job: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        async move {
            let mut tx = self.readers.begin().await?;
            let row = sqlx::query(sqlx::AssertSqlSafe(format!("{WHOLE_JOB} WHERE job_id = $1")))
                .bind(job.0 as i64)
                .fetch_optional(&mut *tx)
                .await?;
            let record = row.as_ref().map(whole_job_of).transpose()?;
            Ok(with_warnings(&mut tx, record.into_iter().collect()).await?.pop())
        }
        .boxed()
    }

    fn jobs_before(
        &self,
        before: JobId,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobRecord>, StoreError>> {
        async move {
            let mut tx = self.readers.begin().await?;
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
                "{JOB} WHERE job_id < $1 ORDER BY job_id DESC LIMIT $2"
            )))
            .bind(i64::try_from(before.0).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            with_warnings(&mut tx, rows.iter().map(job_of).collect::<Result<_, _>>()?).await
        }
        .boxed()
    }

    fn frames_after(
        &self,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        async move {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "{FRAME} WHERE job_id = $1 AND frame > $2 ORDER BY frame LIMIT $3"
            )))
            .bind(job.0 as i64)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(frame_of)
            .collect()
        }
        .boxed()
    }

    fn frames_changed(
        &self,
        job: JobId,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        async move {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "{FRAME} WHERE job_id = $1 AND revision > $2 ORDER BY revision LIMIT $3"
            )))
            .bind(job.0 as i64)
            .bind(after as i64)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(frame_of)
            .collect()
        }
        .boxed()
    }

    fn snapshot(
        &self,
        job: JobId,
        troubled_max: u32,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        async move {
            let mut tx = self.readers.begin().await?;
            let Some(row) = sqlx::query(sqlx::AssertSqlSafe(format!("{JOB} WHERE job_id = $1")))
                .bind(job.0 as i64)
                .fetch_optional(&mut *tx)
                .await?
            else {
                return Ok(None);
            };
            let mut states = Vec::new();
            {
                let mut rows =
                    sqlx::query("SELECT frame, state FROM slice WHERE job_id = $1 ORDER BY frame")
                        .bind(job.0 as i64)
                        .fetch(&mut *tx);
                while let Some(row) = rows.try_next().await? {
                    let state = from_word("a frame's state", row.try_get("state")?)?;
                    states.push((row.try_get("frame")?, state));
                }
            }
            let troubled = sqlx::query(sqlx::AssertSqlSafe(format!(
                "{FRAME} WHERE job_id = $1 AND attempts <> $3 AND {FAILED_TRIES} > 0 \
                 ORDER BY revision DESC LIMIT $2"
            )))
            .bind(job.0 as i64)
            .bind(i64::from(troubled_max))
            // Most frames have none behind them, and are not looked into.
            .bind(to_json(&Attempts::default()))
            .fetch_all(&mut *tx)
            .await?
            .iter()
            .map(frame_of)
            .collect::<Result<_, _>>()?;
            let job = with_warnings(&mut tx, vec![job_of(&row)?]).await?.pop();
            Ok(job.map(|job| Snapshot { job, states, troubled }))
        }
        .boxed()
    }

    fn log(
        &self,
        job: JobId,
        frame: Option<i32>,
        line: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LogRecord>, StoreError>> {
        async move {
            sqlx::query(
                "SELECT line, frame, node, at_ms, text FROM log_line WHERE job_id = $1 AND line >= $2 \
                 AND ($3 IS NULL OR frame = $3) ORDER BY line LIMIT $4",
            )
            .bind(job.0 as i64)
            .bind(line as i64)
            .bind(frame)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(line_of)
            .collect()
        }
        .boxed()
    }

    fn pins<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut projects = sqlx::query("SELECT project FROM project").fetch(&self.readers);
            while let Some(row) = projects.try_next().await? {
                let project: PinningProject =
                    from_json("a job's project", row.try_get("project")?)?;
                for file in &project.files {
                    each(file.digest);
                    file.chunks.iter().for_each(|chunk| each(chunk.digest));
                }
            }
            drop(projects);
            let mut frames = sqlx::query("SELECT outputs, preview FROM slice").fetch(&self.readers);
            while let Some(row) = frames.try_next().await? {
                let outputs: Vec<Pin> = from_json("a frame's outputs", row.try_get("outputs")?)?;
                outputs.iter().for_each(|output| each(output.digest));
                if let Some(preview) = row.try_get("preview")? {
                    each(from_json::<Pin>("a frame's preview", preview)?.digest);
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn remains(&self, job: JobId) -> BoxFuture<'_, Result<Remains, StoreError>> {
        async move {
            // In one row: a hundred thousand rows cost a restart most of its time.
            let finished: Option<String> = sqlx::query_scalar(
                "SELECT GROUP_CONCAT(frame) FROM slice WHERE job_id = $1 AND state = 'Finished'",
            )
            .bind(job.0 as i64)
            .fetch_one(&self.readers)
            .await?;
            let finished = finished.unwrap_or_default();
            let numbers = finished.split(',').filter(|number| !number.is_empty());
            let finished = numbers.map(str::parse).collect::<Result<_, _>>().map_err(
                |error: std::num::ParseIntError| StoreError::Unreadable {
                    what: "a frame's number",
                    detail: error.to_string(),
                },
            )?;
            let mut tried = Vec::new();
            for row in &sqlx::query(
                "SELECT frame, state, attempts FROM slice WHERE job_id = $1 AND state <> 'Finished'",
            )
            .bind(job.0 as i64)
            .fetch_all(&self.readers)
            .await?
            {
                let state = from_word("a frame's state", row.try_get("state")?)?;
                let attempts = from_json("a frame's attempts", row.try_get("attempts")?)?;
                tried.push((row.try_get("frame")?, state, attempts));
            }
            let last: Option<i64> =
                sqlx::query_scalar("SELECT MAX(line) FROM log_line WHERE job_id = $1")
                    .bind(job.0 as i64)
                    .fetch_one(&self.readers)
                    .await?;
            Ok(Remains { finished, tried, next_log_line: last.unwrap_or(0) as u64 + 1 })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::{FrameSet, JobSpec, Project, ProjectFile, RenderSettings, TimeLimits};

    /// A store with job 1, which has a project.
    async fn store_with_a_project(path: &Path) -> (SqliteStore, JobRecord) {
        let (store, _) = SqliteStore::open(path).await.unwrap();
        let blend = ProjectFile {
            path: "\"shot\" é\n.blend".to_owned(),
            digest: Digest::of(b"blend"),
            size_bytes: 5,
            chunks: Vec::new(),
        };
        let spec = JobSpec {
            name: "shot".to_owned(),
            project: Project { blend_path: blend.path.clone(), files: vec![blend] },
            frames: FrameSet::one(1),
            settings: RenderSettings::default(),
            priority: 0,
            tags: Vec::new(),
            strict: false,
            movie: None,
            movie_of: None,
            limits: TimeLimits::default(),
        };
        let record = JobRecord::submitted(JobId(1), Arc::new(spec), "3.4".parse().unwrap(), 0);
        let request = Request { request_id: "r".to_owned(), fingerprint: "f".to_owned() };
        let new_jobs = vec![(request, record.clone())];
        store.commit(&Group { new_jobs, ..Group::default() }).await.unwrap();
        (store, record)
    }

    #[tokio::test]
    async fn jobs_are_listed_without_their_projects_and_shown_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let (store, record) = store_with_a_project(&dir.path().join("db")).await;
        let listed = store.jobs_before(JobId(u64::MAX), 9).await.unwrap();
        assert_eq!(*listed[0].spec, without_project(&record.spec));
        let brief = store.job_without_project(JobId(1)).await.unwrap().unwrap();
        assert_eq!(*brief.spec, without_project(&record.spec));
        assert_eq!(store.job(JobId(1)).await.unwrap().unwrap().spec, record.spec);
        for unknown in [JobId(0), JobId(2), JobId(i64::MAX as u64)] {
            assert!(store.job_without_project(unknown).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_store_of_a_former_version_keeps_the_projects_of_its_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let (store, record) = store_with_a_project(&path).await;
        let as_it_was = "UPDATE job SET spec = json_set(spec, '$.project', json((SELECT project \
             FROM project WHERE project.job_id = job.job_id))); DROP TABLE project; \
             DELETE FROM _sqlx_migrations WHERE version = 4";
        sqlx::raw_sql(as_it_was).execute(&store.writer).await.unwrap();
        let spec: String =
            sqlx::query_scalar("SELECT spec FROM job").fetch_one(&store.writer).await.unwrap();
        assert_eq!(spec, to_json(&*record.spec), "as former versions wrote it");
        store.close().await;

        let (store, _) = SqliteStore::open(&path).await.unwrap();
        assert_eq!(store.job(JobId(1)).await.unwrap().unwrap().spec, record.spec);
        let listed = store.jobs_before(JobId(u64::MAX), 9).await.unwrap();
        assert_eq!(*listed[0].spec, without_project(&record.spec));
        assert_eq!(store.remember().await.unwrap().open_jobs[0].0.spec, record.spec);
        let mut pins = Vec::new();
        store.pins(&mut |digest| pins.push(digest)).await.unwrap();
        assert_eq!(pins, [Digest::of(b"blend")]);
    }
}
