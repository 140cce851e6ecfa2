//! What comes out of a cluster and how people see it, with an orchestrator that follows a script: it has what a
//! real one has seldom, and names outputs as no honest one would.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "chaos/proxy.rs"]
mod proxy;

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use assert_cmd::Command;
use framecrew::{
    Cluster, Error, OutputFolder, fetch,
    proto::{
        blob_store_server::{BlobStore, BlobStoreServer},
        download_request::Source,
        orchestrator_server::{Orchestrator, OrchestratorServer},
        watch_job_response::Update,
        *,
    },
};
use framecrew_blobs::Digest;
use futures::{StreamExt as _, stream, stream::BoxStream};
use image::{Rgb, RgbImage};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(120);

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// Bytes of a blob in one message.
const CHUNK_BYTES: usize = 16 * 1024;

type LogAnswer = Result<ReadLogResponse, Status>;

/// What the orchestrator knows and stores.
#[derive(Debug, Clone, Default)]
struct Script {
    jobs: BTreeMap<u64, Job>,
    frames: BTreeMap<u64, Vec<Frame>>,
    updates: Vec<Update>,
    blobs: BTreeMap<String, Vec<u8>>,
    /// What each reader of a log is told, one after the other; further ones are refused.
    logs: Arc<Mutex<VecDeque<Vec<LogAnswer>>>>,
    /// From where downloads were asked for.
    offsets: Arc<Mutex<Vec<u64>>>,
    /// Whether requests for frames get no answer.
    withholds_frames: bool,
    /// The error that submitting and cancelling return. Without it, the submitted job is job 7.
    refusal: Option<Status>,
}

impl Script {
    /// With job 7, whose four frames are finished.
    fn new() -> Self {
        let spec = JobSpec {
            name: "sunrise".into(),
            frames: vec![FrameRange { first: 1, last: 4, step: 1 }],
            ..JobSpec::default()
        };
        let counts = FrameCounts { finished: 4, ..FrameCounts::default() };
        let job = Job {
            job_id: 7,
            spec: Some(spec),
            state: JobState::Finished.into(),
            counts: Some(counts),
            ..Job::default()
        };
        Self { jobs: [(7, job)].into(), ..Self::default() }
    }

    fn job(&mut self, job_id: u64) -> &mut Job {
        self.jobs.get_mut(&job_id).unwrap()
    }

    /// With job 8, which has made an MP4 of job 7's frames.
    fn with_movie(mut self, content: &[u8]) -> Self {
        let movie = Some(Movie { format: MovieFormat::Mp4.into() });
        self.job(7).movie_job_id = 8;
        self.job(7).spec.as_mut().unwrap().movie = movie;
        let spec = JobSpec { movie_of_job_id: 7, ..self.job(7).spec.clone().unwrap() };
        let counts = FrameCounts { finished: 1, ..FrameCounts::default() };
        let job = Job {
            job_id: 8,
            spec: Some(spec),
            movie_job_id: 0,
            counts: Some(counts),
            ..self.job(7).clone()
        };
        self.jobs.insert(8, job);
        let output = self.store("sunrise.mp4", content);
        self.frames.insert(8, vec![frame(1, FrameState::Finished, vec![output])]);
        self
    }

    /// Whoever watches job 7 sees one that was submitted at another time than the one there is, which has a frame.
    fn watched_before_another(mut self) -> Self {
        let watched =
            Job { state: JobState::Rendering.into(), submitted_at_ms: 5, ..self.job(7).clone() };
        let snapshot = JobSnapshot { job: Some(watched), ..JobSnapshot::default() };
        self.updates = vec![Update::Snapshot(snapshot)];
        let output = self.store("0001.png", b"another");
        self.frames.insert(7, vec![frame(1, FrameState::Finished, vec![output])]);
        self
    }

    fn refused(&self) -> Result<(), Status> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    fn store(&mut self, name: &str, content: &[u8]) -> Output {
        let digest = Digest::of(content).to_string();
        self.blobs.insert(digest.clone(), content.into());
        let size_bytes = content.len() as u64;
        Output { name: name.into(), digest, size_bytes, ..Output::default() }
    }

    fn store_image(&mut self, name: &str, red: u8) -> Output {
        let picture = RgbImage::from_pixel(160, 90, Rgb([red, 0, 0]));
        let mut bytes = io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::from_path(name).unwrap()).unwrap();
        self.store(name, &bytes.into_inner())
    }

    /// Gives the URL at which it is played.
    async fn play(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(self);
        let incoming = stream::unfold(listener, |listener| async {
            let connection = listener.accept().await.map(|(connection, _)| connection);
            Some((connection, listener))
        });
        let server = tonic::transport::Server::builder()
            .add_service(OrchestratorServer::from_arc(script.clone()))
            .add_service(BlobStoreServer::from_arc(script))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        url
    }
}

