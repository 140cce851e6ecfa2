//! Connections that break in the worst moment: through a proxy that cuts them.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use framecrew::{
    Cluster, JobSpec, JobView, LocalCluster, LocalConfig, OutputFolder, WatchEvent, fetch,
    proto::{FrameState, JobState},
};
use framecrew_node::RendererChoice;
use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(120);

async fn local(data: &Path, per_frame: Duration) -> LocalCluster {
    let config = LocalConfig::new(2, data, RendererChoice::Synthetic(per_frame));
    timeout(PATIENCE, LocalCluster::start(config)).await.unwrap().unwrap()
}

/// Stands between a client and `cluster`. Before each piece of an answer goes to the client, `cuts` is asked
/// whether to cut the connection instead.
async fn proxy<F>(
    cluster: &LocalCluster,
    cuts: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> String
where
    F: Future<Output = bool> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server: SocketAddr = cluster.url().strip_prefix("http://").unwrap().parse().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            let cuts = cuts.clone();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let answers = async {
                    let mut bytes = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                        if cuts().await || to_client.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = answers => {}
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_answer_is_lost_makes_one_job() {
    let base = tempfile::tempdir().unwrap();
    let local = local(base.path(), Duration::from_millis(1)).await;
    let direct = local.cluster().clone();
    let cut = Arc::new(AtomicU32::new(0));
    let counted = cut.clone();
    let url = proxy(&local, move || {
        let (direct, cut) = (direct.clone(), cut.clone());
        async move {
            // Once: when there is a job, the answer under way is that of the submission.
            let made = cut.load(Ordering::SeqCst) == 0 && !direct.jobs(1).await.unwrap().is_empty();
            made && cut.fetch_add(1, Ordering::SeqCst) == 0
        }
    });
    let cluster = Cluster::connect(url.await).await.unwrap();
    let spec = JobSpec::animation(DEMO).frames(1..=3);
    let job = timeout(PATIENCE, cluster.submit(spec)).await.unwrap().unwrap();
    assert_eq!(counted.load(Ordering::SeqCst), 1, "the answer was lost");
    let jobs = local.cluster().jobs(10).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.job_id).collect::<Vec<_>>(), [job.id()]);
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_cut_off_again_and_again_ends_equal_to_one_that_joins_afresh() {
    let base = tempfile::tempdir().unwrap();
    let local = local(&base.path().join("data"), Duration::from_millis(40)).await;
    let pieces = Arc::new(AtomicU32::new(0));
    let url = proxy(&local, move || {
        let piece = pieces.fetch_add(1, Ordering::SeqCst);
        async move { piece % 10 == 9 }
    });
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=60)).await.unwrap();
    let cluster = Cluster::connect(url.await).await.unwrap();

    // The frames come over the same bad line.
    let folder = OutputFolder::open(&base.path().join("frames")).unwrap();
    let fetching = fetch::follow(&cluster, job.id(), &folder, |_| {});
    let watching = async {
        let (mut view, mut breaks) = (JobView::default(), 0);
        let mut watch = cluster.watch(job.id());
        while let Some(event) = watch.next().await {
            match event.unwrap() {
                WatchEvent::Update(update) => view.apply(&update),
                WatchEvent::Reconnecting { .. } => {
                    breaks += 1;
                    view.forget_active();
                }
                WatchEvent::StartingOver { reason } => panic!("it is the same store: {reason}"),
            }
        }
        (view, breaks)
    };
    let both = async { tokio::join!(fetching, watching) };
    let (fetched, (view, breaks)) = timeout(PATIENCE, both).await.unwrap();
    assert!(breaks > 0, "the line was cut");
    assert_eq!(view.state(), JobState::Finished);
    assert_eq!(view.runs().collect::<Vec<_>>(), [(1, 60, FrameState::Finished)]);
    let fetched = fetched.unwrap();
    assert!(fetched.fetched >= 60, "{fetched:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 60);

    let mut afresh = JobView::default();
    let mut watch = local.cluster().watch(job.id());
    while let Some(event) = timeout(PATIENCE, watch.next()).await.unwrap() {
        if let WatchEvent::Update(update) = event.unwrap() {
            afresh.apply(&update);
        }
    }
    assert_eq!(view, afresh);
    local.shutdown().await;
}
