//! Whatever a .blend says and its Python does, nothing is written outside the attempt's folder, and little is read.
//! Each test runs with every Blender that this machine has.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, io::Write as _, path::Path, time::Duration};

use framecrew_node::{Config, Confine, RendererChoice, blender::FoundBlender};
use framecrew_proto::v1::{RenderBatchRequest, RenderEngine, RenderSettings};
use support::{Crew, blender, files, finished, log, request};

/// Starts a node that is confined and runs scripts; none where the system has no walls, which is said aloud.
async fn crew(blender: &FoundBlender) -> Option<Crew> {
    let renderer = RendererChoice::Blender(vec![blender.clone()]);
    let crew = Crew::start_as(Duration::from_secs(15), |config| Config {
        confine: Confine::Require,
        allow_scripts: true,
        renderer,
        ..config
    });
    match crew.await {
        Ok(crew) => Some(crew),
        Err(why) => {
            std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
            None
        }
    }
}

/// Python that tries to do `what` with each path of `targets`, and prints how that ended.
const ATTEMPTS: &str = r#"
import bpy, os, socket, subprocess, time

done, refused = [], []

def attempt(name, do):
    try:
        do()
        done.append(name)
    except Exception as error:
        refused.append(type(error).__name__)

def write(path):
    with open(path, "a") as file:
        file.write("evil")

def link_and_write(path):
    if os.path.islink("evil-link"):
        os.remove("evil-link")
    os.symlink(path, "evil-link")
    write("evil-link")

def read(path):
    with open(path) as file:
        print("SECRET", file.read(), flush=True)

"#;

/// What a shell would see, as text that differs when anything below changes.
fn state(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>, u32)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut all: Vec<_> = files(folder)
        .into_iter()
        .map(|path| {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            (path.clone(), fs::read(&path).unwrap(), mode)
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_script_changes_nothing_outside_its_folder_and_reads_no_secret() {
    for blender in blender::found() {
        let Some(crew) = crew(&blender).await else { return };
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "xyzzy").unwrap();
        let data = fs::canonicalize(crew.data.path()).unwrap();
        let home = std::env::home_dir().unwrap();
        let outside_path = outside.path();
        let marker = format!("framecrew-evil-{}", std::process::id());
        let script = format!(
            r#"{ATTEMPTS}
data, outside, secret = {data:?}, {outside_path:?}, {secret:?}
here = os.path.dirname(bpy.data.filepath)
blob = next(os.path.join(root, name) for root, _, names in os.walk(here) for name in names)
for place in (outside, {home:?}, "/tmp", "/var/tmp", "/dev/shm", data, data + "/layouts", data + "/blobs", data + "/work", here):
    path = os.path.join(place, {marker:?})
    attempt("write " + path, lambda: write(path))
    attempt("link " + path, lambda: link_and_write(path))
    attempt("folder " + path, lambda: os.mkdir(path + "-folder"))
    attempt("shell " + path, lambda: subprocess.run(["touch", path], check=True, stderr=subprocess.DEVNULL))
    attempt("move " + path, lambda: (write("mine"), os.rename("mine", path)))
    attempt("output " + path, lambda: bpy.data.images.new("a", 4, 4).save_render(path))
for path in (blob, secret):
    attempt("append " + path, lambda: write(path))
    attempt("truncate " + path, lambda: os.truncate(path, 0))
    attempt("remove " + path, lambda: os.remove(path))
    attempt("rename " + path, lambda: os.rename(path, path + "-gone"))
    attempt("mode " + path, lambda: os.chmod(path, 0o777))
    attempt("hard link " + path, lambda: (os.link(path, "hard"), write("hard")))
attempt("read " + secret, lambda: read(secret))
attempt("list " + outside, lambda: os.listdir(outside))
attempt("list " + data + "/blobs", lambda: os.listdir(data + "/blobs"))
attempt("environment of the node", lambda: read("/proc/%d/environ" % os.getppid()))
attempt("kill the node", lambda: os.kill(os.getppid(), 0))
attempt("network", lambda: socket.create_connection(("127.0.0.1", 1)))
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("service", lambda: socket.socket(socket.AF_UNIX).connect("/run/docker.sock"))
assert "CARGO_MANIFEST_DIR" not in os.environ
attempt("write at home", lambda: write("mine"))
time.sleep(1.5)  # A log takes so many lines a second, and Blender has its say about each attempt.
for name in done:
    print("DONE", name, flush=True)
print("REFUSED", len(refused), flush=True)
"#
        );
        let register = format!(
            "
text = bpy.data.texts.new('evil.py')
text.write({script:?})
text.use_module = True
"
        );
        let file = crew.put("a/scene.blend", &blender::scene(&blender, &register));
        let request = request(1, file, [1]);
        // Laid out before we look: what the node writes itself is no news.
        let events = crew.render(request.clone()).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1, "{events:#?}");
        let kept = [data.join("layouts"), data.join("blobs"), outside.path().to_owned()];
        let before = kept.clone().map(|folder| state(&folder));

        let settings = RenderSettings { run_scripts: true, ..RenderSettings::default() };
        let request =
            RenderBatchRequest { batch_id: 2, settings: Some(settings), ..request.clone() };
        let events = crew.render(request).await.unwrap().all().await;
        let said = log(&events);
        let done: Vec<_> = said.iter().filter(|line| line.starts_with("DONE")).collect();
        assert_eq!(done, ["DONE write at home"], "{said:#?}");
        assert!(said.contains(&"REFUSED 80".to_owned()), "{said:#?}");
        assert!(!said.iter().any(|line| line.contains("xyzzy")), "{said:#?}");
        assert_eq!(finished(&events).len(), 1, "the frame itself is drawn: {events:#?}");
        assert_eq!(kept.map(|folder| state(&folder)), before);
        for place in [home.as_path(), Path::new("/tmp"), Path::new("/var/tmp")] {
            let names = fs::read_dir(place).into_iter().flatten().flatten();
            let evil = names.filter(|e| e.file_name().to_string_lossy().starts_with(&marker));
            assert_eq!(evil.count(), 0, "in {}", place.display());
        }
        // What ran is not there for the next job.
        assert_eq!(files(&data.join("work")), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_engine_draws_within_the_walls() {
    for blender in blender::found() {
        let Some(crew) = crew(&blender).await else { return };
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let engines = [RenderEngine::Cycles, RenderEngine::Workbench, RenderEngine::Eevee];
        for (engine, id) in engines.into_iter().zip(1..) {
            let settings = RenderSettings {
                engine: engine.into(),
                samples: Some(1),
                ..RenderSettings::default()
            };
            let request = RenderBatchRequest {
                settings: Some(settings),
                ..request(id, file.clone(), [1, 2])
            };
            let events = crew.render(request).await.unwrap().all().await;
            let frames = finished(&events);
            assert_eq!(frames.len(), 2, "{engine:?}: {events:#?}");
            assert!(frames.iter().all(|frame| frame.peak_memory_bytes > 1 << 20), "{frames:?}");
        }
        let shaders = files(&crew.data.path().join("shaders"));
        assert!(!shaders.is_empty(), "the next Blender need not compile them again");
    }
}
