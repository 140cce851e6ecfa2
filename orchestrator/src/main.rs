//! The command `framecrew-orchestrator`.

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use framecrew_orchestrator::{Config, serve};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tracing_subscriber::EnvFilter;

/// Accepts jobs, gives their frames to render nodes, and shows every frame as it happens.
///
/// Nodes join by themselves: start `framecrew-node --orchestrator URL` on each machine that is to render.
/// Everything acknowledged survives a crash: start it again on the same --data and it goes on.
#[derive(Debug, Parser)]
#[command(name = "framecrew-orchestrator", version, max_term_width = 100)]
struct Args {
    /// Address to serve on; 0.0.0.0:4000 to be reached from other machines.
    #[arg(
        long,
        env = "FRAMECREW_LISTEN",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Folder of the database and the blobs; made where it is not.
    #[arg(long, env = "FRAMECREW_DATA", default_value = "framecrew-data", value_name = "DIR")]
    data: PathBuf,
    /// Hours that uploads and frames which no job needs are kept after they were last used; 24 by default, 1 at
    /// least.
    #[arg(long, env = "FRAMECREW_BLOB_AGE", value_name = "HOURS")]
    blob_age: Option<u32>,
    /// Bytes that they may take before the oldest go; 20 GiB by default.
    #[arg(long, env = "FRAMECREW_BLOB_BYTES", value_name = "BYTES")]
    blob_bytes: Option<u64>,
    /// Asks the orchestrator on --listen whether it serves, and exits with 0 if it does: a container's health check.
    #[arg(long)]
    health: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.health {
        return if serves(args.listen).await { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let filter = EnvFilter::try_from_env("FRAMECREW_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("framecrew-orchestrator: {error:#}");
            // 2, as for wrong usage: each of these is mended by other flags.
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{} is in use: another orchestrator may be running; choose another with --listen",
            args.listen
        ),
        _ => anyhow::anyhow!(
            "cannot listen on {}: {error}; choose another with --listen",
            args.listen
        ),
    })?;
    let mut config = Config::new(args.data);
    if let Some(hours) = args.blob_age {
        config.blob_age = Duration::from_secs(u64::from(hours) * 60 * 60);
    }
    config.blob_bytes = args.blob_bytes.unwrap_or(config.blob_bytes);
    Ok(serve(listener, config, shutdown_signal()).await?)
}

/// Whether an orchestrator at `address` (also one that stands for all of this machine's) says that it serves.
async fn serves(address: SocketAddr) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { return false };
    let Ok(channel) = endpoint.connect().await else { return false };
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

/// Ends at Ctrl-C and, where there is such a thing, at SIGTERM.
async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
