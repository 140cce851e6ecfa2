#![allow(clippy::unwrap_used)]

use tokio::time::Instant;

use framecrew_blobs::Digest;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus as Served, health_client::HealthClient,
};

use super::*;
use crate::{
    domain::{
        Attempts, BatchId, Frame, FrameCounts, FrameRange, FrameSet, FrameState, Incarnation,
        JobId, JobSpec, JobState, NodeDescription, Output, Rendered, Slice,
    },
    store::{BatchRecord, Group, JobRecord, NodeRecord, Request},
};

/// Opens the store of a data folder.
async fn open(data: &Path) -> Opened {
    store::open(&Location::in_folder(data), store::Options::default()).await.unwrap()
}

/// Fills a store with a job of `frames` frames, half of them finished and some with a node, and `closed` jobs
/// of one frame that are over.
async fn fill(data: &Path, frames: i32, closed: u64) {
    std::fs::create_dir_all(data).unwrap();
    let store = open(data).await.ledger;
    let job = |id: u64, frames: i32| {
        let spec = JobSpec::for_test(
            FrameSet::new(vec![FrameRange { first: 1, last: frames, step: 1 }]).unwrap(),
        );
        let request = Request { request_id: format!("r{id}"), fingerprint: "f".to_owned() };
        (request, JobRecord::submitted(JobId(id), Arc::new(spec), "3.4.1".parse().unwrap(), 1))
    };
    let finished = |frame: i32, revision: u64| Frame {
        frame,
        state: FrameState::Finished,
        revision,
        attempts: Attempts::default(),
        rendered: Some(Rendered {
            outputs: vec![Output {
                name: format!("{frame:06}.png"),
                digest: Digest::of(&frame.to_le_bytes()),
                size_bytes: 1 << 20,
                width: 1_920,
                height: 1_080,
                channels: 4,
            }],
            render_seconds: 1.0,
            peak_memory_bytes: 1 << 30,
            preview: None,
        }),
        failure: None,
        node: Some("a".into()),
    };
    let mut group = Group::default();
    let (request, mut record) = job(1, frames);
    let half = frames / 2;
    record.status.state = JobState::Rendering;
    record.status.revision = 1 + half as u64;
    record.status.counts =
        FrameCounts { open: (frames - half) as u64, finished: half as u64, ..Default::default() };
    group.new_jobs.push((request, record));
    for frame in 1..=half {
        let row = Arc::new(finished(frame, 1 + frame as u64));
        group.frames.insert((JobId(1), Slice::whole(frame)), row);
    }
    let node = NodeRecord {
        incarnation: Incarnation(1),
        address: "http://127.0.0.1:9".to_owned(),
        description: NodeDescription { slots: 1, ..NodeDescription::default() },
    };
    group.nodes.insert("a".into(), Some(node));
    let slices = (half + 1..=frames.min(half + 100)).map(Slice::whole).collect();
    let batch = BatchRecord { job: JobId(1), node: "a".into(), slices, log_sequence: 0 };
    group.started_batches.insert(BatchId(1 << 32), batch);
    for id in 2..2 + closed {
        let (request, mut record) = job(id, 1);
        record.status.state = JobState::Finished;
        record.status.revision = 2;
        record.status.counts = FrameCounts { finished: 1, ..Default::default() };
        group.new_jobs.push((request, record));
        group.frames.insert((JobId(id), Slice::whole(1)), Arc::new(finished(1, 2)));
    }
    let began = Instant::now();
    store.commit(&group).await.unwrap();
    println!("filled in {:?}", began.elapsed());
    store.close().await;
}

/// Starts an orchestrator and waits until it says that it serves; how long that took.
async fn start(data: &Path) -> (Duration, AbortOnDropHandle<Result<(), ServeError>>) {
    let began = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(serve(listener, Config::new(data.into()), std::future::pending()));
    let serving = AbortOnDropHandle::new(serving);
    tokio::task::yield_now().await;
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    while !health
        .check(HealthCheckRequest::default())
        .await
        .is_ok_and(|answer| answer.into_inner().status() == Served::Serving)
    {
        assert!(!serving.is_finished(), "the orchestrator ended");
    }
    (began.elapsed(), serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_hundred_thousand_frames_is_served_again() {
    for (frames, closed) in [(100_000, 0), (100, 20_000)] {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), frames, closed).await;
        let size = std::fs::metadata(dir.path().join("framecrew.db")).unwrap().len();
        let (took, _serving) = start(dir.path()).await;
        println!("{frames} frames, {closed} jobs that are over, {size} bytes: {took:?} to serve");
    }
}

/// Gives a filled store the blobs of its frames, as small as they are said to be large.
async fn fill_with_blobs(data: &Path, frames: i32) {
    fill(data, frames, 3).await;
    for frame in 1..=frames / 2 {
        let path = layout::blob_path(&data.join("blobs"), Digest::of(&frame.to_le_bytes()));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().set_len(1 << 20).unwrap();
    }
}

