//! A copy of a store that an orchestrator can be started on, made while another one works with it.
//!
//! The copy is a store of its own. It has a new `store_id`: watchers do not resume in it at revisions that it never
//! had, and nodes do not hand it frames of other jobs with the same numbers. Its epoch lies ahead, so that no node has
//! seen its batch ids. It has no nodes and no batches: frames that were being rendered are rendered again, by nodes
//! that join it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;
use futures::TryStreamExt as _;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    check::NoStore,
    rows::{FRAME, WHOLE_JOB, frame_of, whole_job_of},
    store::{database_in, is_lost, options},
};
use crate::{
    blobs::layout::{self, blob_path},
    disk::{make_folder, sync_folder},
    store::StoreError,
};

/// How far the epoch of a copy lies ahead: more starts than the store will see, and more seconds than a clock will be
/// set back, before the copy is used.
const EPOCHS_AHEAD: i64 = 100_000;

/// The result of a backup.
#[derive(Debug)]
pub struct Backup {
    /// Blobs that were not in the copy yet.
    pub blobs: u64,
    /// Blobs that an earlier backup to the same place has copied.
    pub kept_blobs: u64,
    /// Blobs that the store itself lacks: `check` names them.
    pub missing_blobs: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error(transparent)]
    NoStore(#[from] NoStore),
    /// The target is a store that is in use.
    #[error("{} is a store that an orchestrator has worked with; choose another folder", .0.display())]
    InUse(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write the copy to {}: {error}; choose another folder, or make room", path.display())]
    Copy {
        /// The folder of the copy.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The database is damaged.
    #[error(
        "the database is damaged ({0}), and was not copied; `framecrew-orchestrator check` shows where. Earlier copies \
         are unchanged"
    )]
    Damaged(String),
    /// The database cannot be read.
    #[error("cannot copy the database: {0}")]
    Database(String),
}

/// Copies the store in a data folder to the folder `to`. Repeating it brings the copy up to date and copies only new
/// blobs. On one disk blobs are linked, not copied.
///
/// # Errors
/// When there is no sound copy; an earlier one is unchanged.
pub async fn backup(data: &Path, to: &Path) -> Result<Backup, BackupError> {
    let from = database_in(data);
    let (from_blobs, to_blobs) = (layout::blobs_in(data), layout::blobs_in(to));
    if is_lost(&from, layout::has_blobs(&from_blobs)) {
        return Err(BackupError::Database(StoreError::Lost.to_string()));
    }
    if !from.is_file() {
        return Err(NoStore::Missing(data.to_owned()).into());
    }
    // An orchestrator that was started on the copy has made it a store in use.
    if to.join("lock").exists() {
        return Err(BackupError::InUse(to.to_owned()));
    }
    let failed = |error| BackupError::Copy { path: to.to_owned(), error };
    make_folder(to).map_err(failed)?;
    fs::create_dir_all(&to_blobs).map_err(failed)?;
    let part = to.join("framecrew.db.part");
    remove_database(&part).map_err(failed)?;
    let pins = match copy_database(&from, &part).await {
        Ok(pins) => pins,
        Err(StoreError::OtherVersion(_)) => {
            return Err(NoStore::OtherVersion(data.to_owned()).into());
        }
        Err(error) => {
            // A part of a copy is of no use.
            let _ = remove_database(&part);
            return Err(match error {
                // Nothing is written but the copy.
                StoreError::Full => failed(io::ErrorKind::StorageFull.into()),
                StoreError::Corrupt(said) => BackupError::Damaged(said),
                error => BackupError::Database(error.to_string()),
            });
        }
    };
    let copied = tokio::task::spawn_blocking(move || copy_blobs(&from_blobs, &to_blobs, pins));
    let copied = copied.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    // Last: a database that is there has its blobs.
    File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
    let database = database_in(to);
    // SQLite would take a log that a reader of an earlier copy left for the latest pages.
    remove_beside(&database).map_err(failed)?;
    fs::rename(&part, database).map_err(failed)?;
    sync_folder(to).map_err(failed)?;
    Ok(copied)
}

fn remove_database(path: &Path) -> io::Result<()> {
    remove_beside(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what SQLite keeps beside a database.
fn remove_beside(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Copies one moment of the database, makes it a store of its own, and returns the blobs that it needs.
async fn copy_database(from: &Path, part: &Path) -> Result<HashSet<Digest>, StoreError> {
    // As it is: to set a journal's mode would make a database of an empty file.
    let mut source =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(from)).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(part.to_string_lossy().into_owned())
        .execute(&mut source)
        .await?;
    source.close().await?;
    // Without a log beside it: the copy is one file.
    let options = options(part).journal_mode(sqlx::sqlite::SqliteJournalMode::Delete);
    let mut copy = SqliteConnection::connect_with(&options).await?;
    let mut tx = copy.begin().await?;
    sqlx::query("UPDATE store SET store_id = $1, epoch = epoch + $2")
        .bind(uuid::Uuid::new_v4().simple().to_string())
        .bind(EPOCHS_AHEAD)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM batch").execute(&mut *tx).await?;
    sqlx::query("DELETE FROM node").execute(&mut *tx).await?;
    // Every blob of the copy is needed by a job.
    sqlx::query("DELETE FROM blob_use").execute(&mut *tx).await?;
    sqlx::query("UPDATE store SET blob_uses_complete = 1").execute(&mut *tx).await?;
    tx.commit().await?;
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut copy).await?;
    if check != "ok" {
        return Err(StoreError::Corrupt(check));
    }
    let mut pins = HashSet::new();
    {
        let mut jobs = sqlx::query(WHOLE_JOB).fetch(&mut copy);
        while let Some(row) = jobs.try_next().await? {
            let record = whole_job_of(&row)?;
            for file in &record.spec.project.files {
                pins.extend(file.blobs().map(|(digest, _)| digest));
            }
        }
    }
    {
        let mut frames = sqlx::query(FRAME).fetch(&mut copy);
        while let Some(row) = frames.try_next().await? {
            let Some(rendered) = frame_of(&row)?.rendered else { continue };
            pins.extend(rendered.outputs.iter().map(|output| output.digest));
            pins.extend(rendered.preview.map(|preview| preview.digest));
        }
    }
    copy.close().await?;
    Ok(pins)
}

fn copy_blobs(from: &Path, to: &Path, pins: HashSet<Digest>) -> io::Result<Backup> {
    let mut backup = Backup { blobs: 0, kept_blobs: 0, missing_blobs: 0 };
    let mut folders = HashSet::new();
    for digest in pins {
        let (source, target) = (blob_path(from, digest), blob_path(to, digest));
        let Ok(size_bytes) = fs::metadata(&source).map(|file| file.len()) else {
            backup.missing_blobs += 1;
            continue;
        };
        if fs::metadata(&target).is_ok_and(|file| file.len() == size_bytes) {
            backup.kept_blobs += 1;
            continue;
        }
        if let Some(folder) = target.parent()
            && folders.insert(folder.to_owned())
        {
            fs::create_dir_all(folder)?;
        }
        // Blobs never change under their name, so a link is as good as a copy.
        if fs::hard_link(&source, &target).is_err() {
            let part = target.with_extension("part");
            fs::copy(&source, &part)?;
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &target)?;
        }
        backup.blobs += 1;
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))?;
    sync_folder(to)?;
    Ok(backup)
}
