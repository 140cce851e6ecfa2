//! The program: what it does with signals, and what it says when it is called wrongly.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{process::Command, time::Duration};

use framecrew_proto::v1::{BatchEnd, ProjectFile, batch_event::Event};
use rustix::process::Signal;
use support::{Crew, end, eventually, finished, request};

const SYNTHETIC: [&str; 4] = ["--renderer", "synthetic:1s", "--name", "alone"];

fn file() -> ProjectFile {
    ProjectFile {
        path: "shot.blend".into(),
        digest: "0".repeat(64),
        size_bytes: 1,
        chunks: Vec::new(),
    }
}

/// Runs the program; gives its exit code and what it said at last.
fn called(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_framecrew-node")).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap_or_default();
    (output.status.code(), last.to_owned())
}

#[tokio::test]
async fn a_signal_ends_the_node_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut crew = Crew::spawn(&SYNTHETIC, Duration::from_secs(15)).await;
        let mut events = crew.render(request(1, file(), 1..=99)).await.unwrap();
        events.until(|event| matches!(event, Event::Progress(_))).await;
        crew.signal(signal);
        assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
        assert_eq!(crew.code().await, Some(0));
        assert_eq!(crew.state.lock().unwrap().left[0].name, "alone");
    }
}

#[tokio::test]
async fn a_node_that_was_stopped_beyond_its_lease_publishes_nothing_when_it_wakes() {
    let crew = Crew::spawn(&SYNTHETIC, Duration::from_millis(1_500)).await;
    let mut events = crew.render(request(1, file(), 1..=99)).await.unwrap();
    let before = events.until(|event| matches!(event, Event::Finished(_))).await;
    crew.signal(Signal::STOP);
    crew.state.lock().unwrap().refuse = Some(tonic::Status::unavailable("away"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    crew.signal(Signal::CONT);
    let after = events.all().await;
    assert_eq!(end(&after), BatchEnd::Cancelled);
    assert!(finished(&after).is_empty(), "{before:?} {after:?}");
}

#[test]
fn a_port_in_use_is_one_clear_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = called(&["--orchestrator", "http://127.0.0.1:9", "--listen", &address]);
    assert_eq!(code, Some(2));
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn wrong_arguments_are_one_clear_sentence() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--data", data];
    let right = ["--orchestrator", "http://127.0.0.1:9", "--renderer", "synthetic:0ms"];
    for (arguments, word) in [
        (&["--orchestrator", "nowhere", "--renderer", "synthetic:0ms"][..], "nowhere"),
        (&["--orchestrator", "ftp://a", "--renderer", "synthetic:0ms"], "ftp://a"),
        (&[&right[..], &["--slots", "65"]].concat(), "65 slots"),
        (&[&right[..], &["--name", ""]].concat(), "name"),
        (&[&right[..], &["--advertise", "here"]].concat(), "here"),
        (&["--orchestrator", "http://10.0.0.5:4000", "--renderer", "synthetic:0ms"], "--advertise"),
        (&["--orchestrator", "http://[fd00::5]:4000", "--renderer", "synthetic:0ms"], "127.0.0.1"),
        (&["--orchestrator", "http://127.0.0.1:9", "--blender", "/bin/ls"], "/bin/ls"),
    ] {
        let (code, said) = called(&[&listen, arguments].concat());
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_node_waits_for_an_orchestrator_that_is_not_there_yet() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let data = tempfile::tempdir().unwrap();
    let url = format!("http://{address}");
    let mut process = Command::new(env!("CARGO_BIN_EXE_framecrew-node"))
        .args(["--orchestrator", &url, "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .args(SYNTHETIC)
        .spawn()
        .unwrap();
    eventually("the node's folder", async || data.path().join("work").exists()).await;
    let (state, _fake) = support::orchestrate_at(address, Duration::from_secs(15)).await;
    eventually("a heartbeat", async || state.lock().unwrap().heartbeats > 0).await;
    process.kill().unwrap();
    process.wait().unwrap();
}
