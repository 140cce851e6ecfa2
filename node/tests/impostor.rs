//! A node whose Blender is a shell script that speaks to the node as our worker does, and lies, crashes or
//! stays silent.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use framecrew_node::{
    Config, Confine, RendererChoice,
    blender::{FoundBlender, Kind, Search, Unsure},
    serve_until,
};
use framecrew_proto::v1::{
    BatchEnd, Blender, Failure, FailureReason, RenderBatchRequest, TimeLimits, batch_event::Event,
};
use image::{ImageFormat, RgbImage};
use support::{Crew, end, eventually, failures, files, finished, log, orchestrate, request};

/// What the worker says before a frame is there.
const BEGIN: &str = r#"
read token
say() { printf '\n@%s %s\n' "$token" "$1"; }
done_with() {
  say '{"image":{"file":"'$stem'.png","width":'$1',"height":30,"channels":3}}'
  say '{"done":{"name":"'$stem'","seconds":0.5,"peak_memory_bytes":7,"memory_bytes":7}}'
}
say '{"ready":{"version":"9.9.9"}}'
read request
field() { printf %s "$request" | sed 's/.*"'$1'":"\([^"]*\)".*/\1/'; }
stem=$(field stem)
output=$(field folder)/$stem
"#;

/// Makes an executable script. A process of its own writes it: one that another test starts meanwhile would
/// inherit our open file, and a file that is open for writing cannot be run.
fn program(path: &Path, script: &str) -> PathBuf {
    let made = Command::new("sh")
        .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#])
        .arg(path)
        .arg(script)
        .status();
    assert!(made.unwrap().success());
    path.to_owned()
}

/// A node whose Blender runs `script` after it has read its first request.
async fn crew(folder: &Path, script: &str) -> Crew {
    let path = program(&folder.join("impostor"), &format!("{BEGIN}\n{script}"));
    Crew::start(RendererChoice::Blender(vec![FoundBlender {
        version: "9.9.9".parse().unwrap(),
        kind: Kind::Module,
        path,
    }]))
    .await
}

/// A real picture of 40 × 30 pixels beside the script.
fn picture(folder: &Path) -> String {
    let mut png = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
    image.write_to(&mut png, ImageFormat::Png).unwrap();
    let path = folder.join("picture.png");
    fs::write(&path, png.into_inner()).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn failure_of(folder: &Path, script: &str) -> Failure {
    let crew = crew(folder, script).await;
    let file = crew.put("scene.blend", b"any");
    let events = crew.render(request(1, file, [1])).await.unwrap().all().await;
    assert_eq!(end(&events), BatchEnd::Complete);
    assert!(crew.state.lock().unwrap().uploads == 0, "nothing was stored");
    let work = crew.data.path().join("work");
    assert_eq!(files(&work), Vec::<std::path::PathBuf>::new());
    failures(&events).remove(0)
}

#[tokio::test]
async fn a_frame_that_is_really_there_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path());
    let script = format!("echo a line; cp {picture} $output.png; done_with 40; read more");
    let crew = crew(folder.path(), &script).await;
    let file = crew.put("scene.blend", b"any");
    let events = crew.render(request(1, file, [1])).await.unwrap().all().await;
    let frame = &finished(&events)[0];
    assert_eq!(frame.outputs[0].name, "0001.png");
    assert_eq!((frame.render_seconds, frame.peak_memory_bytes), (0.5, 7));
    assert_eq!(log(&events), ["a line"]);
}

#[tokio::test]
async fn a_good_end_without_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let failure = failure_of(folder.path(), "done_with 40; exit 0").await;
    assert_eq!(failure.reason(), FailureReason::InvalidOutput);
    assert!(failure.message.contains("no file"), "{failure:?}");
}

#[tokio::test]
async fn a_truncated_a_blank_and_a_wrong_sized_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path());
    for script in [
        format!("head -c 90 {picture} > $output.png; done_with 40; read more"),
        ": > $output.png; done_with 40; read more".into(),
        format!("cp {picture} $output.png; done_with 41; read more"),
    ] {
        let failure = failure_of(folder.path(), &script).await;
        assert_eq!(failure.reason(), FailureReason::InvalidOutput, "{failure:?}");
    }
}

#[tokio::test]
async fn a_crash_while_drawing_is_the_renderers_and_while_loading_permanent() {
    let folder = tempfile::tempdir().unwrap();
    let script = "say '{\"loading\":{}}'; say '{\"drawing\":{}}'; echo last words; kill -SEGV $$";
    let failure = failure_of(folder.path(), script).await;
    assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
    assert!(failure.message.contains("segmentation fault"), "{failure:?}");
    assert_eq!(failure.log_tail, ["last words"]);
    let script = "say '{\"loading\":{}}'; kill -SEGV $$";
    let failure = failure_of(folder.path(), script).await;
    assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
}

#[tokio::test]
async fn nonsense_and_an_early_end_are_the_renderers() {
    let folder = tempfile::tempdir().unwrap();
    for script in ["say nonsense; read more", "exit 0", "say '{\"ready\":{\"version\":\"1\"}}'"] {
        let failure = failure_of(folder.path(), script).await;
        assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
    }
}

