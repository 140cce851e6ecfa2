//! Checks that frames which depend on earlier frames equal those of plain Blender, drawn alone and in sequence.
//! Each test runs with every Blender on this machine.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use framecrew_node::{
    RendererChoice,
    blender::{FoundBlender, Kind},
};
use framecrew_proto::v1::{
    BatchEvent, FrameRange, ProjectFile, RenderBatchRequest, RenderSettings, WarningKind,
    batch_event::Event,
};
use support::{Crew, blender, eventually, finished, log, request};

/// Particles that emit objects, cloth, a rigid body and a subdivision. None is baked, and each differs between the
/// viewport and a render.
const SIMULATIONS: &str = "
scene.render.resolution_x, scene.render.resolution_y = 48, 32
scene.cycles.samples = 1
scene.frame_end = 6
bpy.ops.mesh.primitive_ico_sphere_add(radius=0.2, location=(9, 9, 9))
drop = bpy.context.object
cube.location = (0, 0, 1)
emitter = cube.modifiers.new('Emitter', 'PARTICLE_SYSTEM').particle_system.settings
emitter.count, emitter.frame_start, emitter.frame_end, emitter.lifetime = 60, 1, 6, 20
emitter.normal_factor, emitter.factor_random, emitter.display_percentage = 4, 2, 10
emitter.render_type, emitter.instance_object, emitter.particle_size = 'OBJECT', drop, 1
bpy.ops.mesh.primitive_grid_add(x_subdivisions=6, y_subdivisions=6, size=3, location=(2, 0, 2))
sheet = bpy.context.object
levels = sheet.modifiers.new('Levels', 'SUBSURF')
levels.levels, levels.render_levels = 0, 1
sheet.modifiers.new('Cloth', 'CLOTH')
bpy.ops.mesh.primitive_cube_add(size=1, location=(-2, -1, 2))
bpy.ops.rigidbody.world_add()
bpy.ops.rigidbody.object_add()
";

type Pictures = BTreeMap<i32, image::Rgba32FImage>;

async fn crew(blender: &FoundBlender) -> Crew {
    // Plain Blender draws for seconds, during which no heartbeat is answered.
    let ttl = Duration::from_secs(600);
    Crew::start_with(RendererChoice::Blender(vec![blender.clone()]), ttl).await
}

fn picture(bytes: &[u8]) -> image::Rgba32FImage {
    image::load_from_memory(bytes).unwrap().into_rgba32f()
}

/// Returns frames `first` to `last` as plain Blender draws them in its own process.
fn plain(blender: &FoundBlender, scene: &[u8], first: i32, last: i32) -> Pictures {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scene.blend");
    fs::write(&file, scene).unwrap();
    let output = folder.path().join("####");
    if blender.kind == Kind::Executable {
        let mut command = Command::new(&blender.path);
        command.arg("--background").arg(&file).arg("--render-output").arg(&output);
        if first == last {
            command.args(["--render-frame", &first.to_string()]);
        } else {
            command.args(["--frame-start", &first.to_string(), "--frame-end", &last.to_string()]);
            command.arg("--render-anim");
        }
        assert!(command.output().unwrap().status.success());
    } else {
        // The module has no command line. This operator draws the whole animation.
        let script = format!(
            "
bpy.ops.wm.open_mainfile(filepath={file:?})
scene = bpy.context.scene
scene.frame_start, scene.frame_end, scene.render.filepath = {first}, {last}, {output:?}
bpy.ops.render.render(animation=True)
"
        );
        blender::run(blender, &script, folder.path());
    }
    let read = |frame: i32| {
        let path = folder.path().join(format!("{frame:04}.png"));
        (frame, picture(&fs::read(path).unwrap()))
    };
    (first..=last).map(read).collect()
}

fn pictures(crew: &Crew, events: &[BatchEvent]) -> Pictures {
    let read = |finished: framecrew_proto::v1::SliceFinished| {
        let bytes = crew.state.lock().unwrap().blobs[&finished.outputs[0].digest].clone();
        (finished.slice.unwrap().frame, picture(&bytes))
    };
    finished(events).into_iter().map(read).collect()
}

/// A batch of an animation from frame 1 to frame 6.
fn in_order(id: u64, file: &ProjectFile, frames: &[i32]) -> RenderBatchRequest {
    let span = Some(FrameRange { first: 1, last: 6, step: 1 });
    RenderBatchRequest { span, ..request(id, file.clone(), frames.iter().copied()) }
}

