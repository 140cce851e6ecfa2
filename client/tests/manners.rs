//! Tests small conveniences that people know from other tools: leaving, listing, following, and immediate
//! feedback.

#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use framecrew::{JobSpec, LocalCluster, LocalConfig, proto::JobState};
use framecrew_node::RendererChoice;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// Far longer than any step here takes, so that a slow machine causes no failure.
const PATIENCE: Duration = Duration::from_secs(120);

async fn cluster(data: &Path, per_frame: Duration) -> LocalCluster {
    let config = LocalConfig::new(1, data, RendererChoice::Synthetic(per_frame));
    timeout(PATIENCE, LocalCluster::start(config)).await.unwrap().unwrap()
}

/// The command, without settings from the environment.
fn command(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framecrew"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FRAMECREW_") {
            command.env_remove(name);
        }
    }
    command.args(args).current_dir(folder).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn framecrew(args: &[&str], folder: &Path) -> (i32, String, String) {
    let output = timeout(PATIENCE, command(args, folder).output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn interrupt(process: &Child) {
    let pid = Pid::from_raw(process.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_a_watch_at_once_and_never_cancels() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), Duration::from_secs(60)).await;
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=9)).await.unwrap();
    let id = job.id().to_string();
    for presses in [1, 2] {
        let args = ["watch", &id, "--cluster", local.url()];
        let mut watch = command(&args, base.path()).spawn().unwrap();
        // Its first line shows that it is watching, and so listening for Ctrl-C.
        let mut said = BufReader::new(watch.stdout.take().unwrap()).lines();
        timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        for _ in 0..presses {
            interrupt(&watch);
        }
        let status = timeout(PATIENCE, watch.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(130));
        let mut noted = String::new();
        watch.stderr.take().unwrap().read_to_string(&mut noted).await.unwrap();
        for words in
            ["renders on", &format!("framecrew watch {id}"), &format!("framecrew cancel {id}")]
        {
            assert!(noted.contains(words), "{words:?} is not in: {noted}");
        }
        let now = local.cluster().job(job.id()).await.unwrap();
        assert_ne!(now.info().state(), JobState::Cancelled);
    }
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_jobs_counts_older_ones_and_json_lists_all() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), Duration::from_secs(60)).await;
    for _ in 0..53 {
        local.cluster().submit(JobSpec::still(DEMO, 1)).await.unwrap();
    }
    let jobs = async |args: &[&str]| {
        let args = [&["jobs", "--cluster", local.url()], args].concat();
        let (code, stdout, stderr) = framecrew(&args, base.path()).await;
        assert_eq!(code, 0, "{stderr}");
        (stdout.lines().count(), stderr)
    };
    // One line is the header.
    assert_eq!(jobs(&[]).await, (51, "and 3 older: -n 53\n".to_owned()));
    assert_eq!(jobs(&["-n", "2"]).await, (3, "and 51 older: -n 53\n".to_owned()));
    assert_eq!(jobs(&["-n", "53"]).await, (54, String::new()));
    assert_eq!(jobs(&["--json"]).await, (53, String::new()));
    assert_eq!(jobs(&["--json", "-n", "2"]).await, (2, String::new()));
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_lines_says_so_and_f_follows() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), Duration::from_secs(60)).await;
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=9)).await.unwrap();
    let id = job.id().to_string();
    let logs = async |args: &[&str]| {
        framecrew(&[&["logs", &id, "--cluster", local.url()], args].concat(), base.path()).await
    };
    let (code, stdout, stderr) = logs(&[]).await;
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains(&format!("no lines of job {id}")), "{stderr}");
    let (_, _, stderr) = logs(&["--frame", "-3"]).await;
    assert!(stderr.contains("for frame -3"), "{stderr}");
    let (code, _, stderr) = logs(&["-f", "12"]).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--frame 12"), "it says what -f 12 is now: {stderr}");

    let args = ["logs", &id, "-f", "--cluster", local.url()];
    let mut following = command(&args, base.path()).spawn().unwrap();
    // It waits for a running job, and ends with it.
    assert!(timeout(Duration::from_millis(500), following.wait()).await.is_err());
    job.cancel().await.unwrap();
    let status = timeout(PATIENCE, following.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn up_and_demo_say_what_they_do_before_a_blender_has_answered() {
    let base = tempfile::tempdir().unwrap();
    // Slow to answer, as on a busy machine.
    let blender = base.path().join("blender");
    fs::write(&blender, "#!/bin/sh\nexec /bin/sleep 20\n").unwrap();
    fs::set_permissions(&blender, fs::Permissions::from_mode(0o755)).unwrap();
    let up = ["up", "--listen", "127.0.0.1:0", "--data", "data"];
    for args in [&up[..], &["demo"]] {
        let mut command = command(args, base.path());
        command.env("PATH", base.path()).env("XDG_CACHE_HOME", base.path().join("cache"));
        let mut process = command.env_remove("VIRTUAL_ENV").spawn().unwrap();
        let mut noted = BufReader::new(process.stderr.take().unwrap()).lines();
        let first = timeout(PATIENCE, noted.next_line()).await.unwrap().unwrap();
        assert_eq!(first.as_deref(), Some("looking for Blender …"), "{args:?}");
        interrupt(&process);
        let status = timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(130), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_others_can_reach_warns_of_no_authentication() {
    let base = tempfile::tempdir().unwrap();
    for (listen, warns) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
        let args = ["up", "--listen", listen, "--data", "data", "--renderer", "synthetic:1ms"];
        let mut up = command(&args, base.path()).spawn().unwrap();
        let mut said = BufReader::new(up.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        assert!(first.unwrap().starts_with("the cluster is up"));
        interrupt(&up);
        let output = timeout(PATIENCE, up.wait_with_output()).await.unwrap().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.contains("there is no authentication"), warns, "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_the_way_of_a_render_are_named_before_submitting() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), Duration::from_millis(1)).await;
    fs::create_dir(base.path().join("out")).unwrap();
    // The scene gives its frames these names. The synthetic renderer names them differently, which is only known
    // when they are fetched.
    let files = ["3.png", "4.png", "9.png", "3.jpg"].map(|end| format!("out/framecrew-000{end}"));
    let files = [&files[..], &["shot.mp4".to_owned()]].concat();
    for file in &files {
        fs::write(base.path().join(file), "a person's").unwrap();
    }
    let render = async |more: &[&str]| {
        let render = ["render", DEMO, "-f", "1-4", "--cluster", local.url()];
        framecrew(&[&render[..], more].concat(), base.path()).await
    };
    for (more, words) in [
        (&["-o", "out"][..], "out/framecrew-0003.png and 1 more file are there already"),
        (&["-o", "new", "--movie", "shot.mp4"], "shot.mp4 is there already"),
    ] {
        let (code, stdout, stderr) = render(more).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("--overwrite"), "{stderr}");
    }
    assert!(local.cluster().jobs(1).await.unwrap().is_empty(), "nothing is submitted");
    assert!(!base.path().join("new").exists(), "nothing is made");
    let (code, stdout, stderr) = render(&["-o", "out", "--overwrite"]).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    for file in &files[..2] {
        fs::remove_file(base.path().join(file)).unwrap();
    }
    let (code, stdout, stderr) = render(&["-o", "out"]).await;
    assert_eq!(code, 0, "what was rendered may be rendered again: {stdout}{stderr}");
    for file in &files[2..] {
        assert_eq!(fs::read(base.path().join(file)).unwrap(), b"a person's", "{file}");
    }
    local.shutdown().await;
}
