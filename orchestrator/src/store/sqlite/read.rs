//! Reads for watchers and services.

use framecrew_blobs::Digest;
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use sqlx::Row as _;

use super::{
    rows::{
        FAILED_ATTEMPTS, FRAME, JOB, Pin, PinningProject, WHOLE_JOB, frame_of, from_json,
        from_word, job_of, line_of, to_json, whole_job_of, with_warnings,
    },
    store::{SqliteStore, quick_check},
};
use crate::{
    domain::{Attempts, Frame, JobId, Revision},
    store::{Archive, JobRecord, LogRecord, Request, Snapshot, StoreError},
};

impl SqliteStore {
    /// Frames of a job that have rows, above a value of `column`, by which they are ordered.
    async fn frames_above(
        &self,
        column: &'static str,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Frame>, StoreError> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{FRAME} WHERE job_id = $1 AND {column} > $2 ORDER BY {column} LIMIT $3"
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
}

impl Archive for SqliteStore {
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
        self.frames_above("frame", job, after, limit).boxed()
    }

    fn frames_changed(
        &self,
        job: JobId,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        self.frames_above("revision", job, after as i64, limit).boxed()
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
                "{FRAME} WHERE job_id = $1 AND attempts <> $3 AND {FAILED_ATTEMPTS} > 0 \
                 ORDER BY revision DESC LIMIT $2"
            )))
            .bind(job.0 as i64)
            .bind(i64::from(troubled_max))
            // Most frames have no failed attempts; comparing the text spares parsing it.
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

    fn blob_uses<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest, i64) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut uses =
                sqlx::query("SELECT digest, used_at_ms FROM blob_use").fetch(&self.readers);
            while let Some(row) = uses.try_next().await? {
                let digest: [u8; 32] = row.try_get::<&[u8], _>("digest")?.try_into().map_err(
                    |error: std::array::TryFromSliceError| StoreError::Unreadable {
                        what: "a blob's digest",
                        detail: error.to_string(),
                    },
                )?;
                each(Digest::from(digest), row.try_get("used_at_ms")?);
            }
            Ok(())
        }
        .boxed()
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        quick_check(&self.readers).boxed()
    }
}
