//! The whole length in one process: a .blend goes in, frames come out, through three nodes that draw small
//! pictures instead of waiting for Blender.

#![cfg(feature = "local")]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use assert_cmd::Command;
use framecrew::{
    JobSpec, JobView, LocalCluster, LocalConfig, OutputFolder, WatchEvent,
    proto::{FrameState, JobState, NodeState, WatchJobResponse},
};
use framecrew_node::{
    RendererChoice,
    blender::{FoundBlender, Kind},
};
use futures::{Stream, StreamExt as _};
use support::{blenders, skip};
use tokio::time::timeout;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.blend");

/// Far longer than anything here takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(120);

async fn cluster(data: &Path, nodes: usize, per_frame: Duration) -> LocalCluster {
    let config = LocalConfig::new(nodes, data, RendererChoice::Synthetic(per_frame));
    timeout(PATIENCE, LocalCluster::start(config)).await.unwrap().unwrap()
}

/// Folds a watch until the job is over.
async fn watched(
    mut watch: impl Stream<Item = Result<WatchEvent, framecrew::Error>> + Unpin,
) -> JobView {
    let mut view = JobView::default();
    let folding = async {
        while let Some(event) = watch.next().await {
            if let WatchEvent::Update(update) = event.unwrap() {
                view.apply(&update);
            }
        }
    };
    timeout(PATIENCE, folding).await.unwrap();
    view
}

async fn framecrew(args: &[&str], folder: &Path) -> (i32, String, String) {
    let mut command = Command::cargo_bin("framecrew").unwrap();
    command.args(args).current_dir(folder).env_remove("FRAMECREW_CLUSTER").timeout(PATIENCE);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_frames_come_through_three_nodes() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 3, Duration::from_millis(50)).await;
    let cluster = local.cluster();

    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=60)).await.unwrap();
    let view = watched(job.watch()).await;
    assert_eq!(view.state(), JobState::Finished);
    assert!(view.ended());
    assert_eq!(view.counts().finished, 60);
    assert_eq!(view.runs().collect::<Vec<_>>(), [(1, 60, FrameState::Finished)]);

    let mut by_node = BTreeMap::<String, u32>::new();
    let mut pages = std::pin::pin!(cluster.frames(job.id()));
    let mut frames = Vec::new();
    while let Some(page) = pages.next().await {
        for frame in page.unwrap() {
            assert_eq!(frame.failed_attempts, 0);
            *by_node.entry(frame.node).or_default() += 1;
            frames.push(frame.frame);
        }
    }
    assert_eq!(frames, (1..=60).collect::<Vec<_>>());
    assert_eq!(by_node.keys().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"], "{by_node:?}");

    let out = base.path().join("frames");
    let fetched = job.fetch(&out).await.unwrap();
    assert_eq!((fetched.fetched, fetched.kept, fetched.replaced), (60, 0, 0));
    let mut files: Vec<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 60, "nothing but frames is left in the folder: {files:?}");
    for file in &files {
        assert!(image::open(file).unwrap().width() > 0);
    }

    // A second fetch keeps the changed file and names it, until it is allowed to replace it.
    fs::write(&files[7], b"painted over").unwrap();
    let refused = job.fetch(&out).await.unwrap_err();
    assert!(
        matches!(&refused, framecrew::Error::Incomplete { missing, .. }
        if missing.len() == 1 && missing[0].in_the_way),
        "{refused}"
    );
    assert_eq!(fs::read(&files[7]).unwrap(), b"painted over");
    let folder = OutputFolder::open(&out).unwrap().overwriting(true);
    let fetched = framecrew::fetch::fetch(cluster, job.id(), &folder, None, |_| {}).await.unwrap();
    assert_eq!((fetched.fetched, fetched.kept, fetched.replaced), (1, 59, 1));
    assert!(image::open(&files[7]).is_ok());

    // Who joins when all is over sees the same as who was there.
    let afresh = watched(cluster.watch(job.id())).await;
    let without_spec = |view: &JobView| framecrew::proto::Job { spec: None, ..view.job().clone() };
    assert_eq!(without_spec(&afresh), without_spec(&view));
    assert!(afresh.runs().eq(view.runs()));
    local.shutdown().await;
}