fn frame(number: i32, state: FrameState, outputs: Vec<Output>) -> Frame {
    Frame { frame: number, state: state.into(), outputs, node: "a".into(), ..Frame::default() }
}

fn preview(output: Output) -> Option<Preview> {
    let Output { digest, size_bytes, .. } = output;
    Some(Preview { digest, size_bytes, width: 160, height: 90, ..Preview::default() })
}

fn off_script<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the script"))
}

#[tonic::async_trait]
impl Orchestrator for Script {
    type WatchJobStream = BoxStream<'static, Result<WatchJobResponse, Status>>;
    type WatchClusterStream = BoxStream<'static, Result<WatchClusterResponse, Status>>;
    type ReadLogStream = BoxStream<'static, Result<ReadLogResponse, Status>>;

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let job = self.jobs.get(&request.into_inner().job_id).cloned();
        let job = job.ok_or_else(|| Status::not_found("no such job"))?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        _: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let jobs = self.jobs.values().rev().cloned().collect();
        Ok(Response::new(ListJobsResponse { jobs, ..ListJobsResponse::default() }))
    }

    async fn list_frames(
        &self,
        request: Request<ListFramesRequest>,
    ) -> Result<Response<ListFramesResponse>, Status> {
        if self.withholds_frames {
            std::future::pending::<()>().await;
        }
        let frames = self.frames.get(&request.into_inner().job_id).cloned().unwrap_or_default();
        Ok(Response::new(ListFramesResponse { frames, ..ListFramesResponse::default() }))
    }

    async fn watch_job(
        &self,
        _: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let message = |(update, revision)| {
            Ok(WatchJobResponse { revision, store_id: "s".into(), update: Some(update) })
        };
        let updates = self.updates.clone().into_iter().zip(1..).map(message);
        Ok(Response::new(stream::iter(updates).boxed()))
    }

    async fn submit_job(
        &self,
        _: Request<SubmitJobRequest>,
    ) -> Result<Response<SubmitJobResponse>, Status> {
        let job = self.jobs.get(&7).cloned();
        self.refused()?;
        Ok(Response::new(SubmitJobResponse { job, existed: false }))
    }

    async fn cancel_job(
        &self,
        _: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        self.refused()?;
        off_script()
    }

    async fn retry_frames(
        &self,
        request: Request<RetryFramesRequest>,
    ) -> Result<Response<RetryFramesResponse>, Status> {
        let RetryFramesRequest { job_id, frames } = request.into_inner();
        let job = self.jobs.get(&job_id).cloned();
        let job = job.ok_or_else(|| Status::not_found("no such job"))?;
        let is_wanted =
            |frame: &Frame| frames.is_empty() || frames.iter().any(|it| it.first == frame.frame);
        let known = self.frames.get(&job_id).into_iter().flatten();
        let failed = known.filter(|frame| frame.state() == FrameState::Failed && is_wanted(frame));
        let reopened = failed.count() as u64;
        Ok(Response::new(RetryFramesResponse { job: Some(job), reopened }))
    }

    async fn adopt_frames(
        &self,
        _: Request<AdoptFramesRequest>,
    ) -> Result<Response<AdoptFramesResponse>, Status> {
        off_script()
    }

    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        off_script()
    }

    async fn read_log(
        &self,
        _: Request<ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let log = self.logs.lock().unwrap().pop_front();
        log.map_or_else(off_script, |log| Ok(Response::new(stream::iter(log).boxed())))
    }

    async fn register_node(
        &self,
        _: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        off_script()
    }

    async fn heartbeat(
        &self,
        _: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        off_script()
    }

    async fn unregister_node(
        &self,
        _: Request<UnregisterNodeRequest>,
    ) -> Result<Response<UnregisterNodeResponse>, Status> {
        off_script()
    }

    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let blender = |version: &str, kind: BlenderKind| Blender {
            version: version.into(),
            kind: kind.into(),
            ..Blender::default()
        };
        let description = NodeDescription {
            blenders: vec![
                blender("4.5.15", BlenderKind::Provisionable),
                blender("3.4.1", BlenderKind::Executable),
            ],
            ffmpeg: "7.1".into(),
            allows_scripts: true,
            ..NodeDescription::default()
        };
        let node = |name: &str, description| Node {
            name: name.into(),
            state: NodeState::Idle.into(),
            description: Some(description),
            ..Node::default()
        };
        let mut poor = node("poor", NodeDescription::default());
        poor.set_state(NodeState::Quarantined);
        poor.state_reason = "every try on it failed".into();
        let nodes = vec![node("rich", description), poor];
        Ok(Response::new(ListNodesResponse { nodes }))
    }
}

