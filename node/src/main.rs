//! `framecrew-node`: renders frames on this machine for an orchestrator.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Parser;
use framecrew_model::{bytes, seconds};
use framecrew_net::signals::Signals;
use framecrew_node::{
    Config, Confine, InjectedFaults, RendererChoice,
    blender::{self, Search, Teller},
};
use framecrew_proto::v1::{Blender, DescribeNodeRequest, render_node_client::RenderNodeClient};
use tokio::{net::TcpListener, runtime::Runtime, task};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{info, warn};

/// Renders frames on this machine for a Framecrew orchestrator.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the orchestrator is, like http://10.0.0.1:4000
    #[arg(long, env = "FRAMECREW_ORCHESTRATOR", value_name = "URL")]
    orchestrator: String,
    /// Address to listen on for the orchestrator
    #[arg(
        long,
        env = "FRAMECREW_LISTEN",
        default_value = "127.0.0.1:3000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Where the orchestrator reaches this node [default: the address it registers from]
    #[arg(long, env = "FRAMECREW_ADVERTISE", value_name = "URL")]
    advertise: Option<String>,
    /// Name in the cluster [default: the host's name]
    #[arg(long, env = "FRAMECREW_NAME")]
    name: Option<String>,
    /// Frames to render at a time
    #[arg(long, env = "FRAMECREW_SLOTS", default_value_t = 1)]
    slots: u32,
    /// Tag this node bears; jobs can ask for it. May be repeated
    #[arg(long = "tag", env = "FRAMECREW_TAGS", value_delimiter = ',')]
    tags: Vec<String>,
    /// A Blender to use, or a Python with bpy, besides those that are found. May be repeated
    #[arg(
        long = "blender",
        env = "FRAMECREW_BLENDERS",
        value_delimiter = ',',
        value_name = "PATH"
    )]
    blenders: Vec<PathBuf>,
    /// Folder for projects and unfinished frames [default: in the cache folder, by the node's name]
    #[arg(long, env = "FRAMECREW_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder for a provisioned Blender [default: framecrew in the user's cache folder]
    #[arg(long, env = "FRAMECREW_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Disk space for projects, like 20GiB: those used longest ago are removed, and one that is larger cannot be rendered
    /// here [default: 20GiB]
    #[arg(long, env = "FRAMECREW_CACHE_BYTES", value_parser = bytes, value_name = "SIZE")]
    cache_bytes: Option<u64>,
    /// Disk space for finished frames while the orchestrator is unreachable; above 80 % no new work is accepted
    /// [default: 8GiB]
    #[arg(long, env = "FRAMECREW_OUTBOX_BYTES", value_parser = bytes, value_name = "SIZE")]
    outbox_bytes: Option<u64>,
    /// How long the node waits for frames in progress after SIGTERM or Ctrl-C, like 60s or 5m (a plain number counts
    /// seconds); a second signal ends it at once [default: 60s]
    #[arg(long, env = "FRAMECREW_DRAIN_SECONDS", value_parser = seconds, value_name = "TIME")]
    drain_seconds: Option<Duration>,
    /// For tests: what a synthetic renderer does wrong, like `poison=37,fail=5,hang=9,oom=11,blank=13`: kinds, each
    /// with a frame or `*`; `poison` kills the node
    #[arg(
        long,
        env = "FRAMECREW_SYNTHETIC_FAULTS",
        value_name = "SPEC",
        default_value = "",
        hide_default_value = true
    )]
    synthetic_faults: InjectedFaults,
    /// Install missing Blenders into the cache, and as root the libraries they need: one at once if this machine has
    /// none, others when jobs need them
    #[arg(long, env = "FRAMECREW_PROVISION")]
    provision: bool,
    /// Whether Blender must be confined to its own folder, so that no .blend makes it write elsewhere
    #[arg(long, env = "FRAMECREW_CONFINE", value_enum, default_value_t)]
    confine: Confine,
    /// Render jobs that ask for their files' own Python to run, too
    #[arg(long, env = "FRAMECREW_ALLOW_SCRIPTS")]
    allow_scripts: bool,
    /// What makes movies [default: the ffmpeg on the PATH]
    #[arg(long, env = "FRAMECREW_FFMPEG", value_name = "PATH")]
    ffmpeg: Option<PathBuf>,
    /// What draws: `blender`, or `synthetic:200ms` for load tests (small pictures after that time)
    #[arg(long, env = "FRAMECREW_RENDERER", default_value = "blender")]
    renderer: RendererChoice,
    /// Ask the node on --listen whether it belongs to a cluster, and exit with 0 if it does: a container's
    /// health check
    #[arg(long)]
    health: bool,
}

