//! HTTP/2 over TCP, with a bound on everything that a client can make this process hold.
//!
//! tonic's own server cannot end a stalled reader: once the window of a stream is used up, nothing asks the stream for
//! more, so no code of tonic runs that could end it. Here each call runs as a task that sees how far its answer has
//! been read. If that stalls, the task drops the call with everything it holds, and the client gets a reset
//! (CANCELLED).

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::http2,
    service::Service as HyperService,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
    service::Routes,
    transport::server::Connected as _,
};
use tower::{BoxError, ServiceExt as _};
use tracing::{debug, warn};

use super::{
    StreamLimits,
    orchestrator::REQUEST_BYTES_MAX,
    quotas::{Client, Permit, Quota},
};
use crate::limits::LINK_BYTES_A_SECOND;

/// Connections in all: the nodes and people of a large farm. Never more than half of the files that the process may have
/// open.
const CONNECTIONS_MAX: usize = 4_096;
/// Interval of keepalive pings to an idle client, and how long their answer may take. For so long a client whose machine
/// is gone costs memory.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a connection may take to send its HTTP/2 preface.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two checks for the preface.
const PREFACE_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of the preface, with which every HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;
/// Bytes of a message that a client may put into one HTTP/2 frame. With the default of 16 KiB, an upload costs half as
/// much processor time again.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Bytes in transit to one stream: two chunks of an upload.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes in transit to one connection: enough for a few uploads. A client that does not wait for answers makes this
/// process hold no more.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Open calls of one connection: those of one program.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// Bytes of headers in one request: some hundred times what gRPC needs, credentials included.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Bytes of a whole request: the largest message and its gRPC prefix. Only streams have a second message.
const BODY_BYTES_MAX: u64 = REQUEST_BYTES_MAX as u64 + 5;
/// Calls whose requests are streams and have no deadline. Uploads have a limit of their own.
const STREAMED: [&str; 2] = ["/framecrew.v1.BlobStore/Upload", "/grpc.reflection."];
/// Bytes of an answer that are handed to the network at a time. A stalled reader makes the server keep its current message
/// and one such piece. Larger pieces do not make downloads faster.
const PIECE_BYTES: usize = 64 << 10;
/// Checks of a call's progress in the time that a reader may stall.
const CHECKS: u32 = 4;
/// Pause after the system refused a connection because files or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` on `listener` until `shutdown`, then waits for the open calls. A call is dropped if its request does
/// not arrive or its answer is not read within `limits`. Dropping the future ends all connections.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Routes,
    limits: StreamLimits,
    shutdown: impl Future<Output = ()>,
) {
    let server = server(limits.stall);
    let routes = routes.prepare();
    let total = connections_max();
    // One client cannot take all connections.
    let quota = Quota::new(total / 2, total);
    let stopping = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((tcp, peer)) => match quota.take(Client::at(peer.ip())) {
                Ok(permit) => {
                    let calls = Calls::new(&tcp, &routes, limits.request);
                    let stopping = stopping.clone();
                    connections.spawn(connection(server.clone(), tcp, calls, permit, stopping));
                }
                // Closed at once: an answer would cost more than the refusal saves.
                Err(reason) => debug!(%peer, ?reason, "too many connections"),
            },
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.cancel();
    while connections.join_next().await.is_some() {}
}

fn server(stall: Duration) -> http2::Builder<Watching> {
    let mut server = http2::Builder::new(Watching { stall });
    server
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(2 * PIECE_BYTES);
    server
}

fn connections_max() -> usize {
    #[cfg(target_os = "linux")]
    if let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        return CONNECTIONS_MAX.min(usize::try_from(files / 2).unwrap_or(CONNECTIONS_MAX));
    }
    CONNECTIONS_MAX
}

