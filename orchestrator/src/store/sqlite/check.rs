//! Whether a store is sound: the structure of the database, whether its tables agree, and the blobs that its jobs
//! need. Reads one moment, also while an orchestrator works with the store, and changes nothing.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;
use futures::TryStreamExt as _;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    rows::{FRAME, WHOLE_JOB, frame_of, from_json, whole_job_of},
    store::{database_in, is_lost},
};
use crate::{
    blobs::layout::{self, blob_path},
    domain::{BatchId, FrameState, JobId, JobSpec, JobState, Slice},
    store::{JobRecord, StoreError},
};

/// Faults that are listed; the rest are counted. More than a screen of them help nobody.
const FAULTS_MAX: usize = 100;

/// The result of a check.
#[derive(Debug, Default)]
pub struct Checked {
    /// Jobs that were checked.
    pub jobs: u64,
    /// Frames that were checked: those that were tried.
    pub frames: u64,
    /// Blobs that were checked.
    pub blobs: u64,
    /// The first hundred faults, each in a sentence.
    pub faults: Vec<String>,
    /// Faults beyond those.
    pub more_faults: u64,
}

impl Checked {
    /// Whether there are no faults.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.more_faults += 1;
        }
    }
}

/// Why there is nothing to check or copy.
#[derive(Debug, thiserror::Error)]
pub enum NoStore {
    /// The folder holds no database.
    #[error(
        "there is no store in {}: name an orchestrator's data folder with --data (that of `framecrew up` is the \
         folder `orchestrator` in its own)",
        .0.display()
    )]
    Missing(PathBuf),
    /// The tables of the database are those of another version.
    #[error(
        "the store in {} was made by another version: start its orchestrator with this one once",
        .0.display()
    )]
    OtherVersion(PathBuf),
}

/// Checks the store in a data folder; `hash_blobs` reads every blob, too.
///
/// # Errors
/// When there is nothing to check. Faults are in the result.
pub async fn check(data: &Path, hash_blobs: bool) -> Result<Checked, NoStore> {
    let path = database_in(data);
    let mut checked = Checked::default();
    let blobs = layout::blobs_in(data);
    if is_lost(&path, layout::has_blobs(&blobs)) {
        checked.fault(StoreError::Lost.to_string());
        return Ok(checked);
    }
    if !path.is_file() {
        return Err(NoStore::Missing(data.to_owned()));
    }
    let mut pins = HashMap::new();
    match check_database(&path, &mut checked, &mut pins).await {
        Ok(()) => {}
        Err(StoreError::OtherVersion(_)) => return Err(NoStore::OtherVersion(data.to_owned())),
        // The text of this error names this command.
        Err(StoreError::Corrupt(said)) => checked.fault(format!("the database is damaged: {said}")),
        Err(error) => checked.fault(error.to_string()),
    }
    check_blobs(&blobs, pins, hash_blobs, &mut checked);
    Ok(checked)
}

async fn check_database(
    path: &Path,
    checked: &mut Checked,
    pins: &mut HashMap<Digest, (u64, JobId)>,
) -> Result<(), StoreError> {
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await?;
    let mut tx = connection.begin().await?;
    // One by one: with some damage the check gives up in the middle, and the findings until then show where.
    let mut findings = sqlx::query_scalar::<_, String>("PRAGMA integrity_check").fetch(&mut *tx);
    while let Some(finding) = findings.try_next().await? {
        if finding != "ok" {
            checked.fault(format!("the database is damaged: {finding}"));
        }
    }
    drop(findings);
    check_jobs(&mut tx, checked, pins).await?;
    check_batches(&mut tx, checked).await?;
    for (table, what) in [
        ("project", "projects"),
        ("slice", "frames"),
        ("warning", "warnings"),
        ("log_line", "log lines"),
    ] {
        let orphans: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT COUNT(*) FROM {table} WHERE job_id NOT IN (SELECT job_id FROM job)"
        )))
        .fetch_one(&mut *tx)
        .await?;
        if orphans > 0 {
            checked.fault(format!("{orphans} {what} belong to jobs that do not exist"));
        }
    }
    tx.rollback().await?;
    connection.close().await?;
    Ok(())
}

async fn check_jobs(
    tx: &mut SqliteConnection,
    checked: &mut Checked,
    pins: &mut HashMap<Digest, (u64, JobId)>,
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        // One at a time: a job's frames may be a million.
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{WHOLE_JOB} WHERE job_id > $1 ORDER BY job_id LIMIT 1"
        )))
        .bind(after)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let record = whole_job_of(&row)?;
        after = record.job.0 as i64;
        checked.jobs += 1;
        for file in &record.spec.project.files {
            pins.extend(file.blobs().map(|(digest, size)| (digest, (size, record.job))));
        }
        if let Some(movie) = record.status.movie_job {
            let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM job WHERE job_id = $1")
                .bind(movie.0 as i64)
                .fetch_one(&mut *tx)
                .await?;
            if found == 0 {
                checked
                    .fault(format!("job {}: its movie's job {movie} does not exist", record.job));
            }
        }
        check_frames(&mut *tx, &record, checked, pins).await?;
    }
}