fn main() -> ExitCode {
    framecrew_net::telemetry::init("info", true);
    let args = Args::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the async runtime: {error}")),
    };
    let exit = runtime.block_on(async {
        if args.health {
            return if is_leased(args.listen).await {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        match run(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&format!("{error:#}")),
        }
    });
    // A thread that still works, such as one that installs a Blender, must not keep the node from ending.
    runtime.shutdown_background();
    exit
}

fn failed(why: &str) -> ExitCode {
    eprintln!("framecrew-node: {why}");
    ExitCode::from(2)
}

async fn run(args: Args) -> anyhow::Result<()> {
    // The port first: the most common mistake is reported before anything takes long.
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", args.listen)
    })?;
    let name = args.name.or_else(sysinfo::System::host_name);
    let name =
        name.ok_or_else(|| anyhow!("this host has no name; give the node one with --name"))?;
    let cache = args.cache.unwrap_or_else(blender::default_cache);
    let provision = args.provision.then(|| cache.clone());
    let data = args.data.unwrap_or_else(|| cache.join("nodes").join(&name));
    let draws = matches!(args.renderer, RendererChoice::Blender(_));
    let (given, provisions) = (args.blenders, args.provision);
    let find = move |temporary: PathBuf| async move {
        if !draws {
            return Ok(Search::default());
        }
        let finding = task::spawn_blocking(move || find(&given, &cache, provisions, &temporary));
        finding.await.map_err(anyhow::Error::from).flatten().map_err(|error| format!("{error:#}"))
    };
    let usual = Config::new(name, args.orchestrator, args.renderer, data);
    let config = Config {
        advertise: args.advertise,
        slots: args.slots,
        tags: args.tags,
        confine: args.confine,
        allow_scripts: args.allow_scripts,
        ffmpeg: args.ffmpeg,
        cache_bytes: args.cache_bytes.unwrap_or(usual.cache_bytes),
        outbox_bytes: args.outbox_bytes.unwrap_or(usual.outbox_bytes),
        drain: args.drain_seconds.unwrap_or(usual.drain),
        faults: args.synthetic_faults,
        provision,
        ..usual
    };
    let (leave, shutdown) = end_signals()?;
    framecrew_node::serve_until(listener, config, find, leave, shutdown).await?;
    Ok(())
}

/// Whether a node at `address` (also one that stands for all of this machine's) holds a lease and can draw.
async fn is_leased(address: SocketAddr) -> bool {
    let Ok(mut node) = RenderNodeClient::connect(format!("http://{address}")).await else {
        return false;
    };
    let answer = node.describe_node(DescribeNodeRequest {}).await;
    let Ok(answer) = answer.map(tonic::Response::into_inner) else { return false };
    let draws = |blender: &Blender| blender.unusable.is_empty();
    let has_blenders = answer.description.is_some_and(|it| it.blenders.iter().any(draws));
    has_blenders && answer.status.is_some_and(|status| status.leased)
}

/// The Blenders of this machine; with `provision`, one that is installed now when there is none.
fn find(
    given: &[PathBuf],
    cache: &std::path::Path,
    provision: bool,
    temporary: &std::path::Path,
) -> anyhow::Result<Search> {
    let mut search = blender::search_in(given, cache, temporary);
    for path in given {
        let is_known = search.found.iter().any(|blender| &blender.path == path)
            || search.unsure.iter().any(|unsure| &unsure.path == path);
        if !is_known {
            return Err(anyhow!(
                "{} is neither a Blender nor a Python that can import bpy",
                path.display()
            ));
        }
    }
    // A program that has not answered yet may turn out to be the only Blender.
    let may_come = search.unsure.iter().any(|unsure| unsure.is_silent);
    if search.found.is_empty() && !may_come && provision {
        let mut teller = Teller::default();
        let blender = blender::provision(cache, |progress| {
            if let Some(line) = teller.line(&progress) {
                info!("{line}");
            }
        })?;
        let missing = blender::missing_libraries(&blender);
        blender::install_libraries(&missing, |command| info!("running: {command}"))?;
        search = blender::search_in(given, cache, temporary);
    }
    if search == Search::default() {
        return Err(anyhow!(
            "there is no Blender on this machine; install one, name it with --blender, or let --provision install it"
        ));
    }
    for unsure in &search.unsure {
        warn!("{}; asking it again", unsure.why);
    }
    for blender in &search.found {
        info!(version = %blender.version, path = %blender.path.display(), "found Blender");
        for library in blender::missing_libraries(blender) {
            warn!(library = library.name, "EEVEE and Workbench may not draw: a library is missing");
        }
    }
    Ok(search)
}

/// What completes at the first signal that asks this process to end, and at the second.
fn end_signals() -> anyhow::Result<(WaitForCancellationFutureOwned, WaitForCancellationFutureOwned)>
{
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let told = (first.clone().cancelled_owned(), second.clone().cancelled_owned());
    tokio::spawn(async move {
        for token in [first, second] {
            signals.next().await;
            token.cancel();
        }
    });
    Ok(told)
}
