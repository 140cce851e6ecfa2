//! An orchestrator on loopback, and what tests ask of it.

use std::{path::Path, time::Duration};

use framecrew_blobs::{BlobClient, Digest};
use framecrew_orchestrator::{Config, serve};
use framecrew_proto::v1::{
    Frame, FrameRange, GetJobRequest, Job, JobSpec, ListFramesRequest, Project, ProjectFile,
    RenderSettings, SubmitJobRequest, orchestrator_client::OrchestratorClient,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};

/// A generous limit: reached only when what a test waits for never comes.
pub(crate) async fn patience<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never came")
}

#[derive(Debug)]
pub(crate) struct Orchestrator {
    url: String,
    server: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Orchestrator {
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(Config::new(data.to_owned())).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shutdown, is_shut_down) = oneshot::channel();
        let server = tokio::spawn(async move {
            serve(listener, config, async { drop(is_shut_down.await) }).await.unwrap();
        });
        Self { url, server, shutdown: Some(shutdown) }
    }

    /// Tells it to stop, as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn stopped(mut self) {
        patience(&mut self.server).await.unwrap();
    }

    /// Ends it without letting it finish anything.
    pub(crate) async fn kill(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.connect(Endpoint::from_shared(self.url.clone()).unwrap()).await
    }

    /// A client whose streams have room for so many bytes that are not read yet.
    pub(crate) async fn narrow_client(&self, window_bytes: u32) -> OrchestratorClient<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap();
        let endpoint = endpoint.initial_stream_window_size(window_bytes);
        OrchestratorClient::new(self.connect(endpoint).await)
    }

    /// Comes from another address of this machine. Only Linux answers at all of 127.0.0.0/8.
    #[cfg(target_os = "linux")]
    pub(crate) async fn channel_from(&self, address: std::net::IpAddr) -> Channel {
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap();
        self.connect(endpoint.local_address(Some(address))).await
    }

    async fn connect(&self, endpoint: Endpoint) -> Channel {
        patience(async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => return channel,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
    }

    pub(crate) async fn client(&self) -> OrchestratorClient<Channel> {
        OrchestratorClient::new(self.channel().await)
    }

    pub(crate) async fn upload(&self, bytes: &'static [u8]) -> Digest {
        let digest = Digest::of(bytes);
        let blobs = BlobClient::new(self.channel().await);
        blobs.upload_bytes(bytes.into(), digest).await.unwrap();
        digest
    }

    /// A job of a file saved by 3.4, uploaded.
    pub(crate) async fn spec(&self, first: i32, last: i32) -> JobSpec {
        self.spec_of(b"BLENDER-v304 and so on ENDB", first, last).await
    }

    /// A job of a file with these bytes, uploaded.
    pub(crate) async fn spec_of(&self, blend: &'static [u8], first: i32, last: i32) -> JobSpec {
        let digest = self.upload(blend).await;
        JobSpec {
            name: "shot".to_owned(),
            project: Some(Project {
                blend_path: "shot.blend".to_owned(),
                files: vec![ProjectFile {
                    path: "shot.blend".to_owned(),
                    digest: digest.to_string(),
                    size_bytes: blend.len() as u64,
                    ..Default::default()
                }],
            }),
            frames: vec![FrameRange { first, last, step: 1 }],
            settings: Some(RenderSettings::default()),
            priority: 0,
            tags: Vec::new(),
            ..Default::default()
        }
    }

    pub(crate) async fn submit(&self, spec: JobSpec) -> u64 {
        let request =
            SubmitJobRequest { request_id: uuid::Uuid::new_v4().to_string(), spec: Some(spec) };
        let answer = self.client().await.submit_job(request).await.unwrap();
        answer.into_inner().job.unwrap().job_id
    }

    pub(crate) async fn job(&self, job_id: u64) -> Job {
        let answer = self.client().await.get_job(GetJobRequest { job_id }).await.unwrap();
        answer.into_inner().job.unwrap()
    }

    pub(crate) async fn frames(&self, job_id: u64) -> Vec<Frame> {
        let request = ListFramesRequest { job_id, page_size: 1_000, page_token: String::new() };
        self.client().await.list_frames(request).await.unwrap().into_inner().frames
    }

    /// Waits until a job is as `wanted` says.
    pub(crate) async fn until(&self, job_id: u64, wanted: impl Fn(&Job) -> bool) -> Job {
        patience(async {
            loop {
                let job = self.job(job_id).await;
                if wanted(&job) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}