/// Where a finished frame's output is stored.
async fn stored_output(cluster: &framecrew::Cluster, data: &Path, number: i32) -> PathBuf {
    let mut pages = std::pin::pin!(cluster.frames(1));
    let frames = pages.next().await.unwrap().unwrap();
    let frame = frames.into_iter().find(|frame| frame.frame == number).unwrap();
    let digest = frame.outputs[0].digest.clone();
    let mut folders = vec![data.join("orchestrator")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with(&digest[2..]) {
                return path;
            }
        }
    }
    panic!("blob {digest} is not stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_vanished_outputs_cost_only_their_own_frames() {
    let base = tempfile::tempdir().unwrap();
    let data = base.path().join("data");
    let local = cluster(&data, 2, Duration::from_millis(5)).await;
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=12)).await.unwrap();
    watched(job.watch()).await;

    let blob = stored_output(local.cluster(), &data, 3).await;
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    fs::remove_file(stored_output(local.cluster(), &data, 7).await).unwrap();

    let args = ["fetch", "1", "-o", "out", "--cluster", local.url()];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    for words in [
        "frame 3 (0003.png): ",
        "frame 7 (0007.png): ",
        "; the other 10 are in out",
        "framecrew render FILE -f 3,7",
    ] {
        assert!(stderr.contains(words), "{words:?} is not in: {stderr}");
    }
    assert_eq!(fs::read_dir(base.path().join("out")).unwrap().count(), 10);
    local.shutdown().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_costs_no_frame() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 2, Duration::from_millis(20)).await;
    let mut render = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
        .args(["render", DEMO, "-f", "1-60", "-o", "out", "--cluster", local.url()])
        .current_dir(base.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(render.stdout.take().unwrap()).lines();
    timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
    drop(said);
    let status = timeout(PATIENCE, render.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(fs::read_dir(base.path().join("out")).unwrap().count(), 60);
    local.shutdown().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_a_render_is_told_how_to_get_the_rest_and_sigterm_never_cancels() {
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::from_secs(30)).await;
    for (first, second) in [(Signal::INT, Some(Signal::TERM)), (Signal::TERM, None)] {
        let mut render = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
            .args(["render", DEMO, "-f", "1-9", "-o", "my out", "--cluster", local.url()])
            .current_dir(base.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(render.id().unwrap().try_into().unwrap()).unwrap();
        let mut said = BufReader::new(render.stdout.take().unwrap()).lines();
        timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        kill_process(pid, first).unwrap();
        let mut noted = BufReader::new(render.stderr.take().unwrap()).lines();
        let left = timeout(PATIENCE, async {
            loop {
                let line = noted.next_line().await.unwrap().unwrap();
                if line.contains("renders on") {
                    return line;
                }
            }
        });
        let left = left.await.unwrap();
        let id = local.cluster().jobs(1).await.unwrap()[0].job_id;
        let fetch = format!("get the rest with `framecrew fetch {id} -o 'my out' --cluster");
        assert!(left.contains(&fetch), "{left}");
        if let Some(signal) = second {
            kill_process(pid, signal).unwrap();
        }
        let status = timeout(PATIENCE, render.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(130));
        let job = local.cluster().job(id).await.unwrap();
        assert_ne!(job.info().state(), JobState::Cancelled);
    }
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_overwritten_last_is_reported_too() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::from_millis(10)).await;
    let out = base.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("0001.png"), "the person's own").unwrap();
    let args = ["render", DEMO, "-f", "1", "-o", "out", "--cluster", local.url(), "--overwrite"];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("note: overwrote 1 existing file"), "{stderr}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_renders_and_leaves_nothing_but_frames() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 2, Duration::from_millis(10)).await;
    let args = ["render", DEMO, "-f", "1-10,20", "-o", "out", "--cluster", local.url()];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    for number in (1..=10).chain([20]) {
        // Not at all, if it was there before the command watched.
        let finished = format!("frame {number} finished");
        assert!(stdout.matches(&format!("{finished} ")).count() <= 1, "{finished}: {stdout}");
    }
    assert!(stdout.contains("11 frames"), "{stdout}");
    assert_eq!(fs::read_dir(base.path().join("out")).unwrap().count(), 11);

    let (code, stdout, _) = framecrew(&["jobs", "--cluster", local.url()], base.path()).await;
    assert_eq!(code, 0);
    assert!(
        stdout.contains("demo") && stdout.contains("finished") && stdout.contains("11/11"),
        "{stdout}"
    );
    let (code, stdout, _) = framecrew(&["job", "1", "--cluster", local.url()], base.path()).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("1-10,20"), "{stdout}");
    let (code, stdout, _) = framecrew(&["nodes", "--cluster", local.url()], base.path()).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("node-1") && stdout.contains("node-2"), "{stdout}");
    let (code, stdout, _) =
        framecrew(&["fetch", "1", "-f", "3-4", "-o", "two", "--cluster", local.url()], base.path())
            .await;
    assert_eq!(code, 0);
    assert!(stdout.starts_with("2 files brought"), "{stdout}");
    let args = ["fetch", "1", "-f", "3,15-19", "-o", "none", "--cluster", local.url()];
    let (code, _, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("no frame 15-19") && stderr.contains("1-10,20"), "{stderr}");
    assert!(!base.path().join("none").exists(), "nothing is made");
    local.shutdown().await;
}

