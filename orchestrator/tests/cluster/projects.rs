//! Projects in chunks: checked, accepted, and kept as long as a job needs them.

use std::path::Path;

use bytes::Bytes;
use framecrew_blobs::{BlobClient, Digest};
use framecrew_orchestrator::Config;
use framecrew_proto::v1::{Chunk, JobSpec, Project, ProjectFile, SubmitJobRequest};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::tempdir;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Orchestrator, patience};

/// A .blend whose version and end lie in different chunks, the first of them tiny.
const PIECES: [&[u8]; 4] = [b"BLEN", b"DER-v304 and", b" so on EN", b"DB"];

async fn in_chunks(orchestrator: &Orchestrator) -> JobSpec {
    let mut chunks = Vec::new();
    for piece in PIECES {
        let digest = orchestrator.upload(piece).await.to_string();
        chunks.push(Chunk { digest, size_bytes: piece.len() as u64 });
    }
    let whole = PIECES.concat();
    let file = ProjectFile {
        path: "shot.blend".to_owned(),
        digest: Digest::of(&whole).to_string(),
        size_bytes: whole.len() as u64,
        chunks,
    };
    let project = Project { blend_path: file.path.clone(), files: vec![file] };
    JobSpec { project: Some(project), ..orchestrator.spec(1, 1).await }
}

fn chunks(spec: &mut JobSpec) -> &mut Vec<Chunk> {
    &mut spec.project.as_mut().unwrap().files[0].chunks
}

async fn refusal(orchestrator: &Orchestrator, spec: JobSpec) -> Status {
    let request = SubmitJobRequest { request_id: "r".to_owned(), spec: Some(spec) };
    orchestrator.client().await.submit_job(request).await.unwrap_err()
}

#[tokio::test]
async fn a_file_in_chunks_is_accepted_and_its_version_read_across_them() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let spec = in_chunks(&orchestrator).await;
    let job = orchestrator.submit(spec.clone()).await;
    let job = orchestrator.job(job).await;
    assert_eq!(job.file_version, "3.4");
    assert_eq!(job.spec.unwrap().project, spec.project);
}

#[tokio::test]
async fn chunks_that_are_not_the_file_or_not_there_are_refused() {
    let data = tempdir().unwrap();
    let orchestrator = Orchestrator::start(data.path()).await;
    let good = in_chunks(&orchestrator).await;

    let mut faulty = good.clone();
    let digest = chunks(&mut faulty)[0].digest.clone();
    chunks(&mut faulty).push(Chunk { digest, size_bytes: 0 });
    chunks(&mut faulty)[1].size_bytes += 1;
    let status = refusal(&orchestrator, faulty).await;
    let fields: Vec<_> = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|violation| &*violation.field).collect();
    let [chunk, size] =
        ["spec.project.files[0].chunks[4].size_bytes", "spec.project.files[0].size_bytes"];
    assert_eq!(fields, [chunk, size]);

    // The sum is right, the stored sizes are not.
    let mut shifted = good.clone();
    chunks(&mut shifted)[1].size_bytes += 1;
    chunks(&mut shifted)[2].size_bytes -= 1;
    let status = refusal(&orchestrator, shifted).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    let mut missing = good;
    chunks(&mut missing)[2].digest = Digest::of(b"never sent").to_string();
    let status = refusal(&orchestrator, missing).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let violations = status.get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations[0].subject, Digest::of(b"never sent").to_string());
    assert!(violations[0].description.contains("shot.blend is not uploaded"));
}

/// Makes all blobs of a stopped orchestrator look as if nothing had used them since 1970.
async fn last_used_long_ago(data: &Path) {
    let options = SqliteConnectOptions::new().filename(data.join("framecrew.db"));
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let aged = sqlx::query("UPDATE blob_use SET used_at_ms = 0").execute(&mut database).await;
    assert!(aged.unwrap().rows_affected() > PIECES.len() as u64, "their uses were saved");
    database.close().await.unwrap();
}

#[tokio::test]
async fn at_its_start_an_orchestrator_removes_what_is_old_and_no_job_needs() {
    let data = tempdir().unwrap();
    let mut orchestrator = Orchestrator::start(data.path()).await;
    let spec = in_chunks(&orchestrator).await;
    let unused = orchestrator.upload(b"never submitted").await;
    orchestrator.submit(spec).await;
    orchestrator.stop();
    orchestrator.stopped().await;
    let path = |digest: Digest| {
        let digest = digest.to_string();
        data.path().join("blobs").join(&digest[..2]).join(&digest[2..])
    };
    let pinned = PIECES.map(|piece| path(Digest::of(piece)));
    last_used_long_ago(data.path()).await;

    let orchestrator = Orchestrator::start_with(Config::new(data.path().to_owned())).await;
    let blobs = BlobClient::new(orchestrator.channel().await);
    patience(async {
        while path(unused).exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(pinned.iter().all(|blob| blob.exists()));
    assert_eq!(blobs.find_missing(&[unused]).await.unwrap(), [unused]);
    // Whoever is refused sends it again.
    blobs.upload_bytes(Bytes::from_static(b"never submitted"), unused).await.unwrap();
    assert_eq!(blobs.find_missing(&[unused]).await.unwrap(), []);
}