/// Overwrites what lies in the middle of the database.
fn tear(data: &Path) {
    use std::os::unix::fs::FileExt as _;
    let path = data.join("framecrew.db");
    let middle = std::fs::metadata(&path).unwrap().len() / 2 / 4_096 * 4_096;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xa5; 8_192], middle).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_database_is_refused_with_the_way_out_and_check_tells_of_it() {
    let dir = tempfile::tempdir().unwrap();
    fill_with_blobs(dir.path(), 2_000).await;
    let checked = crate::check(dir.path(), false).await.unwrap();
    assert!(checked.is_sound(), "{:?}", checked.faults);
    assert_eq!((checked.jobs, checked.frames, checked.blobs), (4, 1_003, 1_000));
    tear(dir.path());
    assert!(!crate::check(dir.path(), false).await.unwrap().is_sound());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(dir.path().into());
    let error = serve(listener, config, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_or_empty_beside_its_blobs_is_no_new_store() {
    let dir = tempfile::tempdir().unwrap();
    fill_with_blobs(dir.path(), 20).await;
    let database = dir.path().join("framecrew.db");
    std::fs::write(&database, b"").unwrap();
    for gone in [false, true] {
        if gone {
            std::fs::remove_file(&database).unwrap();
        }
        let checked = crate::check(dir.path(), false).await.unwrap();
        assert!(checked.faults[0].contains("gone, or empty"), "{:?}", checked.faults);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(dir.path().into());
        let error = serve(listener, config, std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains("gone, or empty") && error.contains("backup"), "{error}");
        let copied = crate::backup(dir.path(), &dir.path().join("copy")).await.unwrap_err();
        assert!(copied.to_string().contains("gone, or empty"), "{copied}");
        let bytes = std::fs::metadata(&database).map(|file| file.len()).ok();
        assert_eq!(bytes, (!gone).then_some(0), "nothing was changed");
    }
}

#[tokio::test]
async fn check_tells_of_counts_that_are_wrong_and_of_blobs_that_are_missing_or_other() {
    let dir = tempfile::tempdir().unwrap();
    fill_with_blobs(dir.path(), 20).await;
    let blob =
        |frame: i32| layout::blob_path(&dir.path().join("blobs"), Digest::of(&frame.to_le_bytes()));
    std::fs::remove_file(blob(3)).unwrap();
    std::fs::write(blob(4), b"short").unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new();
    let options = options.filename(dir.path().join("framecrew.db"));
    use sqlx::Connection as _;
    let mut database = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE job SET finished_frames = 9, open_frames = 11 WHERE job_id = 1")
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::query("DELETE FROM node").execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    let faults = crate::check(dir.path(), false).await.unwrap().faults;
    assert_eq!(faults.len(), 4, "{faults:?}");
    // All but the three that are found already.
    let hashed = crate::check(dir.path(), true).await.unwrap().faults;
    assert_eq!(hashed.len(), 4 + 8, "{hashed:?}");
    let nowhere = crate::check(&dir.path().join("nowhere"), false).await.unwrap_err();
    assert!(matches!(nowhere, crate::NoStore::Missing(_)), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_under_load_is_sound_and_another_life_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (data, to) = (dir.path().join("data"), dir.path().join("copy"));
    fill_with_blobs(&data, 200).await;
    let Opened { ledger: writer, identity, .. } = open(&data).await;
    let load = AbortOnDropHandle::new(tokio::spawn(async move {
        for sequence in 1.. {
            let mut group = Group::default();
            group.log_sequences.insert(BatchId(1 << 32), sequence);
            writer.commit(&group).await.unwrap();
        }
    }));
    let first = crate::backup(&data, &to).await.unwrap();
    assert_eq!((first.blobs, first.kept_blobs, first.missing_blobs), (100, 0, 0));
    let again = crate::backup(&data, &to).await.unwrap();
    assert_eq!((again.blobs, again.kept_blobs), (0, 100));
    assert!(!load.is_finished(), "commits go on meanwhile");
    drop(load);
    let checked = crate::check(&to, false).await.unwrap();
    assert!(checked.is_sound(), "{:?}", checked.faults);
    assert_eq!((checked.jobs, checked.frames), (4, 103));

    let Opened { ledger: copy, identity: restored, .. } = open(&to).await;
    assert_ne!(restored.store_id, identity.store_id);
    assert!(restored.epoch.0 > identity.epoch.0 + 1_000, "ahead of what the store may reach");
    let remembered = copy.restore().await.unwrap();
    assert_eq!((remembered.batches.len(), remembered.nodes.len()), (0, 0));
    assert_eq!(remembered.open_jobs[0].1.finished.len(), 100);
    copy.close().await;
    let (_, serving) = start(&to).await;
    drop(serving);
    let refused = crate::backup(&data, &to).await.unwrap_err();
    assert!(matches!(refused, crate::BackupError::InUse(_)), "{refused}");
}
