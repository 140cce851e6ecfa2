//! The program: what it does with signals, and what it says when it is called wrongly.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{process::Command, time::Duration};

use framecrew_node::blender::Kind;
use framecrew_proto::v1::{BatchEnd, Blender, ProjectFile, batch_event::Event};
use rustix::process::{self, Pid, Signal};
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
async fn a_goodbye_that_nobody_heard_is_said_by_the_next_life_before_it_registers() {
    let mut crew = Crew::spawn(&SYNTHETIC, Duration::from_secs(15)).await;
    let _batch = crew.render(request(1, file(), 1..=99)).await.unwrap();
    crew.state.lock().unwrap().refuse = Some(tonic::Status::unavailable("away"));
    crew.signal(Signal::TERM);
    assert_eq!(crew.code().await, Some(0));
    let before = {
        let mut state = crew.state.lock().unwrap();
        assert!(state.left.is_empty());
        state.refuse = None;
        state.registered.len()
    };
    crew.again().await;
    let (former, said_after) = {
        let state = crew.state.lock().unwrap();
        assert_eq!(state.left.len(), 1);
        assert_eq!(state.left[0].incarnation, state.registered[0].incarnation);
        (state.left[0].clone(), state.left_after[0])
    };
    assert_eq!(said_after, before, "first of all");

    // And only once; each life says its own.
    crew.signal(Signal::TERM);
    assert_eq!(crew.code().await, Some(0));
    let state = crew.state.lock().unwrap();
    assert_eq!(state.left.len(), 2);
    assert!(state.left[1].incarnation > former.incarnation);
    assert!(!crew.data.path().join("goodbye").exists());
}

#[tokio::test]
async fn a_goodbye_is_said_again_when_it_was_not_heard_and_kept_for_the_cluster_that_it_is_owed_to()
{
    let mut crew = Crew::spawn(&SYNTHETIC, Duration::from_secs(15)).await;
    let goodbye = crew.data.path().join("goodbye");
    crew.state.lock().unwrap().deaf = 2;
    crew.signal(Signal::TERM);
    assert_eq!(crew.code().await, Some(0));
    assert_eq!(crew.state.lock().unwrap().left.len(), 1);
    assert!(!goodbye.exists());

    crew.again().await;
    crew.state.lock().unwrap().refuse = Some(tonic::Status::unavailable("away"));
    crew.signal(Signal::TERM);
    assert_eq!(crew.code().await, Some(0));
    assert!(goodbye.exists());
    let owed = {
        let mut state = crew.state.lock().unwrap();
        state.refuse = None;
        state.store_id = "another".into();
        state.registered.last().unwrap().incarnation
    };
    crew.again().await;
    crew.signal(Signal::TERM);
    assert_eq!(crew.code().await, Some(0));
    assert!(goodbye.exists(), "its own cluster has not heard it");
    {
        let mut state = crew.state.lock().unwrap();
        state.left.clear();
        state.store_id = "store".into();
    }
    crew.again().await;
    assert_eq!(crew.state.lock().unwrap().left[0].incarnation, owed);
    eventually("that it is forgotten", async || !goodbye.exists()).await;
}

#[tokio::test]
async fn a_signal_ends_the_node_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut crew = Crew::spawn(&SYNTHETIC, Duration::from_secs(15)).await;
        let mut events = crew.render(request(1, file(), 1..=99)).await.unwrap();
        let waiting = crew.render(request(2, file(), 1..=99)).await.unwrap();
        events.until(|event| matches!(event, Event::Progress(_))).await;
        crew.signal(signal);
        let events = events.all().await;
        assert_eq!(end(&events), BatchEnd::Cancelled);
        assert_eq!(finished(&events).len(), 1, "what was in hand is finished");
        assert_eq!(waiting.all().await.len(), 1, "what was not is handed back");
        assert_eq!(crew.code().await, Some(0));
        let state = crew.state.lock().unwrap();
        assert_eq!(state.left[0].name, "alone");
        assert!(state.draining > 0);
    }
}

