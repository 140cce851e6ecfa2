//! A link that can be cut, held, delayed and throttled: a TCP proxy between two processes.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes that are on their way in a link at a time.
const PIECE_BYTES: usize = 16 << 10;
/// How long the other side may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a link does to what passes through it; by default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Weather {
    /// Connections are closed, and new ones as soon as they come.
    pub(crate) cut: bool,
    /// What the one who connected sends is held back.
    pub(crate) hold_requests: bool,
    /// What the one who listens sends is held back.
    pub(crate) hold_answers: bool,
    /// Each piece takes so long, or less.
    pub(crate) delay: Duration,
    /// Bytes that pass in a second, each way; absent: as many as come.
    pub(crate) bytes_per_second: Option<u32>,
}

impl Weather {
    pub(crate) fn cut() -> Self {
        Self { cut: true, ..Self::default() }
    }

    /// Nothing passes, and nobody is told.
    pub(crate) fn silent() -> Self {
        Self { hold_requests: true, hold_answers: true, ..Self::default() }
    }
}

/// A link with an address of its own in front of another address.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    /// Rises with each cut: one that is over at once would be missed otherwise.
    cuts: Arc<watch::Sender<u64>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A link to `target`, where nothing needs to listen yet.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = free_listener();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let cuts = Arc::new(watch::Sender::new(0));
        let accepting = tokio::spawn(accept(listener, target, weather.clone(), cuts.clone()));
        Self { address, weather, cuts, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
        if weather.cut {
            self.reset();
        }
    }

    /// Closes the connections there are; new ones come about at once.
    pub(crate) fn reset(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    cuts: Arc<watch::Sender<u64>>,
) {
    loop {
        // Out of descriptors for a moment, perhaps: the next one is taken.
        let Ok((near, _)) = listener.accept().await else { continue };
        tokio::spawn(join(near, target, weather.subscribe(), cuts.subscribe()));
    }
}

/// Lets bytes pass between two ends until one closes or the link is cut.
async fn join(
    near: TcpStream,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut cuts: watch::Receiver<u64>,
) {
    if weather.borrow().cut {
        return;
    }
    let Ok(Ok(far)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_reads, near_writes), (far_reads, far_writes)) =
        (near.into_split(), far.into_split());
    let requests = pump(near_reads, far_writes, weather.clone(), |weather| weather.hold_requests);
    let answers = pump(far_reads, near_writes, weather, |weather| weather.hold_answers);
    tokio::select! {
        _ = cuts.changed() => {}
        () = requests => {}
        () = answers => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    is_held: fn(&Weather) -> bool,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut piece).await else { return };
        let now = match weather.wait_for(|weather| !is_held(weather)).await {
            Ok(weather) => *weather,
            Err(_) => return,
        };
        if !now.delay.is_zero() {
            sleep(now.delay.mul_f64(fastrand::f64())).await;
        }
        if let Some(rate) = now.bytes_per_second {
            sleep(Duration::from_secs_f64(bytes as f64 / f64::from(rate))).await;
        }
        if to.write_all(&piece[..bytes]).await.is_err() {
            return;
        }
    }
}

/// An address that nobody listens on, on a port that no outgoing connection gets: a server that is killed finds
/// it free when it comes again.
///
/// Whoever listens there next may have to try again: a process that is being started has a copy of the socket that
/// looked for it, for a moment.
pub(crate) fn free_address() -> SocketAddr {
    free_listener().local_addr().unwrap()
}

fn free_listener() -> StdListener {
    loop {
        let port = fastrand::u16(10_000..30_000);
        if let Ok(listener) = StdListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}