async fn connection(
    server: http2::Builder<Watching>,
    tcp: TcpStream,
    calls: Calls,
    _permit: Permit,
    stopping: CancellationToken,
) {
    // Small answers are sent at once.
    if tcp.set_nodelay(true).is_err() || !speaks_http2(&tcp).await {
        return;
    }
    let mut serving = std::pin::pin!(server.serve_connection(TokioIo::new(tcp), calls));
    let served = tokio::select! {
        served = &mut serving => served,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

/// Waits for the preface, so that a client that sends none costs no more than its socket.
async fn speaks_http2(tcp: &TcpStream) -> bool {
    let begun = async {
        let mut preface = [0; PREFACE_BYTES];
        loop {
            match tcp.peek(&mut preface).await {
                Ok(PREFACE_BYTES) => return true,
                Ok(0) | Err(_) => return false,
                Ok(_) => sleep(PREFACE_PAUSE).await,
            }
        }
    };
    timeout(PREFACE_WITHIN, begun).await.unwrap_or(false)
}

/// Answers the calls of one connection.
struct Calls {
    routes: Routes,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    within: Duration,
}

impl Calls {
    fn new(tcp: &TcpStream, routes: &Routes, within: Duration) -> Self {
        let info = tcp.connect_info();
        Self { routes: routes.clone(), local: info.local_addr(), peer: info.remote_addr(), within }
    }
}

impl HyperService<Request<Incoming>> for Calls {
    type Response = Response<Paced>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // tonic reads the addresses from here.
        request.extensions_mut().insert(tonic::transport::server::TcpConnectInfo {
            local_addr: self.local,
            remote_addr: self.peer,
        });
        let path = request.uri().path();
        let request = match STREAMED.iter().any(|streamed| path.starts_with(streamed)) {
            true => request.map(Body::new),
            false => request.map(|body| Body::new(Asked::new(body, self.within))),
        };
        let answer = self.routes.clone().oneshot(request);
        Box::pin(async move {
            let answer = answer.await?;
            let reading = READING.try_with(Arc::clone).unwrap_or_default();
            Ok(answer.map(|body| Paced { body, rest: Bytes::new(), reading }))
        })
    }
}

tokio::task_local! {
    /// How far the answer of the current call has been read.
    static READING: Arc<Reading>;
}

/// How far a client has read an answer. It counts pieces; the lowest bit is set while the latest piece waits for the
/// network.
#[derive(Debug, Default)]
struct Reading(AtomicU64);

impl Reading {
    const HELD: u64 = 1;

    /// Notes that a piece was handed to the network.
    fn piece(&self) {
        let pieces = self.0.load(Ordering::Relaxed) | Self::HELD;
        self.0.store(pieces.wrapping_add(2), Ordering::Relaxed);
    }

    /// Notes that the network asks for more.
    fn more(&self) {
        self.0.fetch_and(!Self::HELD, Ordering::Relaxed);
    }

    /// Resolves when a piece has waited for `stall`, or up to a quarter longer.
    async fn stalls(&self, stall: Duration) {
        let (mut seen, mut checks) = (0, 0);
        while checks < CHECKS {
            sleep(stall / CHECKS).await;
            let now = self.0.load(Ordering::Relaxed);
            let stands = now & Self::HELD != 0 && now == seen;
            checks = if stands { checks + 1 } else { 0 };
            seen = now;
        }
    }
}

/// Runs calls, and drops those whose answers are not read.
#[derive(Debug, Clone)]
struct Watching {
    stall: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Watching {
    fn execute(&self, call: F) {
        let stall = self.stall;
        tokio::spawn(async move {
            let reading = Arc::new(Reading::default());
            tokio::select! {
                () = READING.scope(reading.clone(), call) => {}
                () = reading.stalls(stall) => debug!("a stalled reader was dropped"),
            }
        });
    }
}

/// A request with a deadline and a size. Nothing else bounds a request that arrives byte by byte or continues after its
/// message.
struct Asked<B> {
    body: B,
    begun: Instant,
    within: Duration,
    received_bytes: u64,
    late: Pin<Box<Sleep>>,
}

impl<B> Asked<B> {
    fn new(body: B, within: Duration) -> Self {
        let begun = Instant::now();
        let late = Box::pin(sleep_until(begun + within));
        Self { body, begun, within, received_bytes: 0, late }
    }
}

impl<B> hyper::body::Body for Asked<B>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Before the deadline is checked: data that has arrived is in time even if it is read late.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.received_bytes += bytes;
                if self.received_bytes > BODY_BYTES_MAX {
                    let message = format!("a request has {REQUEST_BYTES_MAX} bytes at most");
                    return Poll::Ready(Some(Err(Status::out_of_range(message).into())));
                }
                let longer = Duration::from_secs(self.received_bytes / LINK_BYTES_A_SECOND);
                let late_at = self.begun + self.within + longer;
                if self.late.deadline() != late_at {
                    self.late.as_mut().reset(late_at);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => Poll::Ready(ended.map(|ended| ended.map_err(Into::into))),
            Poll::Pending => self.late.as_mut().poll(context).map(|()| {
                let message = "the request did not arrive in time; send it again";
                Some(Err(Status::deadline_exceeded(message).into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer, in pieces.
struct Paced {
    body: Body,
    rest: Bytes,
    reading: Arc<Reading>,
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.reading.more();
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    // Trailers end the call and need no room.
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(bytes);
        self.reading.piece();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
