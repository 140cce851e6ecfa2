//! What clients live through without losing anything: links that go silent or slow, an orchestrator that restarts, a
//! store that is set back.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "chaos/proxy.rs"]
mod proxy;

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use framecrew::{
    Cluster, Error, Job, JobSpec, JobView, OutputFolder, WatchEvent, fetch,
    proto::{FrameState, JobState},
};
use framecrew_node::RendererChoice;
use futures::StreamExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Command,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use proxy::{Proxy, Weather, free_address};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(180);

/// An orchestrator at an address of its own, or a node of one.
struct Part {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Listens as soon as the address is free.
async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            listener => return listener.unwrap(),
        }
    }
}

impl Part {
    async fn orchestrator(address: SocketAddr, data: &Path) -> Self {
        let listener = listen(address).await;
        let config = framecrew_orchestrator::Config::new(data.into());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = framecrew_orchestrator::serve(listener, config, stopped);
        Self { stop, task: tokio::spawn(async { serving.await.unwrap() }) }
    }

    async fn node(orchestrator: SocketAddr, data: &Path, per_frame: Duration) -> Self {
        let listener = listen(free_address()).await;
        let url = format!("http://{orchestrator}");
        let renderer = RendererChoice::Synthetic(per_frame);
        let config = framecrew_node::Config {
            advertise: Some(format!("http://{}", listener.local_addr().unwrap())),
            ..framecrew_node::Config::new("a", &url, renderer, data)
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = framecrew_node::serve(listener, config, stopped);
        Self { stop, task: tokio::spawn(async { serving.await.unwrap() }) }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

async fn connect(url: &str) -> Cluster {
    let connecting = async {
        loop {
            if let Ok(cluster) = Cluster::connect(url).await {
                break cluster;
            }
        }
    };
    timeout(PATIENCE, connecting).await.unwrap()
}

/// Runs `framecrew render` for 30 frames, puts the store `next` in the place of the one it renders in once some of them
/// are there, and gives its exit code and what it said on stderr.
async fn render_while_store_is_replaced(base: &Path, next: &Path) -> (i32, String) {
    let address = free_address();
    let orchestrator = Part::orchestrator(address, &base.join("o")).await;
    let node = Part::node(address, &base.join("n"), Duration::from_millis(200)).await;
    let url = format!("http://{address}");
    let mut render = Command::new(env!("CARGO_BIN_EXE_framecrew"))
        .args(["render", DEMO, "-f", "1-30", "-o", "frames", "--cluster", &url])
        .current_dir(base)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(render.stdout.take().unwrap()).lines();
    let mut finished = 0;
    while finished < 3 {
        let line = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap().unwrap();
        finished += usize::from(line.contains("finished"));
    }
    node.stop().await;
    orchestrator.stop().await;
    let orchestrator = Part::orchestrator(address, next).await;
    let hearing = async { while said.next_line().await.unwrap().is_some() {} };
    let (output, ()) =
        timeout(PATIENCE, async { tokio::join!(render.wait_with_output(), hearing) })
            .await
            .unwrap();
    orchestrator.stop().await;
    let output = output.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What a watcher saw.
#[derive(Default)]
struct Seen {
    view: JobView,
    breaks: usize,
    starts_over: usize,
}

/// Watches a job until it is over; tells `on_event` of each event.
async fn watch(job: &Job, mut on_event: impl FnMut(&Seen)) -> Seen {
    let mut seen = Seen::default();
    let mut watch = job.watch();
    let watching = async {
        while let Some(event) = watch.next().await {
            match event.unwrap() {
                WatchEvent::Update(update) => seen.view.apply(&update),
                WatchEvent::Reconnecting { .. } => seen.breaks += 1,
                WatchEvent::StartingOver { .. } => seen.starts_over += 1,
            }
            on_event(&seen);
        }
    };
    timeout(PATIENCE, watching).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_goes_silent_is_noticed_and_made_again() {
    let base = tempfile::tempdir().unwrap();
    let address = free_address();
    let orchestrator = Part::orchestrator(address, &base.path().join("o")).await;
    let node = Part::node(address, &base.path().join("n"), Duration::from_millis(50)).await;
    let proxy = Proxy::to(address);
    let cluster = connect(&proxy.url()).await;
    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=60)).await.unwrap();
    let seen = watch(&job, |seen| match (seen.view.counts().finished, seen.breaks) {
        (5.., 0) => proxy.set(Weather::silent()),
        (_, 1..) => proxy.set(Weather::default()),
        _ => {}
    });
    let seen = seen.await;
    assert!(seen.breaks > 0, "the silence was noticed");
    assert_eq!(seen.view.runs().collect::<Vec<_>>(), [(1, 60, FrameState::Finished)]);
    assert_eq!(seen.view, watch(&job, |_| {}).await.view);
    node.stop().await;
    orchestrator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_job_goes_on_when_the_orchestrator_has_restarted() {
    let base = tempfile::tempdir().unwrap();
    let (address, data) = (free_address(), base.path().join("o"));
    let orchestrator = Part::orchestrator(address, &data).await;
    let node = Part::node(address, &base.path().join("n"), Duration::from_millis(50)).await;
    let proxy = Proxy::to(address);
    proxy.set(Weather { delay: Duration::from_millis(20), ..Weather::default() });
    let cluster = connect(&proxy.url()).await;
    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=60)).await.unwrap();
    let folder = OutputFolder::open(&base.path().join("frames")).unwrap();
    let fetching = fetch::follow(&cluster, job.id(), &folder, |_| {});
    let (tell, mut told) = tokio::sync::watch::channel(0);
    let watching = watch(&job, |seen| {
        tell.send_replace(seen.view.counts().finished);
    });
    let restarting = async {
        timeout(PATIENCE, told.wait_for(|now| *now >= 10)).await.unwrap().unwrap();
        proxy.reset();
        timeout(PATIENCE, told.wait_for(|now| *now >= 20)).await.unwrap().unwrap();
        orchestrator.stop().await;
        Part::orchestrator(address, &data).await
    };
    let (fetched, seen, orchestrator) = tokio::join!(fetching, watching, restarting);
    assert!(seen.breaks > 0);
    assert_eq!(seen.starts_over, 0, "it resumed where it was");
    assert_eq!(seen.view.state(), JobState::Finished);
    let fetched = fetched.unwrap();
    assert!(fetched.fetched >= 60, "{fetched:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 60);
    assert_eq!(seen.view, watch(&job, |_| {}).await.view);
    node.stop().await;
    orchestrator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_is_watched_from_the_beginning() {
    let base = tempfile::tempdir().unwrap();
    let (address, data) = (free_address(), base.path().join("o"));
    let orchestrator = Part::orchestrator(address, &data).await;
    let cluster = connect(&format!("http://{address}")).await;
    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=30)).await.unwrap();
    orchestrator.stop().await;
    let backup = base.path().join("backup");
    framecrew_orchestrator::backup(&data, &backup).await.unwrap();

    let orchestrator = Part::orchestrator(address, &data).await;
    let renders = |life: &str| {
        let data = base.path().join(life);
        async move { Part::node(address, &data, Duration::from_millis(50)).await }
    };
    let node = renders("first").await;
    let folder = OutputFolder::open(&base.path().join("frames")).unwrap();
    let fetching = fetch::follow(&cluster, job.id(), &folder, |_| {});
    let (tell, mut told) = tokio::sync::watch::channel((0, 0));
    let watching = watch(&job, |seen| {
        tell.send_replace((seen.view.counts().finished, seen.starts_over));
    });
    let restoring = async {
        timeout(PATIENCE, told.wait_for(|(finished, _)| *finished >= 5)).await.unwrap().unwrap();
        node.stop().await;
        orchestrator.stop().await;
        fs::remove_dir_all(&data).unwrap();
        fs::rename(&backup, &data).unwrap();
        let orchestrator = Part::orchestrator(address, &data).await;
        // Nothing is rendered until then: the watcher is to see it go back.
        timeout(PATIENCE, told.wait_for(|(_, starts_over)| *starts_over > 0))
            .await
            .unwrap()
            .unwrap();
        (orchestrator, renders("second").await)
    };
    let (fetched, seen, (orchestrator, node)) = tokio::join!(fetching, watching, restoring);
    fetched.unwrap();
    assert_eq!(seen.starts_over, 1);
    assert_eq!(seen.view.runs().collect::<Vec<_>>(), [(1, 30, FrameState::Finished)]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 30);
    assert_eq!(seen.view, watch(&job, |_| {}).await.view);
    node.stop().await;
    orchestrator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_job_of_the_same_number_is_neither_followed_nor_fetched() {
    let base = tempfile::tempdir().unwrap();
    let (address, other) = (free_address(), base.path().join("other"));
    let orchestrator = Part::orchestrator(address, &other).await;
    let node = Part::node(address, &base.path().join("m"), Duration::ZERO).await;
    let cluster = connect(&format!("http://{address}")).await;
    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=30)).await.unwrap();
    assert_eq!(watch(&job, |_| {}).await.view.state(), JobState::Finished);
    assert_eq!(cluster.job_again(job.info()).await.unwrap().id(), job.id());
    node.stop().await;
    orchestrator.stop().await;

    let (code, stderr) = render_while_store_is_replaced(base.path(), &other).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("is another one now (demo)"), "{stderr}");
    assert!(!stderr.contains("renders on"), "{stderr}");
    let frames = fs::read_dir(base.path().join("frames")).unwrap().count();
    assert!(frames < 30, "nothing of the other job is fetched");

    // Nor would it be cancelled.
    let orchestrator = Part::orchestrator(address, &base.path().join("o")).await;
    let again = connect(&format!("http://{address}")).await.job_again(job.info()).await;
    assert!(matches!(again, Err(Error::JobLost { job_id: 1, other: Some(_), .. })), "{again:?}");
    orchestrator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_gone_with_its_store_is_no_mistake_of_whoever_follows_it() {
    let base = tempfile::tempdir().unwrap();
    let empty = base.path().join("empty");
    let (code, stderr) = render_while_store_is_replaced(base.path(), &empty).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("is not there any more") && stderr.contains("its store"), "{stderr}");
    assert!(!stderr.contains("renders on") && !stderr.contains("fetch"), "{stderr}");
}