/// Whether there is an ffmpeg to make movies, and an ffprobe to look into them.
fn has_ffmpeg() -> bool {
    let answers = |program: &str| {
        let output = std::process::Command::new(program).arg("-version").output();
        output.is_ok_and(|output| output.status.success())
    };
    let is_there = answers("ffmpeg") && answers("ffprobe");
    if !is_there {
        skip("ffmpeg", "FRAMECREW_REQUIRE_FFMPEG");
    }
    is_there
}

/// What ffprobe finds in a movie when it decodes all of it: of its one stream.
fn probe(movie: &Path) -> serde_json::Value {
    let output = std::process::Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_streams", "-of", "json"])
        .arg(movie)
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["streams"].as_array().unwrap().len(), 1, "{found}");
    found["streams"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movie_of_a_hundred_and_twenty_frames_comes_out_of_one_command() {
    if !has_ffmpeg() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let args = ["render", DEMO, "-f", "1-120", "-o", "frames", "--movie", "out.mp4"];
    let local = ["--local=2", "--renderer", "synthetic:1ms"];
    let (code, stdout, stderr) = framecrew(&[&args[..], &local].concat(), base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("finished: the movie of job 1"), "{stdout}");
    assert!(stdout.contains("the movie is out.mp4"), "{stdout}");
    assert_eq!(fs::read_dir(base.path().join("frames")).unwrap().count(), 120);
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2, "nothing is left beside the movie");
    let frame = image::open(base.path().join("frames/0001.png")).unwrap();
    let stream = probe(&base.path().join("out.mp4"));
    assert_eq!(stream["codec_name"], "h264");
    assert_eq!(stream["nb_read_frames"], "120");
    assert_eq!(stream["width"].as_u64(), Some(frame.width().into()));
    assert_eq!(stream["height"].as_u64(), Some(frame.height().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movie_of_a_job_that_nobody_follows_is_fetched_later() {
    if !has_ffmpeg() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::from_millis(5)).await;
    let url = local.url();
    let args = ["render", DEMO, "-f", "1-9", "--movie", "my movie.webm", "--detach"];
    let (code, stdout, stderr) =
        framecrew(&[&args[..], &["--cluster", url]].concat(), base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("framecrew fetch 1 --movie 'my movie.webm' --cluster"), "{stdout}");
    let view = watched(local.cluster().watch(1)).await;
    let making = view.job().movie_job_id;
    let view = watched(local.cluster().watch(making)).await;
    assert_eq!(view.state(), JobState::Finished, "{:?}", view.troubled().collect::<Vec<_>>());
    let args = ["fetch", "1", "--movie", "my movie.webm", "--cluster", url];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let stream = probe(&base.path().join("my movie.webm"));
    assert_eq!((&stream["codec_name"], &stream["nb_read_frames"]), (&"vp9".into(), &"9".into()));
    local.shutdown().await;
}

/// Makes a scene that lacks a texture, and whose compositor writes a mask of each frame too.
fn make_scene(found: &FoundBlender, to: &Path) {
    let script = to.with_extension("py");
    let text = format!(
        "import bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.engine = 'CYCLES'
scene.cycles.samples, scene.cycles.use_denoising = 1, False
scene.render.resolution_x, scene.render.resolution_y = 64, 36
camera = bpy.data.objects.new('Camera', bpy.data.cameras.new('Camera'))
camera.location.z = 5
scene.collection.objects.link(camera)
scene.camera = camera
mesh = bpy.data.meshes.new('Plane')
mesh.from_pydata([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [], [(0, 1, 2, 3)])
plane = bpy.data.objects.new('Plane', mesh)
scene.collection.objects.link(plane)
material = bpy.data.materials.new('Wood')
material.use_nodes = True
mesh.materials.append(material)
image = bpy.data.images.new('wood', 8, 8)
image.source, image.filepath = 'FILE', '//gone.png'
nodes = material.node_tree.nodes
texture = nodes.new('ShaderNodeTexImage')
texture.image = image
shader = next(node for node in nodes if node.type == 'BSDF_PRINCIPLED')
material.node_tree.links.new(texture.outputs['Color'], shader.inputs['Base Color'])
scene.use_nodes = True
nodes = scene.node_tree.nodes
layers = next(node for node in nodes if node.type == 'R_LAYERS')
masks = nodes.new('CompositorNodeOutputFile')
masks.base_path, masks.file_slots[0].path = '//masks', 'near_####'
scene.node_tree.links.new(layers.outputs['Alpha'], masks.inputs[0])
bpy.ops.wm.save_as_mainfile(filepath={to:?})
"
    );
    fs::write(&script, text).unwrap();
    let mut command = std::process::Command::new(&found.path);
    if found.kind == Kind::Executable {
        command.args(["--background", "--factory-startup", "--python-exit-code", "1", "--python"]);
    }
    let output = command.arg(&script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(script).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_blender_brings_masks_in_their_folder_a_warning_told_once_and_small_pictures() {
    // Since Blender 5.0 a scene stores its compositor in a different way.
    let Some(found) = blenders().into_iter().find(|found| found.version.major < 5) else { return };
    let base = tempfile::tempdir().unwrap();
    make_scene(&found, &base.path().join("shot.blend"));
    let renderer = RendererChoice::Blender(vec![found]);
    let config = LocalConfig::new(1, base.path().join("data"), renderer);
    let local = timeout(PATIENCE, LocalCluster::start(config)).await.unwrap().unwrap();
    let url = local.url();
    let args = ["render", "shot.blend", "-f", "1-2", "-o", "out", "--cluster", url];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(stdout.matches("warning: ").count(), 1, "{stdout}");
    assert!(stdout.contains("gone.png") && stdout.contains(" · 1 warning"), "{stdout}");
    for number in 1..=2 {
        for name in [format!("out/000{number}.png"), format!("out/masks/near_000{number}.png")] {
            assert_eq!(image::open(base.path().join(&name)).unwrap().width(), 64, "{name}");
        }
    }
    let frames = std::pin::pin!(local.cluster().frames(1)).next().await.unwrap().unwrap();
    assert!(frames.iter().all(|frame| frame.preview.is_some()), "{frames:?}");
    let args = ["job", "1", "--contact-sheet", "sheet.png", "--cluster", url];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(!stderr.contains("grey"), "{stderr}");
    let sheet = image::open(base.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (498, 147));

    let args = ["render", "shot.blend", "-f", "1", "-o", "strict", "--strict", "--cluster", url];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_ne!(code, 0, "{stdout}");
    assert!(stderr.contains("gone.png") && stderr.contains("--strict"), "{stdout}{stderr}");
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_json_tells_a_newcomer_the_same_as_the_library() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 2, Duration::from_millis(10)).await;
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=12)).await.unwrap();
    let id = job.id().to_string();
    let (code, stdout, stderr) =
        framecrew(&["watch", &id, "--json", "--cluster", local.url()], base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    let mut view = JobView::default();
    for line in stdout.lines() {
        view.apply(&serde_json::from_str::<WatchJobResponse>(line).unwrap());
    }
    assert_eq!(view, watched(job.watch()).await);
    assert_eq!(view.counts().finished, 12);
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_with_five() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::from_secs(30)).await;
    let args = ["render", DEMO, "-f", "1-100", "--detach", "--json", "--cluster", local.url()];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    let job: framecrew::proto::Job = serde_json::from_str(&stdout).unwrap();
    assert_eq!(job.counts.unwrap().open, 100);

    let id = job.job_id.to_string();
    let url = local.url().to_owned();
    let folder = base.path().to_owned();
    let watching = {
        let (id, url) = (id.clone(), url.clone());
        tokio::spawn(async move { framecrew(&["watch", &id, "--cluster", &url], &folder).await })
    };
    let (code, stdout, stderr) = framecrew(&["cancel", &id, "--cluster", &url], base.path()).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("cancelled"), "{stdout}");
    let (code, stdout, stderr) = watching.await.unwrap();
    assert_eq!(code, 5, "{stdout}{stderr}");
    assert!(stdout.contains("cancelled"), "{stdout}");
    let (code, stdout, _) = framecrew(&["cancel", &id, "--cluster", &url], base.path()).await;
    assert_eq!(code, 0, "cancelling twice is no error: {stdout}");
    let args = ["render", DEMO, "--detach", "-o", "my frames", "--cluster", &url];
    let (code, stdout, _) = framecrew(&args, base.path()).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("framecrew fetch 2 -o 'my frames'"), "{stdout}");
    let (_, _, stderr) = framecrew(&["fetch", &id, "--cluster", &url], base.path()).await;
    assert!(stderr.contains("100 cancelled will not come"), "{stderr}");
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_leaves_no_folder() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::ZERO).await;
    let name = "n".repeat(10_000);
    let args = ["render", DEMO, "--name", &name, "-o", "a/out", "--cluster", local.url()];
    let (code, stdout, stderr) = framecrew(&args, base.path()).await;
    assert_eq!(code, 2, "{stdout}{stderr}");
    assert!(stderr.contains("name"), "{stderr}");
    assert!(!base.path().join("a").exists(), "nothing is made");
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_exist_is_refused_in_words() {
    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::ZERO).await;
    for command in ["watch", "job", "cancel", "fetch", "logs"] {
        let (code, stdout, stderr) =
            framecrew(&[command, "99", "--cluster", local.url()], base.path()).await;
        assert_eq!(code, 2, "{command}: {stdout}{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("99"), "{command}: {stderr}");
        assert!(!stderr.contains("Status"), "{stderr}");
    }
    local.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_a_restart_of_its_cluster() {
    let base = tempfile::tempdir().unwrap();
    let data = base.path().join("data");
    let local = cluster(&data, 1, Duration::from_secs(30)).await;
    let job = local.cluster().submit(JobSpec::animation(DEMO).frames(1..=3)).await.unwrap();
    local.shutdown().await;

    let local = cluster(&data, 2, Duration::from_millis(10)).await;
    let view = watched(local.cluster().watch(job.id())).await;
    assert_eq!(view.state(), JobState::Finished);
    assert_eq!(view.counts().finished, 3);
    let live = local.cluster().nodes().await.unwrap();
    let live = live.iter().filter(|node| node.state() != NodeState::Left).count();
    assert_eq!(live, 2);
    local.shutdown().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_the_job_running_and_a_second_one_cancels_it() {
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let base = tempfile::tempdir().unwrap();
    let local = cluster(&base.path().join("data"), 1, Duration::from_secs(30)).await;
    for (presses, code, state) in [(1, 130, JobState::Rendering), (2, 5, JobState::Cancelled)] {
        let mut render = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
            .args(["render", DEMO, "-f", "1-9", "-o", "out", "--cluster", local.url()])
            .current_dir(base.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(render.id().unwrap().try_into().unwrap()).unwrap();
        // Its first line says that it is watching, and so listens for Ctrl-C.
        let mut said = BufReader::new(render.stdout.take().unwrap()).lines();
        timeout(PATIENCE, said.next_line()).await.unwrap().unwrap();
        let job = local.cluster().jobs(1).await.unwrap()[0].job_id;
        let mut noted = BufReader::new(render.stderr.take().unwrap()).lines();
        for press in 0..presses {
            kill_process(pid, Signal::INT).unwrap();
            let line = timeout(PATIENCE, noted.next_line()).await.unwrap().unwrap().unwrap();
            if press == 0 {
                assert!(line.contains(&format!("framecrew watch {job}")), "{line}");
            }
        }
        let status = timeout(PATIENCE, render.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(code));
        let now = local.cluster().job(job).await.unwrap();
        let is = now.info().state();
        assert!(is == state || (presses == 1 && is == JobState::Queued), "{is:?}");
        now.cancel().await.unwrap();
    }
    local.shutdown().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_killed_goes_on_when_it_is_started_again() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let base = tempfile::tempdir().unwrap();
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let up = async |per_frame: &str| {
        let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"))
            .args(["up", "--nodes", "2", "--listen", &free, "--renderer", per_frame])
            .args(["--data", base.path().join("data").to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        timeout(PATIENCE, said.next_line()).await.unwrap().unwrap().expect("it comes up");
        // It goes on talking: the pipe must stay.
        (process, said)
    };
    let (mut first, _first_says) = up("synthetic:60s").await;
    let cluster = framecrew::Cluster::connect(format!("http://{free}")).await.unwrap();
    let job = cluster.submit(JobSpec::animation(DEMO).frames(1..=20)).await.unwrap();
    let mut watch = job.watch();
    let mut view = JobView::default();
    // Killed with every slot at work.
    while view.active().count() < 2 {
        if let WatchEvent::Update(update) =
            timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap()
        {
            view.apply(&update);
        }
    }
    first.kill().await.unwrap();

    let (mut second, _second_says) = up("synthetic:10ms").await;
    let rest = watched(watch).await;
    assert_eq!(rest.state(), JobState::Finished);
    let afresh = watched(cluster.watch(job.id())).await;
    assert_eq!(afresh.runs().collect::<Vec<_>>(), [(1, 20, FrameState::Finished)]);
    assert_eq!(rest.job().counts, afresh.job().counts);
    second.kill().await.unwrap();
}
