//! Reads for a restarted orchestrator.

use sqlx::{Row as _, SqlitePool};

use super::rows::{
    WHOLE_JOB, batch_of, from_json, from_word, node_of, whole_job_of, with_warnings,
};
use crate::{
    domain::JobId,
    store::{JobProgressRecord, JobRecord, RestoredState, StoreError},
};

pub(super) async fn restore(readers: &SqlitePool) -> Result<RestoredState, StoreError> {
    let mut open_jobs = Vec::new();
    for record in open_job_records(readers).await? {
        let progress = job_progress(readers, record.job).await?;
        open_jobs.push((record, progress));
    }
    let batches = sqlx::query(
        "SELECT batch_id, job_id, node, slices, log_sequence FROM batch ORDER BY batch_id",
    )
    .fetch_all(readers)
    .await?;
    let nodes = sqlx::query("SELECT name, incarnation, address, description FROM node")
        .fetch_all(readers)
        .await?;
    let last: Option<i64> =
        sqlx::query_scalar("SELECT MAX(job_id) FROM job").fetch_one(readers).await?;
    let commits: i64 = sqlx::query_scalar("SELECT commits FROM store").fetch_one(readers).await?;
    Ok(RestoredState {
        open_jobs,
        batches: batches.iter().map(batch_of).collect::<Result<_, _>>()?,
        nodes: nodes.iter().map(node_of).collect::<Result<_, _>>()?,
        last_job: last.unwrap_or(0) as u64,
        commits: commits as u64,
    })
}

async fn open_job_records(readers: &SqlitePool) -> Result<Vec<JobRecord>, StoreError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{WHOLE_JOB} WHERE state IN ('Queued', 'Rendering') ORDER BY job_id"
    )))
    .fetch_all(readers)
    .await?;
    let records = rows.iter().map(whole_job_of).collect::<Result<_, _>>()?;
    let mut reader = readers.acquire().await?;
    with_warnings(&mut reader, records).await
}

pub(super) async fn job_progress(
    readers: &SqlitePool,
    job: JobId,
) -> Result<JobProgressRecord, StoreError> {
    let tried = sqlx::query(
        "SELECT frame, state, attempts FROM slice WHERE job_id = $1 AND state <> 'Finished'",
    )
    .bind(job.0 as i64)
    .fetch_all(readers)
    .await?;
    let tried = tried.iter().map(|row| {
        let state = from_word("a frame's state", row.try_get("state")?)?;
        let attempts = from_json("a frame's attempts", row.try_get("attempts")?)?;
        Ok((row.try_get("frame")?, state, attempts))
    });
    let last: Option<i64> = sqlx::query_scalar("SELECT MAX(line) FROM log_line WHERE job_id = $1")
        .bind(job.0 as i64)
        .fetch_one(readers)
        .await?;
    Ok(JobProgressRecord {
        finished: finished_frames(readers, job).await?,
        tried: tried.collect::<Result<_, StoreError>>()?,
        next_log_line: last.unwrap_or(0) as u64 + 1,
    })
}

async fn finished_frames(readers: &SqlitePool, job: JobId) -> Result<Vec<i32>, StoreError> {
    // In one row: reading a hundred thousand rows would take most of a restart's time.
    let finished: Option<String> = sqlx::query_scalar(
        "SELECT GROUP_CONCAT(frame) FROM slice WHERE job_id = $1 AND state = 'Finished'",
    )
    .bind(job.0 as i64)
    .fetch_one(readers)
    .await?;
    let finished = finished.unwrap_or_default();
    let numbers = finished.split(',').filter(|number| !number.is_empty());
    numbers.map(str::parse).collect::<Result<_, _>>().map_err(|error: std::num::ParseIntError| {
        StoreError::Unreadable { what: "a frame's number", detail: error.to_string() }
    })
}