async fn check_frames(
    tx: &mut SqliteConnection,
    record: &JobRecord,
    checked: &mut Checked,
    pins: &mut HashMap<Digest, (u64, JobId)>,
) -> Result<(), StoreError> {
    let JobRecord { job, spec, status, .. } = record;
    let job = *job;
    let wanted: HashSet<i32> = spec.frames.iter().collect();
    let (mut finished, mut failed) = (0, 0);
    let mut rows =
        sqlx::query(sqlx::AssertSqlSafe(format!("{FRAME} WHERE job_id = $1 ORDER BY frame")))
            .bind(job.0 as i64)
            .fetch(tx);
    while let Some(row) = rows.try_next().await? {
        let frame = frame_of(&row)?;
        let number = frame.frame;
        checked.frames += 1;
        if !wanted.contains(&number) {
            checked.fault(format!("job {job}: frame {number} is not among its frames"));
        }
        if frame.revision > status.revision {
            checked.fault(format!(
                "job {job}: frame {number} changed at revision {}, but the job is at revision {}",
                frame.revision, status.revision
            ));
        }
        match frame.state {
            FrameState::Finished => finished += 1,
            FrameState::Failed => failed += 1,
            FrameState::Open | FrameState::Cancelled => {}
        }
        let Some(rendered) = frame.rendered else { continue };
        if rendered.outputs.is_empty() {
            checked.fault(format!("job {job}: frame {number} is finished but has no output"));
        }
        for output in &rendered.outputs {
            pins.insert(output.digest, (output.size_bytes, job));
        }
        if let Some(preview) = &rendered.preview {
            pins.insert(preview.digest, (preview.size_bytes, job));
        }
    }
    let counts = status.counts;
    let all = counts.open + counts.finished + counts.failed + counts.cancelled;
    if (counts.finished, counts.failed) != (finished, failed) {
        checked.fault(format!(
            "job {job}: {finished} frames are finished and {failed} failed, but it counts {} and {}",
            counts.finished, counts.failed
        ));
    }
    if all != wanted.len() as u64 {
        checked.fault(format!("job {job}: it counts {all} frames, but has {}", wanted.len()));
    }
    let agrees = match status.state {
        JobState::Queued | JobState::Rendering => counts.open > 0 && counts.cancelled == 0,
        JobState::Finished => counts.finished == all,
        JobState::Failed => counts.open == 0 && counts.failed > 0 && counts.cancelled == 0,
        JobState::Cancelled => counts.open == 0,
    };
    if !agrees {
        checked.fault(format!("job {job}: is {:?} with {counts:?}", status.state));
    }
    Ok(())
}

async fn check_batches(tx: &mut SqliteConnection, checked: &mut Checked) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT batch_id, slices, node, job.spec AS spec, node.name AS known FROM batch \
         LEFT JOIN job ON job.job_id = batch.job_id LEFT JOIN node ON node.name = batch.node",
    )
    .fetch_all(tx)
    .await?;
    for row in &rows {
        let batch = BatchId(row.try_get::<i64, _>("batch_id")? as u64);
        let Some(spec) = row.try_get::<Option<&str>, _>("spec")? else {
            checked.fault(format!("batch {batch} belongs to a job that does not exist"));
            continue;
        };
        if row.try_get::<Option<&str>, _>("known")?.is_none() {
            let node: &str = row.try_get("node")?;
            checked.fault(format!("batch {batch} is on node {node}, which is not registered"));
        }
        let spec: JobSpec = from_json("a job", spec)?;
        let slices: Vec<Slice> = from_json("a batch", row.try_get("slices")?)?;
        let strays = slices.iter().filter(|slice| !spec.frames.contains(slice.frame)).count();
        if strays > 0 {
            checked.fault(format!("batch {batch}: {strays} of its frames are not among its job's"));
        }
    }
    Ok(())
}

fn check_blobs(dir: &Path, pins: HashMap<Digest, (u64, JobId)>, hash: bool, checked: &mut Checked) {
    for (digest, (size_bytes, job)) in pins {
        checked.blobs += 1;
        let path = blob_path(dir, digest);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                checked.fault(format!("job {job}: blob {digest} is missing"));
            }
            Err(error) => checked.fault(format!("job {job}: blob {digest}: {error}")),
            Ok(file) if file.len() != size_bytes => checked.fault(format!(
                "job {job}: blob {digest} has {} bytes, not {size_bytes}",
                file.len()
            )),
            Ok(_) if hash => {
                let mut hasher = blake3::Hasher::new();
                let read = fs::File::open(&path).and_then(|file| {
                    hasher.update_reader(file)?;
                    Ok(Digest::from(hasher.finalize()))
                });
                match read {
                    Ok(found) if found == digest => {}
                    Ok(_) => {
                        checked.fault(format!("job {job}: blob {digest} does not match its digest"))
                    }
                    Err(error) => checked.fault(format!("job {job}: blob {digest}: {error}")),
                }
            }
            Ok(_) => {}
        }
    }
}
