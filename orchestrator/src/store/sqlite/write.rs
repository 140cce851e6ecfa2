//! Commits of the driver, one function a table.

use framecrew_blobs::Digest;
use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{Connection as _, QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use super::{
    blob_use, restore,
    rows::{to_json, to_word},
    store::{ROWS_MAX, SqliteStore, close_after_error, still_in},
};
use crate::{
    disk,
    domain::{Epoch, JobId, Warning},
    store::{
        Group, JobProgressRecord, JobRecord, JobStatus, LOG_LINES_MAX, Ledger, LogRecord, Request,
        RestoredState, StoreError, point,
    },
};

/// New jobs leave no more of a small disk free than this part of it.
const RESERVE_SHARE: u64 = 80;

impl Ledger for SqliteStore {
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>> {
        commit(&self.writer, self.epoch, group).boxed()
    }

    fn check_room(&self) -> Result<(), StoreError> {
        // A disk that cannot be asked does not count as full.
        let Ok(room) = disk::room(&self.folder) else { return Ok(()) };
        let free_bytes = room.free_bytes;
        let reserve_bytes = self.reserve_bytes.min(room.total_bytes / RESERVE_SHARE);
        if free_bytes < reserve_bytes {
            return Err(StoreError::Low { free_bytes, reserve_bytes });
        }
        Ok(())
    }

    fn check_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { still_in(&mut *self.readers.acquire().await?, self.epoch).await }.boxed()
    }

    fn restore(&self) -> BoxFuture<'_, Result<RestoredState, StoreError>> {
        restore::restore(&self.readers).boxed()
    }

    fn job_progress(&self, job: JobId) -> BoxFuture<'_, Result<JobProgressRecord, StoreError>> {
        restore::job_progress(&self.readers, job).boxed()
    }

    fn save_blob_uses<'a>(
        &'a self,
        uses: &'a [(Digest, i64)],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        blob_use::save(&self.writer, self.epoch, uses).boxed()
    }

    fn forget_blob_uses<'a>(
        &'a self,
        blobs: &'a [Digest],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        blob_use::forget(&self.writer, self.epoch, blobs).boxed()
    }

    fn mark_blob_uses(&self, are_complete: bool) -> BoxFuture<'_, Result<bool, StoreError>> {
        blob_use::mark(&self.writer, self.epoch, are_complete).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.close_all().boxed()
    }
}

async fn commit(writer: &SqlitePool, epoch: Epoch, group: &Group) -> Result<(), StoreError> {
    point("commit-before");
    let mut connection = writer.acquire().await?;
    let written = write_group(&mut connection, epoch, group).await;
    close_after_error(connection, written)
}

async fn write_group(
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
        insert_job(&mut tx, request, record).await?;
    }
    for (job, status) in &group.jobs {
        update_job(&mut tx, *job, status).await?;
    }
    for (job, warnings) in &group.warnings {
        insert_warnings(&mut tx, *job, warnings).await?;
    }
    upsert_frames(&mut tx, group).await?;
    write_batches(&mut tx, group).await?;
    write_nodes(&mut tx, group).await?;
    for (job, lines) in &group.log {
        append_log(&mut tx, *job, lines).await?;
    }
    point("commit-inside");
    tx.commit().await?;
    point("commit-after");
    Ok(())
}

async fn insert_job(
    tx: &mut SqliteConnection,
    request: &Request,
    record: &JobRecord,
) -> Result<(), StoreError> {
    // A job begins without warnings and without a movie.
    let JobStatus { state, counts, revision, started_at_ms, ended_at_ms, .. } = &record.status;
    sqlx::query(
        "INSERT INTO job (job_id, request_id, fingerprint, spec, file_version, state, open_frames, \
         finished_frames, failed_frames, cancelled_frames, revision, submitted_at_ms, \
         started_at_ms, ended_at_ms) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)",
    )
    .bind(record.job.0 as i64)
    .bind(&request.request_id)
    .bind(&request.fingerprint)
    .bind(to_json(&record.spec.without_project()))
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
    Ok(())
}

async fn update_job(
    tx: &mut SqliteConnection,
    job: JobId,
    status: &JobStatus,
) -> Result<(), StoreError> {
    let JobStatus { state, counts, revision, started_at_ms, ended_at_ms, movie_job, warnings: _ } =
        status;
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
    Ok(())
}

async fn insert_warnings(
    tx: &mut SqliteConnection,
    job: JobId,
    warnings: &[(usize, Warning)],
) -> Result<(), StoreError> {
    for (number, Warning { kind, text }) in warnings {
        sqlx::query("INSERT INTO warning (job_id, number, kind, text) VALUES ($1,$2,$3,$4)")
            .bind(job.0 as i64)
            .bind(*number as i64)
            .bind(i32::from(*kind))
            .bind(text)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

async fn upsert_frames(tx: &mut SqliteConnection, group: &Group) -> Result<(), StoreError> {
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
    Ok(())
}

/// Deletions come last: a batch that ended has no row.
async fn write_batches(tx: &mut SqliteConnection, group: &Group) -> Result<(), StoreError> {
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
    Ok(())
}

async fn write_nodes(tx: &mut SqliteConnection, group: &Group) -> Result<(), StoreError> {
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
    Ok(())
}

/// Appends lines and drops those beyond [`LOG_LINES_MAX`].
async fn append_log(
    tx: &mut SqliteConnection,
    job: JobId,
    lines: &[LogRecord],
) -> Result<(), StoreError> {
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
    Ok(())
}