#[tokio::test]
async fn a_signal_ends_a_node_that_is_still_asking_what_it_draws_with() {
    let (state, orchestrator, _fake) = support::orchestrate(Duration::from_secs(15)).await;
    let folder = tempfile::tempdir().unwrap();
    let (blender, asked) = (folder.path().join("blender"), folder.path().join("asked"));
    // Written by another process, so that none of ours can hold it open while it is run.
    let script =
        format!("#!/bin/sh\necho $$ > {0}.part; mv {0}.part {0}; exec sleep 3600", asked.display());
    let made = Command::new("sh")
        .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
        .args([blender.as_os_str(), script.as_ref()])
        .status();
    assert!(made.unwrap().success());
    let mut process = Command::new(env!("CARGO_BIN_EXE_framecrew-node"))
        .args(["--orchestrator", &orchestrator, "--listen", "127.0.0.1:0", "--name", "alone"])
        .args([std::ffi::OsStr::new("--data"), folder.path().as_ref()])
        .args([std::ffi::OsStr::new("--blender"), blender.as_ref()])
        .spawn()
        .unwrap();
    let node = Pid::from_child(&process);
    let waits = async || asked.exists() && state.lock().unwrap().heartbeats > 0;
    eventually("a node that asks and has a lease", waits).await;
    process::kill_process(node, Signal::TERM).unwrap();
    let ending = tokio::task::spawn_blocking(move || process.wait().unwrap());
    let ended = tokio::time::timeout(support::PATIENCE, ending).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(state.lock().unwrap().left.len(), 1, "and it has said goodbye");
    let left = std::fs::read_dir(folder.path().join("work")).unwrap().count();
    assert_eq!(left, 0, "and leaves no folder behind");
    let asked = std::fs::read_to_string(asked).unwrap().trim().parse().unwrap();
    let asked = Pid::from_raw(asked).unwrap();
    assert!(process::kill_process(asked, Signal::KILL).is_ok(), "nobody waited for the answer");
}

#[tokio::test]
async fn a_second_signal_and_the_end_of_its_patience_end_a_node_at_once() {
    let slow = ["--renderer", "synthetic:3600s", "--drain-seconds"];
    for patience in ["3600", "1"] {
        let arguments = [&slow[..], &[patience]].concat();
        let mut crew = Crew::spawn(&arguments, Duration::from_secs(15)).await;
        let mut events = crew.render(request(1, file(), [1])).await.unwrap();
        events.until(|event| matches!(event, Event::Started(_))).await;
        crew.signal(Signal::TERM);
        if patience == "3600" {
            eventually("that it drains", async || crew.status().await.draining).await;
            let refused = crew.render(request(2, file(), [1])).await.err().unwrap();
            assert_eq!(refused.code(), tonic::Code::Unavailable);
            crew.signal(Signal::TERM);
        }
        assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
        assert_eq!(crew.code().await, Some(0));
    }
}

#[tokio::test]
async fn a_node_that_wakes_beyond_its_lease_gives_its_batch_up_though_it_gets_a_new_lease_at_once()
{
    let crew = Crew::spawn(&SYNTHETIC, Duration::from_millis(1_500)).await;
    let mut events = crew.render(request(1, file(), 1..=99)).await.unwrap();
    events.until(|event| matches!(event, Event::Finished(_))).await;
    crew.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    crew.signal(Signal::CONT);
    let after = events.all().await;
    assert_eq!(end(&after), BatchEnd::Cancelled);
    assert!(finished(&after).is_empty(), "{after:?}");
    eventually("a new lease", async || crew.status().await.leased).await;
}

