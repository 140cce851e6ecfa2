//! The README's walk-through with grpcurl, run line by line as it stands against a cluster of our own.
#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

use std::{fs, io::Write as _, path::Path, process::Output, time::Duration};

use framecrew::{LocalCluster, LocalConfig};
use framecrew_node::RendererChoice;
use tokio::process::Command;

/// The address in the README, which gives way to the test's own.
const README_ADDRESS: &str = "localhost:4000";
/// Far longer than a dozen calls and three synthetic frames take on the slowest machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The programs that the walk-through needs besides a shell; `None`, said aloud, where one is missing and the
/// test may be skipped. Where nothing may be skipped, FRAMECREW_REQUIRE_GRPCURL is set.
fn programs_are_here() -> Option<()> {
    for (program, flag) in [("grpcurl", "-version"), ("b3sum", "--version")] {
        if let Err(error) = std::process::Command::new(program).arg(flag).output() {
            let required = std::env::var_os("FRAMECREW_REQUIRE_GRPCURL").is_some();
            assert!(!required, "{program}: {error}");
            let why = format!("skipped: {program} is not installed ({error})\n");
            // Not eprintln, which the test harness keeps to itself.
            std::io::stderr().write_all(why.as_bytes()).unwrap();
            return None;
        }
    }
    Some(())
}

/// The shell lines of the README's section on grpcurl.
fn walk_through() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, section) = readme.split_once("## With grpcurl\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (_, block) = section.split_once("\n```sh\n").unwrap();
    block.split_once("\n```").unwrap().0.to_owned()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

async fn cluster_in(folder: &Path) -> LocalCluster {
    let renderer = RendererChoice::Synthetic(Duration::from_millis(100));
    LocalCluster::start(LocalConfig::new(1, folder.join("data"), renderer)).await.unwrap()
}

/// Runs shell lines in a folder, as a person would paste them, but stopping at the first that fails.
async fn shell(lines: &str, folder: &Path) -> Output {
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", lines]).current_dir(folder).kill_on_drop(true);
    tokio::time::timeout(TIMEOUT, bash.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_walk_through_renders_with_grpcurl_alone() {
    let Some(()) = programs_are_here() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster_in(folder.path()).await;
    let assets = folder.path().join("client/assets");
    fs::create_dir_all(&assets).unwrap();
    fs::copy(repository().join("client/assets/demo.blend"), assets.join("demo.blend")).unwrap();

    let lines = walk_through();
    assert!(lines.contains(README_ADDRESS), "{lines}");
    let address = cluster.url().trim_start_matches("http://");
    let output = shell(&lines.replace(README_ADDRESS, address), folder.path()).await;
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();

    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    for told in [
        "framecrew.v1.Orchestrator", // list
        "message SubmitJobRequest",  // describe
        "\"status\": \"SERVING\"",   // health
        "\"snapshot\"",              // the watch begins with the whole
        "\"ended\"",                 // and ends with an explicit end
        "\"state\": \"JOB_STATE_FINISHED\"",
    ] {
        assert!(stdout.contains(told), "{told} is missing from:\n{stdout}");
    }
    let frame = image::open(folder.path().join("frame-0002.png")).unwrap();
    assert!(frame.width() > 0 && frame.height() > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_prints_every_fault_of_a_request_in_clear() {
    let Some(()) = programs_are_here() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster_in(folder.path()).await;
    let address = cluster.url().trim_start_matches("http://");
    let request =
        r#"{"request_id": "faulty", "spec": {"frames": [{"first": 3, "last": 1, "step": 1}]}}"#;
    let call =
        format!("grpcurl -plaintext -d '{request}' {address} framecrew.v1.Orchestrator/SubmitJob");
    let output = shell(&call, folder.path()).await;
    let stderr = String::from_utf8(output.stderr).unwrap();

    assert!(!output.status.success());
    for told in
        ["InvalidArgument", "google.rpc.BadRequest", "spec.name", "spec.project", "spec.frames[0]"]
    {
        assert!(stderr.contains(told), "{told} is missing from:\n{stderr}");
    }
    cluster.shutdown().await;
}