#[tokio::test]
async fn a_line_that_only_looks_like_an_answer_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo '@0000 {\"done\":{}}'; exit 3";
    let failure = failure_of(folder.path(), script).await;
    assert!(failure.message.contains("code 3"), "{failure:?}");
    assert_eq!(failure.log_tail, ["@0000 {\"done\":{}}"]);
}

/// Returns the Blenders that the cluster knows at the moment.
fn announced(crew: &Crew) -> Vec<Blender> {
    let state = crew.state.lock().unwrap();
    let description = state.registered.last().unwrap().description.clone();
    description.unwrap().blenders
}

/// Waits until the first Blender is announced with this property.
async fn announces(crew: &Crew, what: &str, is: impl Fn(&Blender) -> bool) {
    eventually(what, async || announced(crew).first().is_some_and(&is)).await;
}

#[tokio::test]
async fn a_blender_that_no_longer_starts_is_taken_off_the_list_and_not_blamed_on_frames() {
    let folder = tempfile::tempdir().unwrap();
    // The process that proved that it starts draws the first frame.
    let crew = crew(folder.path(), "exit 0").await;
    assert_eq!(announced(&crew)[0].unusable, "");
    let script = "echo 'libXi.so.6: cannot open shared object file' >&2; echo bye >&2; exit 127";
    program(&folder.path().join("impostor"), script);
    let file = crew.put("scene.blend", b"any");
    let events = crew.render(request(1, file, [1, 2])).await.unwrap().all().await;
    let failure = failures(&events).remove(1);
    assert_eq!(failure.reason(), FailureReason::Infrastructure, "{failure:?}");
    assert!(failure.message.contains("9.9.9 of this node does not start"), "{failure:?}");
    assert!(failure.message.contains("libXi.so.6"), "{failure:?}");
    announces(&crew, "that it is off the list", |it| it.unusable.contains("libXi.so.6")).await;
    // Once it is repaired, it comes back without help.
    program(&folder.path().join("impostor"), BEGIN);
    announces(&crew, "that it starts again", |it| it.unusable.is_empty()).await;
}

#[tokio::test]
async fn another_suitable_blender_takes_over_for_one_that_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path());
    let found = |name: &str, version: &str, script: &str| FoundBlender {
        version: version.parse().unwrap(),
        kind: Kind::Module,
        path: program(&folder.path().join(name), script),
    };
    let begin = BEGIN.replace("9.9.9", "4.5.15");
    let draws = format!("{begin}\ncp {picture} $output.png; done_with 40; read more");
    let fails = "echo \"ModuleNotFoundError: No module named 'encodings'\" >&2
        echo '  <no Python frame>' >&2; exit 1";
    let blenders = vec![found("old", "3.4.1", fails), found("new", "4.5.15", &draws)];
    let crew = Crew::start(RendererChoice::Blender(blenders)).await;
    let known = announced(&crew);
    assert_eq!(known[1].version, "3.4.1");
    assert_eq!(known[1].unusable, "ModuleNotFoundError: No module named 'encodings'");
    assert_eq!(known[0].unusable, "");
    let file = crew.put("scene.blend", b"any");
    let request = RenderBatchRequest { file_version: "3.4".into(), ..request(1, file, [1]) };
    let events = crew.render(request).await.unwrap().all().await;
    assert_eq!(finished(&events).len(), 1, "{events:#?}");
}

#[tokio::test]
async fn a_slow_program_is_asked_again_and_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (wait, may_answer) = (folder.path().join("wait"), folder.path().join("may-answer"));
    let answers =
        format!("if [ \"$1\" = --version ]; then echo 'Blender 9.9.9'; exit 0; fi\n{BEGIN}");
    let script = format!("test -e {} || exit 1\n{answers}", may_answer.display());
    let path = program(&wait, &script);
    let (state, orchestrator, _fake) = orchestrate(Duration::from_secs(15)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nothing = RendererChoice::Blender(Vec::new());
    let config = Config {
        confine: Confine::Off,
        ..Config::new("node", orchestrator, nothing, folder.path().join("data"))
    };
    let why = format!("{} has not reported its version within 30 s", path.display());
    let unsure = vec![Unsure { path, why: why.clone(), is_silent: true }];
    let find = |_| std::future::ready(Ok(Search { found: Vec::new(), unsure }));
    let node = serve_until(listener, config, find, std::future::pending(), std::future::pending());
    let node = tokio::spawn(node);
    let first = || {
        let state = state.lock().unwrap();
        let last = state.registered.last()?.description.clone()?;
        last.blenders.first().cloned()
    };
    eventually("a node that says what it waits for", async || {
        first().is_some_and(|blender| blender.version.is_empty() && blender.unusable == why)
    })
    .await;
    assert!(!node.is_finished(), "it stays");
    fs::write(may_answer, "").unwrap();
    eventually("that it is found", async || {
        first().is_some_and(|blender| blender.version == "9.9.9" && blender.unusable.is_empty())
    })
    .await;
    node.abort();
}