#[tokio::test]
async fn what_a_killed_node_had_finished_is_handed_in_by_its_next_life() {
    let fast = ["--renderer", "synthetic:100ms", "--name", "alone"];
    let mut crew = Crew::spawn(&fast, Duration::from_secs(15)).await;
    crew.state.lock().unwrap().store_is_away = true;
    let _events = crew.render(request(1, file(), 1..=99)).await.unwrap();
    eventually("finished frames", async || crew.status().await.kept_frames >= 3).await;
    crew.signal(Signal::KILL);
    assert_eq!(crew.code().await, None);
    assert!(crew.state.lock().unwrap().blobs.is_empty());
    crew.again().await;
    eventually("an offer", async || crew.state.lock().unwrap().offers > 0).await;
    assert!(crew.status().await.kept_frames >= 2, "kept until it is confirmed");
    crew.state.lock().unwrap().store_is_away = false;
    eventually("an empty outbox", async || {
        let left = support::files(&crew.data.path().join("outbox"));
        crew.status().await.kept_frames == 0 && left.is_empty()
    })
    .await;
    let state = crew.state.lock().unwrap();
    let frames: Vec<_> = state.adopted.iter().map(|f| f.slice.unwrap().frame).collect();
    // What is written less than a moment before may be lost.
    assert!(frames.len() >= 2 && frames[..2] == [1, 2], "{frames:?}");
    for frame in &state.adopted {
        let output = &frame.outputs[0];
        assert_eq!(state.blobs[&output.digest].len() as u64, output.size_bytes);
    }
}

#[tokio::test]
async fn a_poisonous_frame_takes_the_node_with_it() {
    let faults = [&SYNTHETIC[..], &["--synthetic-faults", "poison=3"]].concat();
    let mut crew = Crew::spawn(&faults, Duration::from_secs(15)).await;
    let _events = crew.render(request(1, file(), [2, 3])).await.unwrap();
    assert_eq!(crew.code().await, None, "a signal ended it");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn processes_and_folders_that_an_earlier_life_left_go_away() {
    let mut crew = Crew::spawn(&SYNTHETIC, Duration::from_secs(15)).await;
    crew.signal(Signal::KILL);
    crew.code().await;
    let left = crew.data.path().join("work").join("blender-abc");
    std::fs::create_dir_all(&left).unwrap();
    let mut orphan = Command::new("sleep").arg("3600").current_dir(&left).spawn().unwrap();
    crew.again().await;
    let ended = tokio::task::spawn_blocking(move || orphan.wait().unwrap()).await.unwrap();
    assert!(!ended.success());
    assert!(!left.exists());
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
        (&[&right[..], &["--outbox-bytes", "5"]].concat(), "outbox"),
        (&[&right[..], &["--synthetic-faults", "burn=1"]].concat(), "--help"),
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

/// Waits until a node that was started with `variables` announces the Blender at `path` with this property.
async fn announces(
    path: &std::path::Path,
    variables: &[(&str, &std::ffi::OsStr)],
    is: impl Fn(&Blender) -> bool,
) {
    let crew = Crew::spawn_in(&["--name", "alone"], variables, Duration::from_secs(15)).await;
    eventually("that it is announced", async || {
        let state = crew.state.lock().unwrap();
        let blenders = state.registered.last().unwrap().description.clone().unwrap().blenders;
        blenders.iter().any(|blender| std::path::Path::new(&blender.path) == path && is(blender))
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_own_colour_configuration_is_readable_and_a_broken_one_is_named() {
    let found = support::blender::found();
    let Some(executable) = found.iter().find(|blender| blender.kind == Kind::Executable) else {
        return;
    };
    // Not in a folder that is readable within the walls.
    let folder = tempfile::tempdir().unwrap();
    let copy = "
import shutil
source = bpy.utils.system_resource('DATAFILES', path='colormanagement')
shutil.copytree(source, FOLDER + '/ocio')
";
    let copy = copy.replace("FOLDER", &format!("{:?}", folder.path()));
    support::blender::run(executable, &copy, folder.path());
    let whole = folder.path().join("ocio/config.ocio");
    let broken = folder.path().join("broken.ocio");
    std::fs::write(&broken, "no configuration").unwrap();
    let path = &executable.path;
    announces(path, &[("OCIO", whole.as_os_str())], |blender| blender.unusable.is_empty()).await;
    let names_it = |blender: &Blender| blender.unusable.contains("OpenColorIO Error");
    announces(path, &[("OCIO", broken.as_os_str())], names_it).await;
}
