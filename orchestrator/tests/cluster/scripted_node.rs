//! A node that does just what a test tells it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use framecrew_blobs::Digest;
use framecrew_proto::v1::{
    AttachBatchRequest, AttachBatchResponse, BatchEnd, BatchEnded, BatchEvent, Blender,
    BlenderKind, CancelBatchRequest, CancelBatchResponse, DescribeNodeRequest,
    DescribeNodeResponse, Failure, FailureReason, NodeDescription, Output, Preview,
    RegisterNodeRequest, RenderBatchRequest, RenderBatchResponse, Slice, SliceFailed,
    SliceFinished, SliceProgress, SliceStarted, Warning, WarningKind, WatchNodeRequest,
    WatchNodeResponse,
    batch_event::Event,
    render_node_server::{RenderNode, RenderNodeServer},
};
use futures::Stream;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::harness::{Orchestrator, patience};

/// What the orchestrator asked of the node.
#[derive(Debug)]
pub(crate) enum Asked {
    Render(Box<RenderBatchRequest>, Batch),
    Attach(AttachBatchRequest, Batch),
    Cancel(u64),
}

/// A batch's stream, from the node's end. Dropping it breaks the stream.
#[derive(Debug)]
pub(crate) struct Batch {
    events: mpsc::UnboundedSender<Result<Vec<BatchEvent>, Status>>,
    sequence: u64,
}

impl Batch {
    pub(crate) fn say(&mut self, event: Event) {
        self.say_at_once([event]);
    }

    /// In one message.
    pub(crate) fn say_at_once(&mut self, events: impl IntoIterator<Item = Event>) {
        let numbered = events.into_iter().map(|event| {
            self.sequence += 1;
            BatchEvent { sequence: self.sequence, event: Some(event) }
        });
        // The orchestrator may have hung up.
        let _ = self.events.send(Ok(numbered.collect()));
    }