#[tonic::async_trait]
impl BlobStore for Script {
    type DownloadStream = BoxStream<'static, Result<DownloadResponse, Status>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let DownloadRequest { source, offset } = request.into_inner();
        let Some(Source::Digest(digest)) = source else { return off_script() };
        let blob = self.blobs.get(&digest).ok_or_else(|| Status::not_found("no such blob"))?;
        self.offsets.lock().unwrap().push(offset);
        let data = &blob[usize::try_from(offset).unwrap()..];
        let chunk = |data: &[u8]| {
            let data = data.to_vec().into();
            Ok(DownloadResponse { size_bytes: blob.len() as u64, data })
        };
        let chunks: Vec<_> = data.chunks(CHUNK_BYTES).map(chunk).collect();
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn find_missing(
        &self,
        _: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        Ok(Response::new(FindMissingResponse::default()))
    }

    async fn upload(
        &self,
        _: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        off_script()
    }
}

/// Runs `framecrew` in a folder at a cluster; gives its exit code and what it said on stdout and stderr.
async fn framecrew(args: &[&str], url: &str, folder: &Path) -> (i32, String, String) {
    let mut command = Command::cargo_bin("framecrew").unwrap();
    command.args(args).args(["--cluster", url]).current_dir(folder).timeout(PATIENCE);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(folder.join(&inside)).unwrap() {
            let entry = entry.unwrap();
            let path = inside.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => found.push(path.to_str().unwrap().replace('\\', "/")),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_in_folders_come_into_theirs() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let names = ["0001.png", "masks/0001.png", "passes/deep/0001.exr"];
    let outputs = names.map(|name| script.store(name, name.as_bytes())).into();
    script.frames.insert(7, vec![frame(1, FrameState::Finished, outputs)]);
    let url = script.play().await;
    let (code, stdout, stderr) = framecrew(&["fetch", "7", "-o", "out"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.starts_with("3 files brought"), "{stdout}");
    assert_eq!(files(&base.path().join("out")), names);
    for name in names {
        assert_eq!(fs::read(base.path().join("out").join(name)).unwrap(), name.as_bytes());
    }
    let (_, stdout, _) =
        framecrew(&["fetch", "7", "-f", "1", "-o", "out"], &url, base.path()).await;
    assert!(stdout.starts_with("0 files brought (0 B), 3 there already"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gave_way_is_told_where_other_outputs_do_not_come_too() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let outputs = vec![script.store("0001.png", b"new"), script.store("0002.png", b"lost")];
    script.blobs.remove(&outputs[1].digest);
    script.frames.insert(7, vec![frame(1, FrameState::Finished, outputs)]);
    let url = script.play().await;
    fs::create_dir(base.path().join("out")).unwrap();
    fs::write(base.path().join("out/0001.png"), "the person's own").unwrap();
    let fetch = ["fetch", "7", "-o", "out"];
    let (code, stdout, stderr) = framecrew(&fetch, &url, base.path()).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    for words in ["frame 1 (0001.png): out/0001.png is there already", "--overwrite", "-f 1`"] {
        assert!(stderr.contains(words), "{words:?} is not in: {stderr}");
    }
    assert_eq!(fs::read(base.path().join("out/0001.png")).unwrap(), b"the person's own");
    let fetch = [&fetch[..], &["--overwrite"]].concat();
    let (code, stdout, stderr) = framecrew(&fetch, &url, base.path()).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stderr.contains("note: overwrote 1 existing file of the same name"), "{stderr}");
    assert!(stderr.contains("frame 1 (0002.png)"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_earlier_job_are_replaced_and_those_of_a_person_stay() {
    let base = tempfile::tempdir().unwrap();
    let mut urls = Vec::new();
    for content in [&b"first"[..], b"second"] {
        let mut script = Script::new().with_movie(content);
        let image = script.store("0001.png", content);
        let mask = script.store("masks/0001.png", content);
        script.frames.insert(7, vec![frame(1, FrameState::Finished, vec![image, mask])]);
        urls.push(script.play().await);
    }
    let frames = &["fetch", "7", "-o", "out"][..];
    let movie = &["fetch", "7", "--movie", "out/shot.mp4"][..];
    for (args, files) in
        [(frames, &["out/0001.png", "out/masks/0001.png"][..]), (movie, &["out/shot.mp4"])]
    {
        let count = files.len();
        let fetched = async |url: &String, more: &[&str]| {
            let args = [args, more].concat();
            let (code, stdout, stderr) = framecrew(&args, url, base.path()).await;
            let contents = files.iter().map(|file| fs::read(base.path().join(file)).unwrap());
            (code, contents.collect::<Vec<_>>(), stdout + &stderr)
        };
        let (code, contents, said) = fetched(&urls[0], &[]).await;
        assert_eq!((code, contents), (0, vec![b"first".to_vec(); count]), "{said}");
        // Render the same job again, then another job to the same place.
        let (code, _, said) = fetched(&urls[0], &[]).await;
        assert!(code == 0 && !said.contains("note"), "{said}");
        let (code, contents, said) = fetched(&urls[1], &[]).await;
        assert_eq!((code, contents), (0, vec![b"second".to_vec(); count]), "{said}");
        assert!(said.contains("overwrote"), "{said}");

        fs::write(base.path().join(files[count - 1]), b"painted").unwrap();
        let (code, contents, said) = fetched(&urls[0], &[]).await;
        assert_ne!(code, 0, "{said}");
        assert_eq!(contents[count - 1], b"painted", "{said}");
        assert!(said.contains(files[count - 1]) && said.contains("--overwrite"), "{said}");
        let (code, contents, said) = fetched(&urls[0], &["--overwrite"]).await;
        assert_eq!((code, contents), (0, vec![b"first".to_vec(); count]), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_output_is_kept_and_gives_way_to_a_later_job() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("out")).unwrap();
    // As a copy without attributes, or a process that was killed before it had marked the file.
    fs::write(base.path().join("out/0001.png"), "first").unwrap();
    for (content, told) in
        [("first", "0 files brought (0 B), 1 there"), ("second", "1 file brought")]
    {
        let mut script = Script::new();
        let image = script.store("0001.png", content.as_bytes());
        script.frames.insert(7, vec![frame(1, FrameState::Finished, vec![image])]);
        let url = script.play().await;
        let fetch = ["fetch", "7", "-o", "out"];
        let (code, stdout, stderr) = framecrew(&fetch, &url, base.path()).await;
        assert!(code == 0 && stdout.starts_with(told), "{stdout}{stderr}");
        assert_eq!(fs::read_to_string(base.path().join("out/0001.png")).unwrap(), content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_person_saves_during_the_download_stays() {
    let base = tempfile::tempdir().unwrap();
    let url = Script::new().with_movie(b"a movie").play().await;
    let cluster = framecrew::Cluster::connect(&url).await.unwrap();
    let to = base.path().join("sunrise.mp4");
    let file = framecrew::OutputFile::open(&to).unwrap();
    let fetching = framecrew::fetch::fetch_movie(&cluster, 8, &file, |_, _| {
        fs::write(&to, "the person's own").unwrap();
    });
    let error = tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::InTheWay { .. }), "{error}");
    assert_eq!(fs::read_to_string(&to).unwrap(), "the person's own");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1, "the download is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_of_a_hostile_orchestrator_lands_outside_of_the_folder() {
    let base = tempfile::tempdir().unwrap();
    let out = base.path().join("user/out");
    fs::create_dir_all(&out).unwrap();
    let names =
        ["../evil", "masks/../../evil", "/evil", ".bashrc", "a/.ssh/config", "C:evil", "a\\b", ""];
    let mut script = Script::new();
    let mut outputs: Vec<_> = names.iter().map(|name| script.store(name, b"evil")).collect();
    outputs.push(script.store("masks/0002.png", b"good"));
    #[cfg(unix)]
    {
        fs::create_dir(base.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../../elsewhere", out.join("away")).unwrap();
        outputs.push(script.store("away/evil", b"evil"));
    }
    let refused = outputs.len() - 1;
    script.frames.insert(7, vec![frame(2, FrameState::Finished, outputs)]);
    let url = script.play().await;
    let args = ["fetch", "7", "-o", "user/out"];
    let (code, stdout, stderr) = framecrew(&args, &url, base.path()).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert_eq!(stderr.matches("it was not fetched").count(), refused, "{stderr}");
    assert!(stderr.contains("; the other 1 are in user/out"), "{stderr}");
    let mut left = files(base.path());
    left.retain(|file| file != "user/out/away");
    assert_eq!(left, ["user/out/masks/0002.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_are_told_once_as_they_come_and_counted_in_the_end() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let told = ["the image `wood.png` is missing", "the script\x1b[31m `rig.py` was not run"];
    let job = |warnings: usize, state: JobState| {
        let warning = |text: &&str| Warning { text: (*text).into(), ..Warning::default() };
        let warnings = told[..warnings].iter().map(warning).collect();
        Some(Job { warnings, state: state.into(), ..Script::new().job(7).clone() })
    };
    let (rendering, finished) = (JobState::Rendering, JobState::Finished);
    let changes = |warnings| {
        let job = job(warnings, rendering);
        Update::Changes(JobChanges { job, ..JobChanges::default() })
    };
    script.updates = vec![
        Update::Snapshot(JobSnapshot { job: job(1, rendering), ..JobSnapshot::default() }),
        changes(1),
        changes(2),
        changes(2),
        Update::Ended(JobEnded { job: job(2, finished) }),
    ];
    *script.job(7) = job(2, finished).unwrap();
    let url = script.play().await;
    let (code, stdout, stderr) = framecrew(&["watch", "7"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    let expected = [
        "job 7 · sunrise rendering: 4 of 4 frames finished · 1 warning",
        "warning: the image `wood.png` is missing",
        "warning: the script [31m `rig.py` was not run",
        "job 7 · sunrise finished: 4 frames · 2 warnings",
    ];
    assert_eq!(lines, expected);

    let (_, stdout, _) = framecrew(&["job", "7"], &url, base.path()).await;
    assert_eq!(stdout.matches("warning: ").count(), 2, "{stdout}");
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
    let (_, stdout, _) = framecrew(&["job", "7", "--json"], &url, base.path()).await;
    let json: Job = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json.warnings.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_another_job_of_the_same_number_brings_nothing() {
    let base = tempfile::tempdir().unwrap();
    let script = Script::new().watched_before_another();
    let cluster = Cluster::connect(script.play().await).await.unwrap();
    let folder = OutputFolder::open(base.path()).unwrap();
    let fetching = fetch::follow(&cluster, 7, &folder, |_| {});
    let fetched = tokio::time::timeout(PATIENCE, fetching).await.unwrap();
    assert!(matches!(fetched, Err(Error::JobLost { job_id: 7, .. })), "{fetched:?}");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_cancels_no_other_job_of_the_same_number() {
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let script = Script { withholds_frames: true, ..Script::new().watched_before_another() };
    let url = script.play().await;
    let base = tempfile::tempdir().unwrap();
    let mut watch = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
        .args(["render", DEMO, "-o", "out", "--cluster", &url])
        .current_dir(base.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(watch.id().unwrap().try_into().unwrap()).unwrap();
    let mut said = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut noted = BufReader::new(watch.stderr.take().unwrap()).lines();
    let pressing = async {
        said.next_line().await.unwrap();
        let mut last = String::new();
        for _ in 0..2 {
            kill_process(pid, Signal::INT).unwrap();
            last = noted.next_line().await.unwrap().unwrap();
        }
        (watch.wait().await.unwrap().code(), last)
    };
    let (code, last) = tokio::time::timeout(PATIENCE, pressing).await.unwrap();
    assert_eq!(code, Some(1), "{last}");
    assert!(last.contains("is another one now (sunrise)"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrators_messages_reach_a_terminal_only_as_text() {
    const BAD: &str = "no\x1b]0;owned\x07\x1b[2J\u{9b}31m\r\nerror: forged \u{202e}gnp.1000";
    let base = tempfile::tempdir().unwrap();
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(BAD, BAD).add_bad_request_violation("a", BAD);
    let refusal = Status::with_error_details(tonic::Code::InvalidArgument, BAD, details);
    let mut script = Script { refusal: Some(refusal), ..Script::new() };
    let spec = script.job(7).spec.as_mut().unwrap();
    (spec.name, spec.tags) = (BAD.into(), vec![BAD.into()]);
    script.job(7).warnings = vec![Warning { text: BAD.into(), ..Warning::default() }];
    script.job(7).waiting_reason = BAD.into();
    let line = LogLine { node: BAD.into(), text: BAD.into(), ..LogLine::default() };
    let log = || vec![Ok(ReadLogResponse { lines: vec![line.clone()], dropped: 0 })];
    script.logs = Arc::new(Mutex::new([log(), log()].into()));
    let url = script.play().await;
    let is_bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c);
    for args in [
        &["cancel", "7"][..],
        &["render", DEMO, "--detach"],
        &["job", "7"],
        &["job", "7", "--json"],
        &["jobs"],
        &["jobs", "--json"],
        &["nodes"],
        &["logs", "7"],
        &["logs", "7", "--json"],
    ] {
        let (_, stdout, stderr) = framecrew(args, &url, base.path()).await;
        let said = stdout + &stderr;
        assert!(said.contains("owned") || args[0] == "nodes", "{args:?}: {said}");
        assert!(!said.contains(is_bad), "{args:?}: {said:?}");
        assert!(!said.contains("\nerror: forged"), "{args:?}: {said:?}");
        if let Some(line) = said.lines().next().filter(|_| args.contains(&"--json")) {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(json.to_string().contains('\u{9b}'), "a program reads it as it is: {json}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_where_it_was_when_the_orchestrator_is_back() {
    let base = tempfile::tempdir().unwrap();
    let lines = |dropped, frames: &[i32]| {
        let line = |frame: &i32| LogLine {
            frame: Some(*frame),
            node: "a".into(),
            text: format!("draws {frame}"),
            ..LogLine::default()
        };
        Ok(ReadLogResponse { lines: frames.iter().map(line).collect(), dropped })
    };
    let restarts = || Err(Status::unavailable("restarts"));
    let streams = || {
        [
            vec![lines(2, &[3, 4]), lines(0, &[5]), restarts()],
            vec![restarts()],
            vec![lines(3, &[4, 5, 4]), lines(0, &[6])],
        ]
    };
    let shown = |frames: &[i32]| -> String {
        frames.iter().map(|frame| format!("a {frame:>5}  draws {frame}\n")).collect()
    };
    for (args, expected) in
        [(&[][..], shown(&[3, 4, 5, 4, 6])), (&["--frame", "4"], shown(&[4, 4]))]
    {
        let script = Script::new();
        script.logs.lock().unwrap().extend(streams());
        let url = script.play().await;
        let args = [&["logs", "7", "--follow"], args].concat();
        let (code, stdout, stderr) = framecrew(&args, &url, base.path()).await;
        assert_eq!((code, stdout), (0, expected), "{stderr}");
        let lost = if args.len() == 3 { "… 2 lines lost to a bound\n" } else { "" };
        let again = "reconnecting … (restarts)\n";
        assert_eq!(stderr, format!("{lost}{again}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_sheet_shows_each_frame_or_why_it_cannot() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let spec = script.job(7).spec.as_mut().unwrap();
    spec.frames = vec![FrameRange { first: -1, last: 4, step: 1 }];
    let exr = script.store("0001.exr", b"\x76\x2f\x31\x01 an EXR");
    let image = script.store_image("0000.png", 100);
    let seen = preview(script.store_image("preview.jpeg", 200));
    let gone = preview(Output { digest: Digest::of(b"gone").to_string(), ..Output::default() });
    let finished = FrameState::Finished;
    script.frames.insert(
        7,
        vec![
            Frame { preview: seen, ..frame(-1, finished, vec![exr.clone()]) },
            frame(0, finished, vec![image]),
            frame(1, finished, vec![exr.clone()]),
            Frame { preview: gone, ..frame(2, finished, vec![exr]) },
            frame(3, FrameState::Failed, vec![]),
            frame(4, FrameState::Open, vec![]),
        ],
    );
    let url = script.play().await;
    let (code, stdout, stderr) =
        framecrew(&["job", "7", "--contact-sheet"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("the contact sheet is sunrise-sheet.png"), "{stdout}");
    assert!(stderr.contains("2 frames of it stay grey"), "{stderr}");
    let sheet = image::open(base.path().join("sunrise-sheet.png")).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (3 * 246 + 6, 2 * 141 + 6));
    let centre = |column: u32, row: u32| {
        let Rgb([red, green, blue]) = *sheet.get_pixel(126 + column * 246, 70 + row * 141);
        (red, green.abs_diff(blue) < 9)
    };
    assert!(matches!(centre(0, 0), (195..=205, true)), "{:?}", centre(0, 0));
    assert_eq!([centre(1, 0), centre(2, 0), centre(0, 1)], [(100, true), (96, true), (96, true)]);
    assert_eq!([centre(1, 1), centre(2, 1)], [(64, true), (34, true)]);

    let args = ["job", "7", "--json", "--contact-sheet", "all.png"];
    let (code, stdout, stderr) = framecrew(&args, &url, base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(stdout.lines().nth(1).unwrap()).unwrap();
    assert_eq!(json["contactSheet"], "all.png");
    assert_eq!((json["shown"].as_u64(), json["unseen"].as_u64()), (Some(6), Some(2)));
    let args = ["job", "7", "--contact-sheet", "all.jpg"];
    let (code, _, stderr) = framecrew(&args, &url, base.path()).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("ends in .png"), "{stderr}");
    assert_eq!(files(base.path()), ["all.png", "sunrise-sheet.png"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_of_thousands_of_frames_a_sheet_shows_some_and_says_so() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new();
    let spec = script.job(7).spec.as_mut().unwrap();
    spec.frames = vec![FrameRange { first: 1, last: 5_000, step: 1 }];
    let seen = preview(script.store_image("preview.jpeg", 200));
    let drawn =
        |number| Frame { preview: seen.clone(), ..frame(number, FrameState::Finished, vec![]) };
    script.frames.insert(7, (1..=5_000).map(drawn).collect());
    let url = script.play().await;
    let (code, stdout, stderr) =
        framecrew(&["job", "7", "--contact-sheet", "s.png"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("400 of 5000 frames, at even distances"), "{stderr}");
    assert!(image::open(base.path().join("s.png")).unwrap().width() > 4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movie_is_fetched_by_its_own_job_or_by_that_of_its_frames() {
    let base = tempfile::tempdir().unwrap();
    let url = Script::new().with_movie(b"a movie").play().await;
    for (job, movie) in [("7", "a.mp4"), ("8", "new/b.mp4")] {
        let (code, stdout, stderr) =
            framecrew(&["fetch", job, "--movie", movie], &url, base.path()).await;
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert_eq!(stdout, format!("the movie is {movie} (7 B)\n"));
        assert_eq!(fs::read(base.path().join(movie)).unwrap(), b"a movie");
    }
    let args = ["fetch", "7", "--movie", "c.mov"];
    let (code, _, stderr) = framecrew(&args, &url, base.path()).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is a .mp4"), "{stderr}");
    assert_eq!(files(base.path()), ["a.mp4", "new/b.mp4"]);

    let (_, stdout, _) = framecrew(&["jobs"], &url, base.path()).await;
    assert!(stdout.contains("sunrise (movie of 7)"), "{stdout}");
    let (_, stdout, _) = framecrew(&["job", "7"], &url, base.path()).await;
    assert!(stdout.contains("made by job 8"), "{stdout}");
    let (_, stdout, _) = framecrew(&["job", "8"], &url, base.path()).await;
    assert!(stdout.contains("of the frames of job 7"), "{stdout}");
    let (code, _, stderr) = framecrew(&["job", "8", "--contact-sheet"], &url, base.path()).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("name job 7"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movie_that_does_not_come_whole_never_bears_its_name() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new().with_movie(b"a movie");
    script.blobs.values_mut().for_each(|blob| *blob = b"a moose".into());
    let url = script.play().await;
    fs::write(base.path().join("old.mp4"), b"an older movie").unwrap();
    for movie in ["new.mp4", "old.mp4", "folder/new.mp4"] {
        let (code, _, stderr) =
            framecrew(&["fetch", "7", "--overwrite", "--movie", movie], &url, base.path()).await;
        assert_eq!(code, 1, "{stderr}");
    }
    assert_eq!(files(base.path()), ["old.mp4"]);
    assert!(!base.path().join("folder").exists(), "nothing is made");
    assert_eq!(fs::read(base.path().join("old.mp4")).unwrap(), b"an older movie");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movie_that_is_not_there_is_refused_with_the_reason() {
    let base = tempfile::tempdir().unwrap();
    let case = async |change: fn(&mut Script), code: i32, words: &str| {
        let mut script = Script::new().with_movie(b"a movie");
        change(&mut script);
        let url = script.play().await;
        let (is, _, stderr) =
            framecrew(&["fetch", "7", "--movie", "a.mp4"], &url, base.path()).await;
        assert!(is == code && stderr.contains(words), "{words}: {is} {stderr}");
    };
    case(|script| script.jobs = Script::new().jobs, 2, "job 7 makes no movie").await;
    case(|script| script.job(8).set_state(JobState::Rendering), 2, "framecrew watch 8").await;
    case(|script| script.job(8).set_state(JobState::Failed), 1, "is failed").await;
    let unfinished = |script: &mut Script| {
        script.job(7).movie_job_id = 0;
        script.job(7).set_state(JobState::Rendering);
    };
    case(unfinished, 2, "once all of its frames are there").await;
    let failed = |script: &mut Script| {
        script.job(7).movie_job_id = 0;
        script.job(7).set_state(JobState::Failed);
    };
    case(failed, 2, "there is no movie of job 7").await;
    assert!(files(base.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watched_a_job_is_told_where_its_movie_is_made() {
    let base = tempfile::tempdir().unwrap();
    let mut script = Script::new().with_movie(b"a movie");
    let job = Some(script.job(7).clone());
    let snapshot = JobSnapshot { job: job.clone(), ..JobSnapshot::default() };
    script.updates = vec![Update::Snapshot(snapshot), Update::Ended(JobEnded { job })];
    let url = script.play().await;
    let (code, stdout, stderr) = framecrew(&["watch", "7"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("job 8 makes its movie"), "{stderr}");
    for command in ["framecrew watch 8 --cluster", "framecrew fetch 7 --movie FILE --cluster"] {
        assert!(stderr.contains(command), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_what_they_have_and_can_get() {
    let base = tempfile::tempdir().unwrap();
    let url = Script::new().play().await;
    let (code, stdout, stderr) = framecrew(&["nodes"], &url, base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    let line = |name: &str| stdout.lines().find(|line| line.starts_with(name)).unwrap();
    for words in ["4.5.15 on demand, 3.4.1", "7.1", "allowed"] {
        assert!(line("rich").contains(words), "{stdout}");
    }
    assert!(line("poor").contains("none") && !line("poor").contains("allowed"), "{stdout}");
}

/// Job 7 with two failed frames, for two reasons.
fn with_failures() -> Script {
    let mut script = Script::new();
    let job = script.job(7);
    job.set_state(JobState::Failed);
    job.counts = Some(FrameCounts { finished: 2, failed: 2, ..FrameCounts::default() });
    let failed = |number, reason: FailureReason, log_tail: &[&str]| Frame {
        failed_attempts: 3,
        failure: Some(Failure {
            reason: reason.into(),
            message: "it failed".into(),
            log_tail: log_tail.iter().map(|line| (*line).into()).collect(),
        }),
        ..frame(number, FrameState::Failed, Vec::new())
    };
    let frames = vec![
        frame(1, FrameState::Finished, Vec::new()),
        failed(2, FailureReason::Renderer, &["Fra:2", "Segmentation fault\x1b[0m"]),
        failed(3, FailureReason::OutOfMemory, &[]),
        frame(4, FrameState::Finished, Vec::new()),
    ];
    script.frames.insert(7, frames);
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_frames_are_told_by_kind_and_rendered_once_more() {
    let base = tempfile::tempdir().unwrap();
    let url = with_failures().play().await;
    let (code, stdout, stderr) = framecrew(&["job", "7"], &url, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    for words in [
        "1 frame failed (renderer): 2; Blender failed",
        "  frame 2 failed on a after 3 failed attempts: it failed\n      Fra:2\n      Segmentation fault [0m",
        "1 frame failed (out of memory): 3; they need more memory",
    ] {
        assert!(stdout.contains(words), "{words:?} is not in {stdout}");
    }
    assert!(stderr.contains("framecrew retry 7 --cluster"), "{stderr}");

    let (code, stdout, stderr) = framecrew(&["retry", "7"], &url, base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("2 frames of job 7 are rendered once more; follow it"), "{stdout}");
    let (_, stdout, _) = framecrew(&["retry", "7", "-f", "3", "--json"], &url, base.path()).await;
    assert_eq!(serde_json::from_str::<RetryFramesResponse>(&stdout).unwrap().reopened, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_failed_there_is_nothing_to_retry() {
    let base = tempfile::tempdir().unwrap();
    let url = with_failures().play().await;
    let (code, stdout, stderr) = framecrew(&["retry", "7", "-f", "1"], &url, base.path()).await;
    assert_eq!((code, &*stdout), (2, ""));
    assert!(stderr.contains("none of the frames 1 has failed; `framecrew job 7"), "{stderr}");
    let url = Script::new().play().await;
    let (code, _, stderr) = framecrew(&["retry", "7"], &url, base.path()).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("job 7 is finished and has no failed frames"), "{stderr}");
    let (code, _, stderr) = framecrew(&["retry", "9"], &url, base.path()).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("there is no job 9"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_link_breaks_goes_on_where_it_was() {
    const MOVIE_BYTES: u64 = 2_000_000;
    let base = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..MOVIE_BYTES).map(|n| (n * n / 97) as u8).collect();
    let script = Script::new().with_movie(&content);
    let offsets = script.offsets.clone();
    let url = script.play().await;
    let proxy = proxy::Proxy::to(url.strip_prefix("http://").unwrap().parse().unwrap());
    let slowly = proxy::Weather { bytes_per_second: Some(4_000_000), ..proxy::Weather::default() };
    proxy.set(slowly);
    let cluster = framecrew::Cluster::connect(proxy.url()).await.unwrap();
    let to = base.path().join("sunrise.mp4");
    let file = framecrew::OutputFile::open(&to).unwrap().overwriting(true);
    let mut cuts = 0;
    let fetching = framecrew::fetch::fetch_movie(&cluster, 8, &file, |done, _| {
        if done > MOVIE_BYTES * (cuts + 1) / 4 && cuts < 3 {
            cuts += 1;
            proxy.reset();
        }
    });
    fs::write(&to, b"another").unwrap();
    let movie = tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap();
    assert_eq!((movie.size_bytes, movie.replaced), (MOVIE_BYTES, true), "it says what gave way");
    assert!(fs::read(&to).unwrap() == content, "it is whole");
    let offsets = offsets.lock().unwrap().clone();
    assert!(offsets.len() > 1 && offsets[0] == 0, "{offsets:?}");
    assert!(offsets.is_sorted() && offsets[1] > MOVIE_BYTES / 4, "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_say_why_they_get_no_work_and_whether_they_answer() {
    let base = tempfile::tempdir().unwrap();
    let url = Script::new().play().await;
    let (code, stdout, stderr) = framecrew(&["nodes", "--verbose"], &url, base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("node poor is quarantined: every try on it failed"), "{stdout}");
    let inside = stdout.split_once("KEPT FRAMES").unwrap().1;
    assert_eq!(inside.matches("does not answer here").count(), 2, "{stdout}");
}