async fn drawn(crew: &Crew, request: RenderBatchRequest) -> (Pictures, Vec<BatchEvent>) {
    let frames = request.slices.len();
    let events = crew.render(request).await.unwrap().all().await;
    let pictures = pictures(crew, &events);
    assert_eq!(pictures.len(), frames, "{events:#?}");
    (pictures, events)
}

/// Kills the Blenders of a node, and waits until their last thread has ended.
async fn kill_blenders(data: &Path) {
    let data = fs::canonicalize(data).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_of_node =
        |path: &PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&data));
    for process in entries.filter(is_of_node) {
        let name = process.file_name().unwrap().to_str().unwrap();
        let pid = rustix::process::Pid::from_raw(name.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        eventually("the end of a Blender", async || {
            let threads = fs::read_dir(process.join("task")).map_or(0, Iterator::count);
            let stat = fs::read_to_string(process.join("stat"));
            threads <= 1 && stat.is_ok_and(|stat| stat.contains(") Z ")) || !process.exists()
        })
        .await;
    }
}

fn assert_same(a: &image::Rgba32FImage, b: &image::Rgba32FImage, most: f32, what: &str) {
    assert_eq!(a.dimensions(), b.dimensions());
    let differences = a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest <= most + f32::EPSILON, "{what}: a difference of {largest}");
}

fn says_unbaked(events: &[BatchEvent]) -> bool {
    events.iter().any(
        |event| matches!(&event.event, Some(Event::Warning(w)) if w.kind() == WarningKind::Unbaked),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_frame_equals_plain_blenders_alone_and_in_the_animation() {
    for blender in blender::found() {
        let scene = blender::scene(&blender, SIMULATIONS);
        let animation = plain(&blender, &scene, 1, 6);
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &scene);

        let (first, events) = drawn(&crew, in_order(1, &file, &[1, 2])).await;
        assert!(!says_unbaked(&events), "they are in sequence: {events:#?}");
        let (then, events) = drawn(&crew, in_order(2, &file, &[3])).await;
        assert!(!log(&events).iter().any(|line| line.contains("Read blend")), "it goes on");
        kill_blenders(crew.data.path()).await;
        let (last, _) = drawn(&crew, in_order(3, &file, &[5, 6])).await;
        for (frame, picture) in first.iter().chain(&then).chain(&last) {
            assert!(animation[frame] == *picture, "{blender:?}: {frame} of the animation");
        }

        let (alone, events) = drawn(&crew, request(4, file.clone(), [6, 2, 5])).await;
        assert!(says_unbaked(&events), "{events:#?}");
        for (frame, picture) in alone {
            let plain = plain(&blender, &scene, frame, frame);
            assert!(plain[&frame] == picture, "{blender:?}: {frame} by itself");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_blender_draws_frames_in_any_order_like_a_fresh_one() {
    let script = "
scene.cycles.use_animated_seed = True
scene.render.use_motion_blur = True
hair = cube.modifiers.new('Hair', 'PARTICLE_SYSTEM').particle_system.settings
hair.type, hair.count, hair.hair_length = 'HAIR', 30, 1
cube.modifiers.new('Wave', 'WAVE')
other = bpy.data.objects.new('Other', bpy.data.cameras.new('Other'))
other.location = (0, 0, 9)
scene.collection.objects.link(other)
scene.timeline_markers.new('one', frame=1).camera = scene.camera
scene.timeline_markers.new('two', frame=4).camera = other
";
    // Data that Blender keeps from frame to frame may change the last bit.
    for (more, most) in [("", 0.0), ("scene.render.use_persistent_data = True", 1.0 / 255.0)] {
        for blender in blender::found() {
            let scene = blender::scene(&blender, &format!("{script}{more}"));
            let crew = crew(&blender).await;
            let file = crew.put("scene.blend", &scene);
            let (warm, events) = drawn(&crew, request(1, file.clone(), [6, 2, 5, 1, -2])).await;
            assert!(!says_unbaked(&events), "{events:#?}");
            let cold = RenderSettings { cold: true, ..RenderSettings::default() };
            for (id, frame) in [(2, 5), (3, -2)] {
                let request = request(id, file.clone(), [frame]);
                let request = RenderBatchRequest { settings: Some(cold.clone()), ..request };
                let (fresh, events) = drawn(&crew, request).await;
                assert!(log(&events).iter().any(|line| line.contains("Read blend")));
                assert_same(&fresh[&frame], &warm[&frame], most, &format!("{blender:?}: {frame}"));
            }
            let plain = plain(&blender, &scene, 5, 5);
            assert_same(&plain[&5], &warm[&5], most, &format!("{blender:?}"));
        }
    }
}