    /// Goes on numbering after the events of a former stream.
    pub(crate) fn after(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    pub(crate) fn start(&mut self, frame: i32) {
        self.say(Event::Started(SliceStarted { slice: slice(frame) }));
    }

    pub(crate) fn progress(&mut self, frame: i32, fraction: f64) {
        self.say(Event::Progress(SliceProgress {
            slice: slice(frame),
            fraction: Some(fraction),
            ..SliceProgress::default()
        }));
    }

    pub(crate) fn finish(&mut self, frame: i32, digest: Digest) {
        self.finish_in(frame, digest, 60.0);
    }

    pub(crate) fn finish_in(&mut self, frame: i32, digest: Digest, render_seconds: f64) {
        self.say(Event::Finished(SliceFinished { render_seconds, ..finished(frame, digest) }));
    }

    pub(crate) fn finish_with(&mut self, frame: i32, digest: Digest, preview: Preview) {
        let preview = Some(preview);
        self.say(Event::Finished(SliceFinished { preview, ..finished(frame, digest) }));
    }

    pub(crate) fn warn(&mut self, text: &str) {
        let kind = WarningKind::MissingFile.into();
        self.say(Event::Warning(Warning { kind, text: text.to_owned() }));
    }

    pub(crate) fn fail(&mut self, frame: i32, reason: FailureReason) {
        let failure = Failure {
            reason: reason.into(),
            message: "it did not work".to_owned(),
            log_tail: vec!["the last line".to_owned()],
        };
        self.say(Event::Failed(SliceFailed { slice: slice(frame), failure: Some(failure) }));
    }

    pub(crate) fn end(&mut self) {
        self.say(Event::Ended(BatchEnded { end: BatchEnd::Complete.into() }));
    }
}

/// A frame with one output.
pub(crate) fn finished(frame: i32, digest: Digest) -> SliceFinished {
    SliceFinished {
        slice: slice(frame),
        outputs: vec![Output {
            name: format!("{frame:04}.png"),
            digest: digest.to_string(),
            size_bytes: 1,
            width: 1,
            height: 1,
            channels: 4,
        }],
        render_seconds: 60.0,
        ..SliceFinished::default()
    }
}

fn slice(frame: i32) -> Option<Slice> {
    Some(Slice { frame, index: 0 })
}

/// A scripted node, serving on loopback and registered.
#[derive(Debug)]
pub(crate) struct ScriptedNode {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    description: NodeDescription,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Who answers that it knows no batch to attach to: a life of the node, or another node at its address and
    /// a life of that, `b 1`; empty: it does not say.
    pub(crate) knows_nothing: Arc<Mutex<Option<&'static str>>>,
    /// How often that was answered.
    pub(crate) denied: Arc<AtomicU32>,
    server: JoinHandle<()>,
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedNode {
    /// A node with Blender 3.4.1 and one slot.
    pub(crate) async fn join(orchestrator: &Orchestrator, name: &str) -> Self {
        Self::join_as(orchestrator, name, description("3.4.1")).await
    }

    pub(crate) async fn join_as(
        orchestrator: &Orchestrator,
        name: &str,
        description: NodeDescription,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let (knows_nothing, denied) = (Arc::default(), Arc::default());
        let service = Service {
            name: name.to_owned(),
            asked: sender,
            knows_nothing: Arc::clone(&knows_nothing),
            denied: Arc::clone(&denied),
        };
        let service = RenderNodeServer::new(service);
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let name = name.to_owned();
        let node = Self { name, address, description, asked, knows_nothing, denied, server };
        orchestrator.client().await.register_node(node.registration(1)).await.unwrap();
        node
    }

    pub(crate) fn registration(&self, incarnation: u64) -> RegisterNodeRequest {
        RegisterNodeRequest {
            name: self.name.clone(),
            incarnation,
            address: format!("http://{}", self.address),
            port: 0,
            description: Some(self.description.clone()),
            batch_ids: Vec::new(),
        }
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        patience(self.asked.recv()).await.unwrap()
    }

    pub(crate) fn was_asked_nothing(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    pub(crate) async fn batch(&mut self) -> (RenderBatchRequest, Batch) {
        match self.asked().await {
            Asked::Render(request, batch) => (*request, batch),
            other => panic!("not a batch: {other:?}"),
        }
    }
}

pub(crate) fn description(blender: &str) -> NodeDescription {
    NodeDescription {
        platform: "linux x86_64".to_owned(),
        cores: 2,
        memory_bytes: 1 << 30,
        slots: 1,
        blenders: vec![Blender {
            version: blender.to_owned(),
            kind: BlenderKind::Executable.into(),
            path: "/usr/bin/blender".to_owned(),
            unusable: String::new(),
        }],
        tags: Vec::new(),
        version: "0.1.0".to_owned(),
        ..Default::default()
    }
}

struct Service {
    name: String,
    asked: mpsc::UnboundedSender<Asked>,
    knows_nothing: Arc<Mutex<Option<&'static str>>>,
    denied: Arc<AtomicU32>,
}

impl Service {
    fn stream(
        &self,
        asked: impl FnOnce(Batch) -> Asked,
    ) -> UnboundedReceiverStream<Result<Vec<BatchEvent>, Status>> {
        let (events, stream) = mpsc::unbounded_channel();
        self.asked.send(asked(Batch { events, sequence: 0 })).unwrap();
        UnboundedReceiverStream::new(stream)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RenderNode for Service {
    type RenderBatchStream = Answers<RenderBatchResponse>;

    async fn render_batch(
        &self,
        request: Request<RenderBatchRequest>,
    ) -> Result<Response<Self::RenderBatchStream>, Status> {
        use futures::StreamExt as _;
        let request = request.into_inner();
        let stream = self.stream(|batch| Asked::Render(Box::new(request), batch));
        let stream = stream.map(|events| events.map(|events| RenderBatchResponse { events }));
        Ok(Response::new(Box::pin(stream)))
    }

    type AttachBatchStream = Answers<AttachBatchResponse>;

    async fn attach_batch(
        &self,
        request: Request<AttachBatchRequest>,
    ) -> Result<Response<Self::AttachBatchStream>, Status> {
        use futures::StreamExt as _;
        let request = request.into_inner();
        if let Some(life) = *self.knows_nothing.lock().unwrap() {
            let details = match life {
                "" => ErrorDetails::new(),
                who => {
                    let (node, life) = who.split_once(' ').unwrap_or((&self.name, who));
                    let who = [("node", node), ("incarnation", life)];
                    let who = who.map(|(key, value)| (key.to_owned(), value.to_owned()));
                    ErrorDetails::with_error_info("UNKNOWN_BATCH", "framecrew", who)
                }
            };
            self.denied.fetch_add(1, Ordering::Relaxed);
            return Err(Status::with_error_details(Code::NotFound, "it knows nothing", details));
        }
        let stream = self.stream(|batch| Asked::Attach(request, batch));
        let stream = stream.map(|events| events.map(|events| AttachBatchResponse { events }));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel_batch(
        &self,
        request: Request<CancelBatchRequest>,
    ) -> Result<Response<CancelBatchResponse>, Status> {
        self.asked.send(Asked::Cancel(request.into_inner().batch_id)).unwrap();
        Ok(Response::new(CancelBatchResponse {}))
    }

    async fn describe_node(
        &self,
        _: Request<DescribeNodeRequest>,
    ) -> Result<Response<DescribeNodeResponse>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    type WatchNodeStream = Answers<WatchNodeResponse>;

    async fn watch_node(
        &self,
        _: Request<WatchNodeRequest>,
    ) -> Result<Response<Self::WatchNodeStream>, Status> {
        Err(Status::unimplemented("not in the script"))
    }
}
