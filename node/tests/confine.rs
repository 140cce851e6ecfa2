//! Whatever a .blend says and its Python does, nothing is written outside the attempt's folder, and little is read.
//! Each test runs with every Blender that this machine has.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, io::Write as _, path::Path, time::Duration};

use framecrew_node::{Config, Confine, RendererChoice, blender::FoundBlender};
use framecrew_proto::v1::{BatchEvent, Project, RenderBatchRequest, RenderEngine, RenderSettings};
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

/// Python that creates a small Cycles scene with one object for a project in `folder`, and then runs `more`.
fn small_scene(folder: &Path, more: &str) -> String {
    format!(
        r#"
folder = {folder:?}
scene = bpy.context.scene
scene.render.engine = 'CYCLES'
scene.cycles.samples = 1
scene.cycles.use_denoising = False
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 48, 32, 100
scene.frame_end = 6
material = bpy.data.materials.new('M')
material.use_nodes = True
nodes = material.node_tree.nodes
emission = nodes.new('ShaderNodeEmission')
emission.inputs[0].default_value = (0.5, 0.2, 0.1, 1)
material.node_tree.links.new(emission.outputs[0], nodes['Material Output'].inputs[0])
cube = bpy.data.objects['Cube']
cube.data.materials.clear()
cube.data.materials.append(material)

def save():
    bpy.ops.wm.save_as_mainfile(filepath=folder + '/shot.blend')

def draw(frame, to):
    scene.frame_set(frame)
    scene.render.filepath = folder + '/' + to
    bpy.ops.render.render(write_still=True)

{more}
"#
    )
}

/// Uploads all files of a folder as a project whose .blend is `shot.blend`.
fn project(crew: &Crew, folder: &Path) -> Project {
    let put = |path: &std::path::PathBuf| {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
        crew.put(name, &fs::read(path).unwrap())
    };
    let files = files(folder);
    let files = files.iter().filter(|path| path.extension().is_none_or(|it| it != "py"));
    Project { blend_path: "shot.blend".into(), files: files.map(put).collect() }
}

/// Returns the picture of the single frame of a batch.
fn drawn(crew: &Crew, events: &[BatchEvent]) -> image::RgbImage {
    let frames = finished(events);
    assert_eq!(frames.len(), 1, "{events:#?}");
    let state = crew.state.lock().unwrap();
    image::load_from_memory(&state.blobs[&frames[0].outputs[0].digest]).unwrap().into_rgb8()
}

/// Returns the picture that plain Blender drew into `folder`.
fn plain(folder: &Path) -> image::RgbImage {
    image::load_from_memory(&fs::read(folder.join("home.png")).unwrap()).unwrap().into_rgb8()
}

/// Python that moves the object with a simulation, and bakes it next to the .blend.
const BAKED: &str = r#"
group = bpy.data.node_groups.new('Sim', 'GeometryNodeTree')
for way in ('INPUT', 'OUTPUT'):
    group.interface.new_socket('Geometry', in_out=way, socket_type='NodeSocketGeometry')
make = lambda kind: group.nodes.new(kind)
inside, outside, move = make('NodeGroupInput'), make('NodeGroupOutput'), make('GeometryNodeTransform')
begin, end = make('GeometryNodeSimulationInput'), make('GeometryNodeSimulationOutput')
begin.pair_with_output(end)
move.inputs['Translation'].default_value = (0.3, 0, 0)
for a, b in ((inside.outputs[0], begin.inputs['Geometry']), (begin.outputs['Geometry'], move.inputs['Geometry']),
             (move.outputs[0], end.inputs['Geometry']), (end.outputs['Geometry'], outside.inputs[0])):
    group.links.new(a, b)
modifier = cube.modifiers.new('GN', 'NODES')
modifier.node_group, modifier.bake_target = group, 'DISK'
save()
scene.frame_set(1)
bpy.ops.object.geometry_node_bake_single(
    session_uid=cube.session_uid, modifier_name=modifier.name, bake_id=modifier.bakes[0].bake_id)
save()
draw(5, 'home.png')
"#;

