#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc};

use framecrew_blobs::Digest;

use sqlx::Connection as _;

use super::{SqliteStore, rows::to_json, store::options};
use crate::{
    domain::{FrameSet, JobId, JobSpec, Project, ProjectFile},
    store::{Archive as _, Group, JobRecord, Ledger as _, Request},
};

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
        project: Project { blend_path: blend.path.clone(), files: vec![blend] },
        ..JobSpec::for_test(FrameSet::one(1))
    };
    let record = JobRecord::submitted(JobId(1), Arc::new(spec), "3.4".parse().unwrap(), 0);
    let request = Request { request_id: "r".to_owned(), fingerprint: "f".to_owned() };
    let new_jobs = vec![(request, record.clone())];
    store.commit(&Group { new_jobs, ..Group::default() }).await.unwrap();
    (store, record)
}

#[tokio::test]
async fn a_store_of_a_former_version_keeps_the_projects_of_its_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (store, record) = store_with_a_project(&path).await;
    let as_it_was = "UPDATE job SET spec = json_set(spec, '$.project', json((SELECT project \
         FROM project WHERE project.job_id = job.job_id))); DROP TABLE project; \
         DROP TABLE blob_use; ALTER TABLE store DROP COLUMN blob_uses_complete; \
         DELETE FROM _sqlx_migrations WHERE version >= 4";
    sqlx::raw_sql(as_it_was).execute(&store.writer).await.unwrap();
    let spec: String =
        sqlx::query_scalar("SELECT spec FROM job").fetch_one(&store.writer).await.unwrap();
    assert_eq!(spec, to_json(&*record.spec), "as former versions wrote it");
    store.close().await;

    let (store, _) = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.job(JobId(1)).await.unwrap().unwrap().spec, record.spec);
    let listed = store.jobs_before(JobId(u64::MAX), 9).await.unwrap();
    assert_eq!(*listed[0].spec, record.spec.without_project());
    assert_eq!(store.restore().await.unwrap().open_jobs[0].0.spec, record.spec);
    let mut pins = Vec::new();
    store.pins(&mut |digest| pins.push(digest)).await.unwrap();
    assert_eq!(pins, [Digest::of(b"blend")]);
}

#[tokio::test]
async fn what_is_committed_is_on_the_disk_and_not_in_its_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("framecrew.db");
    let (store, _) = SqliteStore::open(&path).await.unwrap();
    store.close().await;
    let mut connection = sqlx::SqliteConnection::connect_with(&options(&path)).await.unwrap();
    let synchronous: i64 =
        sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut connection).await.unwrap();
    let journal: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
    // FULL: the log is synced with each commit. NORMAL would lose the last ones with the power.
    assert_eq!((synchronous, &*journal), (2, "wal"));
}

#[tokio::test]
async fn the_driver_reads_while_slow_watchers_have_every_connection_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_with_a_project(&dir.path().join("db")).await;
    let ledger = store.for_driver();
    let _slow = store.take_readers().await;
    assert!(ledger.find_request("r").await.unwrap().is_some());
    assert!(ledger.snapshot(JobId(1), 0).await.unwrap().is_some());
    ledger.check_epoch().await.unwrap();
}
