//! Workers over shell scripts that pose as Blenders.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time;

use super::{Renewal, Worker, answers::PROGRESS_INTERVAL};
use crate::{
    blender::{FoundBlender, Kind},
    confine::Workplace,
    failure::FailureReason,
    renderer::{Drawn, RenderError, Scene, Settings, Span, drawing::Drawing},
};

/// A Blender that starts, says it is ready, and then does what the shell lines in `then` say.
pub(in crate::renderer) fn impostor(folder: &Path, then: &str) -> FoundBlender {
    let path = folder.join("impostor");
    let ready = r#"printf '\n@%s {"ready":{"version":"9.9.9"}}\n' "$token""#;
    let script = format!("#!/bin/sh\nread token\n{ready}\n{then}\n");
    // Written by another process, so that none of ours can hold it open while it is run.
    let made = std::process::Command::new("sh")
        .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
        .args([path.as_os_str(), script.as_ref()])
        .status();
    assert!(made.unwrap().success());
    FoundBlender { version: "9.9.9".parse().unwrap(), kind: Kind::Module, path }
}

pub(in crate::renderer) fn workplace(folder: &Path) -> Workplace {
    Workplace { work: folder.to_owned(), layouts: folder.to_owned(), confined: false }
}

pub(in crate::renderer) fn scene() -> Scene {
    Scene {
        blend: "a.blend".into(),
        color_config: PathBuf::new(),
        addons: Vec::new(),
        settings: Settings::default(),
        file_version: None,
        strict: false,
        silence: Duration::from_secs(20),
        span: None,
    }
}

#[tokio::test]
async fn an_answer_longer_than_a_log_line_is_read_and_its_text_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let answer = r#"{"failed":{"reason":"permanent","message":"%s"}}"#;
    let then = format!(
        "read request\nprintf '\\n@%s {answer}\\n' \"$token\" \"$(printf %03900d 7)\"\nread more"
    );
    let blender = impostor(folder.path(), &then);
    let place = workplace(folder.path());
    let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
    let drawn = worker.draw(&scene(), 1, folder.path(), |_| ()).await;
    let error = drawn.unwrap_err();
    assert_eq!(error.reason, FailureReason::Permanent, "{error:?}");
    assert_eq!(error.message, "0".repeat(2_000));
}

#[tokio::test]
async fn a_renderer_whose_frame_or_sound_cannot_be_taken_from_it_gets_no_other() {
    let done = r#"{"done":{"name":"a","seconds":1,"peak_memory_bytes":7,"memory_bytes":7}}"#;
    let sound = r#"{"soundtrack":{"fps":24,"fps_base":1,"sound":false,"delay_frames":0}}"#;
    for answer in [done, sound] {
        let folder = tempfile::tempdir().unwrap();
        let then = format!("read request\nprintf '\\n@%s %s\\n' \"$token\" '{answer}'\nread more");
        let blender = impostor(folder.path(), &then);
        let place = workplace(folder.path());
        let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
        let absent = folder.path().join("absent");
        let error = if answer == done {
            worker.draw(&scene(), 1, &absent, |_| ()).await.unwrap_err()
        } else {
            worker.soundtrack(&scene(), None, &absent, |_| ()).await.unwrap_err()
        };
        assert_eq!(error.reason, FailureReason::Infrastructure, "{error:?}");
        assert_eq!(worker.renewal(u64::MAX), Renewal::Due);
    }
}

/// A line of shell that gives an answer.
fn answer(answer: &str) -> String {
    format!("printf '\\n@%s %s\\n' \"$token\" '{answer}'\n")
}

