//! The command `framecrew-orchestrator`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use framecrew_model::{InvalidTime, bytes, time};
use framecrew_net::signals::Signals;
use framecrew_orchestrator::{Backup, Checked, Config, serve};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Accepts jobs, gives their frames to render nodes, and shows every frame as it happens.
///
/// Nodes join by themselves: start `framecrew-node --orchestrator URL` on each machine that is to render.
/// Everything acknowledged survives a crash: start it again on the same --data and it goes on.
#[derive(Debug, Parser)]
#[command(name = "framecrew-orchestrator", version, max_term_width = 100)]
struct Args {
    /// Serves when there is none.
    #[command(subcommand)]
    command: Option<Command>,
    /// Address to serve on; 0.0.0.0:4000 to be reached from other machines.
    #[arg(
        long,
        env = "FRAMECREW_LISTEN",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Folder of the database and the blobs; created if it is missing.
    #[arg(
        long,
        env = "FRAMECREW_DATA",
        default_value = "framecrew-data",
        value_name = "DIR",
        global = true
    )]
    data: PathBuf,
    /// How long unused uploads and frames are kept after their last use, like 36h or 7d; 24h by default, at least 1h.
    ///
    /// Only those that no job needs count as unused. A plain number counts hours.
    #[arg(long, env = "FRAMECREW_BLOB_AGE", value_parser = hours, value_name = "TIME")]
    blob_age: Option<Duration>,
    /// Disk space for unused uploads and frames, like 50GiB, before the oldest are removed; 20GiB by default.
    #[arg(long, env = "FRAMECREW_BLOB_BYTES", value_parser = bytes, value_name = "SIZE")]
    blob_bytes: Option<u64>,
    /// File that the history of decisions is appended to, commit by commit; for tests.
    #[cfg(feature = "history")]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Asks the orchestrator on --listen whether it serves, and exits with 0 if it does: a container's health check.
    #[arg(long)]
    health: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks whether the store in --data is sound; may run beside its orchestrator.
    ///
    /// Checks the structure of the database, whether its tables agree (counts, states, batches), and whether every
    /// blob that a job needs is there. Changes nothing. Exits with 0 when the store is sound, with 1 after printing
    /// each fault on a line, and with 2 when there is nothing to check.
    #[command(
        after_help = "If there are faults: stop the orchestrator, keep the folder, and start it with \
        --data on a copy made by `backup`."
    )]
    Check {
        /// Also reads every blob and compares its hash; takes as long as reading all of them.
        #[arg(long)]
        blobs: bool,
    },
    /// Copies the store in --data to the folder TO; may run beside its orchestrator.
    ///
    /// The copy is of one moment: the database, and the blobs that its jobs need. Running it again brings the copy up
    /// to date and copies only new blobs. On one disk blobs are linked, not copied.
    #[command(
        after_help = "To go on from a copy: stop the old orchestrator, then start one with --data TO. Jobs \
        continue from the moment of the copy; frames finished later are rendered again. From then on the \
        folder is a store in use, so make the next backup to another one."
    )]
    Backup {
        /// Folder of the copy; created if it is missing. Best on another disk.
        to: PathBuf,
    },
}

/// Reads `36h`; a plain number counts hours.
fn hours(text: &str) -> Result<Duration, InvalidTime> {
    let hours = text.trim().parse::<u32>();
    hours.map_or_else(|_| time(text), |hours| Ok(Duration::from_secs(u64::from(hours) * 3_600)))
}

#[tokio::main]
async fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let args = Args::parse();
    match &args.command {
        Some(Command::Check { blobs }) => return check(&args.data, *blobs).await,
        Some(Command::Backup { to }) => return backup(&args.data, to).await,
        None => {}
    }
    if args.health {
        return if serves(args.listen).await { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    framecrew_net::telemetry::init("info", true);
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("framecrew-orchestrator: {error:#}");
            // 2, as for wrong usage: other flags fix each of these.
            ExitCode::from(2)
        }
    }
}

async fn check(data: &Path, hash_blobs: bool) -> ExitCode {
    match framecrew_orchestrator::check(data, hash_blobs).await {
        Ok(checked) if checked.is_sound() => {
            let Checked { jobs, frames, blobs, .. } = checked;
            let read = if hash_blobs { "read" } else { "found" };
            println!("sound: {jobs} jobs, {frames} frames with a history, {blobs} blobs {read}");
            ExitCode::SUCCESS
        }
        Ok(checked) => {
            for fault in &checked.faults {
                println!("{fault}");
            }
            let all = checked.faults.len() as u64 + checked.more_faults;
            println!(
                "not sound: {all} faults; keep this folder, and go on from a copy made by `backup`"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("framecrew-orchestrator: {error}");
            ExitCode::from(2)
        }
    }
}

async fn backup(data: &Path, to: &Path) -> ExitCode {
    match framecrew_orchestrator::backup(data, to).await {
        Ok(Backup { blobs, kept_blobs, missing_blobs }) => {
            let to = to.display();
            println!("copied to {to}: {blobs} new blobs, {kept_blobs} were there");
            if missing_blobs == 0 {
                return ExitCode::SUCCESS;
            }
            eprintln!(
                "framecrew-orchestrator: {missing_blobs} blobs are missing from the store itself; \
                 `framecrew-orchestrator check` names them"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("framecrew-orchestrator: {error}");
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
    config.blob_age = args.blob_age.unwrap_or(config.blob_age);
    config.blob_bytes = args.blob_bytes.unwrap_or(config.blob_bytes);
    #[cfg(feature = "history")]
    {
        config.history = args.history;
    }
    if !args.listen.ip().is_loopback() {
        tracing::warn!(
            address = %args.listen,
            "there is no authentication: anyone who can reach this address can render here and read the results"
        );
    }
    Ok(serve(listener, config, shutdown_signal()).await?)
}

/// Whether an orchestrator at `address` reports that it serves. The unspecified address is this machine.
async fn serves(address: SocketAddr) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else { return false };
    let Ok(channel) = endpoint.connect().await else { return false };
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
}

/// Completes at Ctrl-C and, on Unix, at SIGTERM.
async fn shutdown_signal() {
    match Signals::listen() {
        Ok(mut signals) => {
            signals.next().await;
        }
        // A signal then ends the process at once, which loses no more than a crash does.
        Err(error) => {
            tracing::warn!(%error, "cannot listen for signals");
            std::future::pending::<()>().await;
        }
    }
}