#[test]
fn what_says_it_is_blender_is_found_and_what_does_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, script: &str| program(&folder.path().join(name), script);
    let given = [
        program("old", "echo 'Blender 98.1.2'; echo '  build date: today'"),
        program("new", "echo 'Color management: ok'; echo 'Blender 99.0.1 LTS'"),
        program("python3", "echo 'Blender 97.3.0'"),
        program("other", "echo 'Gimp 2.10'"),
        program("failing", "echo 'Blender 99.0.0'; exit 1"),
        folder.path().join("absent"),
    ];
    let found = framecrew_node::blender::find(&given, folder.path());
    let found: Vec<_> = found
        .iter()
        .filter(|blender| blender.path.starts_with(folder.path()))
        .map(|blender| (blender.version.to_string(), blender.kind))
        .collect();
    assert_eq!(
        found,
        [
            ("99.0.1".to_owned(), Kind::Executable),
            ("98.1.2".to_owned(), Kind::Executable),
            ("97.3.0".to_owned(), Kind::Module),
        ]
    );
}

#[tokio::test]
async fn what_the_renderer_started_dies_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > $output.pid; say '{\"drawing\":{}}'; echo ready; wait";
    let crew = crew(folder.path(), script).await;
    let file = crew.put("scene.blend", b"any");
    let mut events = crew.render(request(1, file, [1])).await.unwrap();
    events.until(|event| matches!(event, Event::Log(_))).await;
    let pid = files(&crew.data.path().join("work"))
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "pid"))
        .unwrap();
    let pid = fs::read_to_string(pid).unwrap().trim().to_owned();
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(alive());
    crew.cancel(1).await.unwrap();
    assert!(!alive());
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_not_counted_against_the_frame() {
    let folder = tempfile::tempdir().unwrap();
    let crew = crew(folder.path(), "exit 0").await;
    let mut file = crew.put("scene.blend", b"any");
    file.digest = "0".repeat(64);
    let events = crew.render(request(1, file, [1, 2])).await.unwrap().all().await;
    let failures = failures(&events);
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[0].reason(), FailureReason::Infrastructure, "{failures:?}");
}

#[tokio::test]
async fn a_renderer_beyond_its_frames_limit_is_ended_and_its_last_words_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let script = "say '{\"drawing\":{}}'; echo last words; exec sleep 3600";
    let crew = crew(folder.path(), script).await;
    let file = crew.put("scene.blend", b"any");
    let limits = TimeLimits { frame_seconds: Some(2), ..TimeLimits::default() };
    let request = RenderBatchRequest { limits: Some(limits), ..request(1, file, [1]) };
    let events = crew.render(request).await.unwrap().all().await;
    let failure = failures(&events).remove(0);
    assert_eq!(failure.reason(), FailureReason::Timeout, "{failure:?}");
    assert!(failure.message.contains("--frame-limit"), "{failure:?}");
    assert_eq!(failure.log_tail, ["last words"]);
}

#[tokio::test]
async fn a_renderer_that_says_it_has_no_memory_ran_out_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let words = "terminate called after throwing an instance of std::bad_alloc";
    let script = format!("say '{{\"drawing\":{{}}}}'; echo '{words}' >&2; kill -ABRT $$");
    let failure = failure_of(folder.path(), &script).await;
    assert_eq!(failure.reason(), FailureReason::OutOfMemory, "{failure:?}");
}

#[tokio::test]
async fn a_renderer_that_a_real_limit_stops_ran_out_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    if !Command::new("python3").arg("-V").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no python3 to run out of memory");
        return;
    }
    let eat = "exec python3 -c 'x = bytearray(4 << 30)'";
    let script = format!("say '{{\"drawing\":{{}}}}'; ulimit -v 400000; {eat}");
    let failure = failure_of(folder.path(), &script).await;
    assert_eq!(failure.reason(), FailureReason::OutOfMemory, "{failure:?}");
}

#[tokio::test]
async fn somebody_who_kills_the_renderer_is_not_the_lack_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let failure = failure_of(folder.path(), "say '{\"drawing\":{}}'; kill -KILL $$").await;
    assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
}

/// Needs a control group of its own, below that of the tests, with a limit on memory.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_renderer_that_the_kernel_kills_for_want_of_memory_ran_out_of_memory() {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let ours = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let group = Path::new("/sys/fs/cgroup").join(ours).join(format!("oom-{}", std::process::id()));
    let limited = fs::create_dir(&group)
        .and_then(|()| fs::metadata(group.join("memory.max")))
        .and_then(|_| fs::write(group.join("memory.max"), "60M"))
        .and_then(|()| fs::write(group.join("memory.swap.max"), "0"));
    if let Err(error) = limited {
        let _ = fs::remove_dir(&group);
        eprintln!("skipped: no control group can be made here: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "say '{{\"drawing\":{{}}}}'; echo $$ > {}/cgroup.procs; exec python3 -c 'x = bytearray(4 << 30)'",
        group.display()
    );
    let failure = failure_of(folder.path(), &script).await;
    let _ = fs::remove_dir(&group);
    assert_eq!(failure.reason(), FailureReason::OutOfMemory, "{failure:?}");
}