/// Lets a fake Blender execute `then` when it is asked for a frame. Its folder stays until the last is dropped.
async fn drawn_by(
    then: &str,
    scene: &Scene,
    frame: i32,
) -> (Result<Drawing, RenderError>, Worker, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let started = answer(r#"{"drawing":{"scene":"Scene"}}"#);
    let blender = impostor(folder.path(), &format!("read request\n{started}{then}"));
    let place = workplace(folder.path());
    let mut worker = Worker::start(blender, &place, scene, &mut |_| ()).await.unwrap();
    let drawn = folder.path().join("drawn");
    fs::create_dir(&drawn).unwrap();
    (worker.draw(scene, frame, &drawn, |_| ()).await, worker, folder)
}

/// Lets a fake Blender announce one image, execute `then`, and die of a segmentation fault.
async fn dies_after(then: &str, strict: bool) -> (Result<Drawing, RenderError>, TempDir) {
    let script = [
        answer(r#"{"named":{"name":"shot_0001"}}"#),
        answer(r#"{"image":{"file":"0001.png","width":1,"height":1,"channels":1}}"#),
        format!("{then}\nkill -SEGV $$"),
    ];
    let (drawn, _, folder) = drawn_by(&script.concat(), &Scene { strict, ..scene() }, 1).await;
    (drawn, folder)
}

#[tokio::test]
async fn files_of_a_renderer_that_died_are_kept_with_its_error() {
    let (drawing, folder) = dies_after("echo whole > frame/0001.png", false).await;
    let drawing = drawing.unwrap();
    assert!(drawing.crash.unwrap().message.contains("segmentation fault"));
    let Drawn::InFolder(promise) = drawing.drawn else { panic!() };
    assert_eq!((promise.name.as_str(), promise.images.len()), ("shot_0001", 1));
    assert_eq!(fs::read_to_string(folder.path().join("drawn/0001.png")).unwrap(), "whole\n");
    let (strict, _folder) = dies_after("echo whole > frame/0001.png", true).await;
    assert_eq!(strict.unwrap_err().reason, FailureReason::Renderer, "its job asks for no warning");
}

/// A strict scene that is drawn as an animation of the frames 1 to 9.
fn animated() -> Scene {
    Scene { strict: true, span: Span::parse(1, 9, 1).unwrap(), ..scene() }
}

/// Lets a fake Blender draw frame 3 of an animation: it draws frame 1 again, complains of a font, and gives the
/// answers `then`.
async fn draws_again(then: &str) -> (Result<Drawing, RenderError>, Worker) {
    let script = [
        answer(r#"{"named":{"name":"shot_0003"}}"#),
        answer(r#"{"passed":{"frame":1}}"#),
        "echo \"Can't load font: gone.ttf\"\n".to_owned(),
        then.lines().map(answer).collect(),
        "read more".to_owned(),
    ];
    let (drawing, worker, _) = drawn_by(&script.concat(), &animated(), 3).await;
    (drawing, worker)
}

#[tokio::test]
async fn a_frame_is_not_blamed_for_the_warnings_of_those_drawn_again() {
    let done = r#"{"done":{"name":"a","seconds":1,"peak_memory_bytes":7,"memory_bytes":7}}"#;
    let then = format!("{{\"passed\":{{\"frame\":2}}}}\n{done}");
    let (drawing, worker) = draws_again(&then).await;
    assert!(drawing.is_ok(), "{drawing:?}");
    assert_eq!(worker.died_at(), None);
    assert_eq!(worker.warnings, []);
    let (drawing, ..) = draws_again(done).await;
    let error = drawing.unwrap_err();
    assert!(error.message.contains("Can't load font"), "its own: {error:?}");
}

#[tokio::test]
async fn a_renderer_that_dies_names_the_frame_that_it_drew_again() {
    let then = answer(r#"{"passed":{"frame":1}}"#) + "kill -SEGV $$";
    let (drawing, worker, _folder) = drawn_by(&then, &animated(), 3).await;
    assert!(drawing.is_err());
    assert_eq!(worker.died_at(), Some(2));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_scripts_have_started_ends_with_their_blender_also_in_a_session_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let home = fs::canonicalize(folder.path()).unwrap();
    let escape =
        "setsid sh -c 'echo $$ > new; mv new ../escaped; exec sleep 1000' >/dev/null 2>&1 &
        until test -e ../escaped; do sleep 0.01; done";
    let blender = impostor(&home, &format!("{escape}\nread request\nexit 3"));
    let mut scene = scene();
    scene.settings.run_scripts = true;
    let mut worker = Worker::start(blender, &workplace(&home), &scene, &mut |_| ()).await.unwrap();
    worker.draw(&scene, 1, &home, |_| ()).await.unwrap_err();
    let escaped = fs::read_to_string(home.join("escaped")).unwrap();
    let place = fs::read_link(format!("/proc/{}/cwd", escaped.trim()));
    assert!(place.is_err(), "{place:?}");
}

#[tokio::test]
async fn a_renderer_that_died_is_noticed_though_what_it_started_holds_its_pipes() {
    for started in ["sleep 1000 &", "while :; do echo noise >&2; sleep 0.01; done &"] {
        let folder = tempfile::tempdir().unwrap();
        let blender = impostor(folder.path(), &format!("read request\n{started}\nkill -SEGV $$"));
        let place = workplace(folder.path());
        let mut worker = Worker::start(blender, &place, &scene(), &mut |_| ()).await.unwrap();
        let drawn = worker.draw(&scene(), 1, folder.path(), |_| ()).await;
        let error = drawn.unwrap_err();
        assert_eq!(error.reason, FailureReason::Renderer, "{error:?}");
        assert!(error.message.contains("segmentation fault"), "{error:?}");
    }
}

#[tokio::test]
async fn a_renderer_that_goes_silent_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let blender = impostor(folder.path(), "read request\nexec sleep 1000");
    let scene = scene();
    let place = workplace(folder.path());
    let mut worker = Worker::start(blender, &place, &scene, &mut |_| ()).await.unwrap();
    // From here on, time passes as fast as nothing happens.
    time::pause();
    let mut told: u32 = 0;
    let drawn = worker.draw(&scene, 1, folder.path(), |_| told += 1).await;
    let error = drawn.unwrap_err();
    assert_eq!(error.reason, FailureReason::Timeout);
    assert!(error.message.contains("20 seconds") && error.message.contains("--frame-silence"));
    assert_eq!(PROGRESS_INTERVAL * told, scene.silence, "progress all the while");
    assert_eq!(worker.renewal(u64::MAX), Renewal::Due);
}
