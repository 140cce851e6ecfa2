//! Rows of the tables as records.

use std::{collections::HashMap, sync::Arc};

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use crate::{
    domain::{
        Attempts, BatchId, Frame, FrameCounts, FrameState, Incarnation, JobId, NodeName, Output,
        Preview, Rendered, Revision, Warning, WarningKind,
    },
    store::{BatchRecord, JobRecord, JobStatus, LogRecord, NodeRecord, StoreError},
};

pub(super) fn to_json<T: Serialize>(value: &T) -> String {
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
pub(super) fn to_word<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

pub(super) fn from_word<T: DeserializeOwned>(
    what: &'static str,
    word: &str,
) -> Result<T, StoreError> {
    from_json(what, &format!("\"{word}\""))
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
        status: JobStatus {
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

/// Adds the warnings of jobs with adjoining numbers. In a transaction, so that both are of one moment.
pub(super) async fn with_warnings(
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
        let kind = WarningKind::try_from(row.try_get::<i32, _>("kind")?).unwrap_or_default();
        let warning = Warning { kind, text: row.try_get("text")? };
        warnings.entry(job).or_default().push(warning);
    }
    for record in &mut jobs {
        if let Some(warnings) = warnings.remove(&record.job) {
            record.status.warnings = warnings.into();
        }
    }
    Ok(jobs)
}

/// [`Attempts::total`] in SQL.
pub(super) const FAILED_ATTEMPTS: &str = "attempts ->> 'renderer' + attempts ->> 'node_lost' \
     + attempts ->> 'out_of_memory' + attempts ->> 'infrastructure'";

pub(super) const FRAME: &str = "SELECT frame, state, revision, attempts, outputs, failure, node, \
     render_seconds, peak_memory_bytes, preview FROM slice ";

/// A frame with its latest result.
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

/// A live batch with its number.
pub(super) fn batch_of(row: &SqliteRow) -> Result<(BatchId, BatchRecord), StoreError> {
    let record = BatchRecord {
        job: JobId(row.try_get::<i64, _>("job_id")? as u64),
        node: NodeName::from(row.try_get::<String, _>("node")?),
        slices: from_json("a batch", row.try_get("slices")?)?,
        log_sequence: row.try_get::<i64, _>("log_sequence")? as u64,
    };
    Ok((BatchId(row.try_get::<i64, _>("batch_id")? as u64), record))
}

/// A registered node with its name.
pub(super) fn node_of(row: &SqliteRow) -> Result<(NodeName, NodeRecord), StoreError> {
    let record = NodeRecord {
        incarnation: Incarnation(row.try_get::<i64, _>("incarnation")? as u64),
        address: row.try_get("address")?,
        description: from_json("a node", row.try_get("description")?)?,
    };
    Ok((NodeName::from(row.try_get::<String, _>("name")?), record))
}

/// A line of a job's log.
pub(super) fn line_of(row: &SqliteRow) -> Result<LogRecord, StoreError> {
    Ok(LogRecord {
        line: row.try_get::<i64, _>("line")? as u64,
        frame: row.try_get("frame")?,
        node: NodeName::from(row.try_get::<String, _>("node")?),
        at_ms: row.try_get("at_ms")?,
        text: row.try_get("text")?,
    })
}

/// The part of a project that names blobs.
#[derive(Deserialize)]
pub(super) struct PinningProject {
    pub(super) files: Vec<Pin>,
}

/// A file or an output: it names a blob, or the blobs of its chunks.
#[derive(Deserialize)]
pub(super) struct Pin {
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) chunks: Vec<Pin>,
}