/// Python that registers a script, which writes to every file of the project that it can open for writing.
const WRITES: &str = r#"
text = bpy.data.texts.new('evil.py')
text.use_module = True
text.write('''
import bpy, os
for root, _, names in os.walk(os.path.dirname(bpy.data.filepath), followlinks=True):
    for path in [os.path.join(root, name) for name in names]:
        for mode in ('r+', 'a', 'w'):
            try:
                with open(path, mode) as file:
                    file.write('evil')
                print('WROTE', path, flush=True)
            except OSError:
                pass
''')
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_blender_opens_for_writing_is_drawn_and_no_job_changes_it() {
    for blender in blender::found() {
        if blender.version < "4.5".parse().unwrap() {
            continue;
        }
        let Some(crew) = crew(&blender).await else { return };
        let home = tempfile::tempdir().unwrap();
        let make = small_scene(home.path(), &format!("{WRITES}{BAKED}"));
        blender::run(&blender, &make, home.path());
        let plain = plain(home.path());
        let project = Some(project(&crew, home.path()));
        let file = crew.put("shot.blend", &fs::read(home.path().join("shot.blend")).unwrap());
        let batch =
            |id| RenderBatchRequest { project: project.clone(), ..request(id, file.clone(), [5]) };

        let events = crew.render(batch(1)).await.unwrap().all().await;
        assert_eq!(drawn(&crew, &events), plain, "Blender {}", blender.version);
        let data = fs::canonicalize(crew.data.path()).unwrap();
        let kept = [data.join("layouts"), data.join("blobs")];
        let before = kept.clone().map(|folder| state(&folder));

        let settings = RenderSettings { run_scripts: true, ..RenderSettings::default() };
        let evil = RenderBatchRequest { settings: Some(settings), ..batch(2) };
        let events = crew.render(evil).await.unwrap().all().await;
        let said = log(&events);
        assert!(said.iter().any(|line| line.starts_with("WROTE")), "in its own copies: {said:#?}");
        assert_eq!(kept.map(|folder| state(&folder)), before);

        let events = crew.render(batch(3)).await.unwrap().all().await;
        assert_eq!(drawn(&crew, &events), plain, "after a job that wrote into its copies");
    }
}

/// Python that copies what one view needs from Blender's own colour configuration, and renames that view.
const CONFIGURATION: &str = r#"
import re, shutil
source = bpy.utils.system_resource('DATAFILES', path='colormanagement')
shutil.copytree(source, folder + '/ocio', ignore=shutil.ignore_patterns('AgX*', 'Inverse*', 'lum*', 'pbr*', 'aces*'))
with open(folder + '/ocio/config.ocio') as file:
    text = file.read()
text = text.replace('{name: Filmic, ', '{name: Studio Look, ')
text = re.sub('active_views:.*', 'active_views: [Standard, Studio Look, Raw]', text)
with open(folder + '/ocio/config.ocio', 'w') as file:
    file.write(text)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_colour_configuration_is_used_for_that_job_only() {
    for blender in blender::found() {
        let Some(crew) = crew(&blender).await else { return };
        let home = tempfile::tempdir().unwrap();
        blender::run(&blender, &small_scene(home.path(), CONFIGURATION), home.path());
        let config = home.path().join("ocio/config.ocio");
        let look = "
scene.view_settings.view_transform = 'Studio Look'
save()
draw(1, 'home.png')
";
        let variables = [("OCIO", config.as_os_str())];
        blender::run_with(&blender, &small_scene(home.path(), look), home.path(), &variables);
        let plain = plain(home.path());

        let project = Some(project(&crew, home.path()));
        let file = crew.put("shot.blend", &fs::read(home.path().join("shot.blend")).unwrap());
        let batch = |id, config: &str| {
            let color_config = config.to_owned();
            let settings = RenderSettings { color_config, ..RenderSettings::default() };
            RenderBatchRequest {
                project: project.clone(),
                settings: Some(settings),
                ..request(id, file.clone(), [1])
            }
        };
        let mut pictures = Vec::new();
        for (config, id) in ["ocio/config.ocio", "", "ocio/config.ocio"].into_iter().zip(1..) {
            let events = crew.render(batch(id, config)).await.unwrap().all().await;
            pictures.push(drawn(&crew, &events));
        }
        assert_eq!(pictures[0], plain, "Blender {}", blender.version);
        assert_ne!(pictures[1], plain, "its own configuration has no such view");
        assert_eq!(pictures[2], plain, "the one of the job again");
        let refused = crew.render(batch(4, "no.ocio")).await.err().unwrap();
        assert!(refused.message().contains("settings.color_config"), "{refused:?}");
    }
}
