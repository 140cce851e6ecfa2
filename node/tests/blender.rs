//! A node with real Blenders, over real sockets. Each test runs with every Blender that this machine has.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, fs, time::Duration};

use framecrew_node::{
    RendererChoice,
    blender::{FoundBlender, Kind},
};
use framecrew_proto::v1::{
    BatchEnd, BatchEvent, FailureReason, ImageFormat, Output, RenderBatchRequest, RenderEngine,
    RenderSettings, SliceProgress, Warning, WarningKind, batch_event::Event,
};
use support::{Crew, blender, end, eventually, failures, files, finished, log, request};
use tokio::time::Instant;

async fn crew(blender: &FoundBlender) -> Crew {
    // Making a scene takes seconds in which no heartbeat is answered.
    let ttl = Duration::from_secs(300);
    Crew::start_with(RendererChoice::Blender(vec![blender.clone()]), ttl).await
}

fn with(settings: RenderSettings, request: RenderBatchRequest) -> RenderBatchRequest {
    RenderBatchRequest { settings: Some(settings), ..request }
}

/// Settings that make a frame take longer than any test.
fn slow() -> RenderSettings {
    RenderSettings {
        samples: Some(1_000_000),
        scale_percent: Some(1_000),
        ..RenderSettings::default()
    }
}

/// Processes whose working folder lies under the node's data: its Blenders.
fn processes(crew: &Crew) -> Vec<i32> {
    let data = fs::canonicalize(crew.data.path()).unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let alive =
            !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "));
        alive && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&data))
    })
    .collect()
}

fn warnings(events: &[BatchEvent]) -> Vec<Warning> {
    let events = events.iter().filter_map(|event| match &event.event {
        Some(Event::Warning(warning)) => Some(warning.clone()),
        _ => None,
    });
    events.collect()
}

/// What the first frame produced.
fn outputs(events: &[BatchEvent]) -> Vec<Output> {
    finished(events).first().unwrap_or_else(|| panic!("{events:#?}")).outputs.clone()
}

fn names(events: &[BatchEvent]) -> Vec<String> {
    outputs(events).into_iter().map(|output| output.name).collect()
}

/// The pixels of a finished frame's preview, which must be a small JPEG that is stored too.
fn preview(crew: &Crew, events: &[BatchEvent]) -> image::RgbImage {
    let preview = finished(events)[0].preview.clone().unwrap_or_else(|| panic!("{events:#?}"));
    assert!(preview.data.len() <= 32 * 1024 && preview.width <= 256 && preview.height <= 256);
    assert_eq!(preview.size_bytes, preview.data.len() as u64);
    assert_eq!(crew.state.lock().unwrap().blobs[&preview.digest], preview.data);
    let image = image::load_from_memory_with_format(&preview.data, image::ImageFormat::Jpeg);
    let image = image.unwrap().into_rgb8();
    assert_eq!(image.dimensions(), (preview.width, preview.height));
    image
}

/// Mean and largest difference of two pictures' channels.
fn difference(a: &image::RgbImage, b: &image::RgbImage) -> (f64, u8) {
    assert_eq!(a.dimensions(), b.dimensions());
    let differences: Vec<_> = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
    (sum / differences.len() as f64, differences.iter().copied().max().unwrap_or_default())
}

fn is_drawing(event: &Event) -> bool {
    matches!(event, Event::Progress(SliceProgress { samples_total: 1.., .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_drawn_checked_and_stored_and_a_second_batch_finds_blender_warm() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("shots/a/scene.blend", &blender::scene(&blender, ""));
        let events = crew.render(request(1, file.clone(), [1, 2, -3])).await.unwrap();
        let events = events.all().await;
        assert_eq!(end(&events), BatchEnd::Complete, "{events:#?}");
        let frames = finished(&events);
        let names: Vec<_> = frames.iter().map(|f| f.outputs[0].name.as_str()).collect();
        assert_eq!(names, ["0001.png", "0002.png", "-0003.png"], "{events:#?}");
        let digests: BTreeSet<_> = frames.iter().map(|f| &f.outputs[0].digest).collect();
        assert_eq!(digests.len(), 3);
        for frame in &frames {
            let output = &frame.outputs[0];
            assert_eq!((output.width, output.height), (64, 48));
            assert!(frame.render_seconds > 0.0 && frame.peak_memory_bytes > 1 << 20);
            let stored = crew.state.lock().unwrap().blobs[&output.digest].clone();
            assert!(image::load_from_memory(&stored).is_ok());
        }
        assert!(log(&events).iter().any(|line| line.contains("Read blend")));

        let pids = processes(&crew);
        assert!(!pids.is_empty());
        let events = crew.render(request(2, file, [4])).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1, "{events:#?}");
        assert!(!log(&events).iter().any(|line| line.contains("Read blend")));
        assert_eq!(processes(&crew), pids);
        assert_eq!(crew.state.lock().unwrap().downloads, 1);
        let work = files(&crew.data.path().join("work"));
        assert!(!work.iter().any(|path| path.extension().is_some_and(|e| e == "png")), "{work:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_override_those_of_the_file() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put(
            "scene.blend",
            &blender::scene(
                &blender,
                "
if hasattr(scene.render.image_settings, 'media_type'):
    scene.render.image_settings.media_type = 'VIDEO'
scene.render.image_settings.file_format = 'FFMPEG'
second = bpy.data.scenes.new('Second')
second.render.resolution_x, second.render.resolution_y = 31, 17
second.cycles.samples = 1
second.render.engine = 'CYCLES'
camera = bpy.data.objects.new('Other', bpy.data.cameras.new('Other'))
second.collection.objects.link(camera)
scene.render.use_border = scene.render.use_crop_to_border = True
scene.render.border_min_x, scene.render.border_max_x = 0.13, 0.71
scene.render.border_min_y, scene.render.border_max_y = 0.21, 0.77
",
            ),
        );
        let film = crew.render(request(1, file.clone(), [1])).await.unwrap().all().await;
        let output = finished(&film)[0].outputs[0].clone();
        assert_eq!(output.name, "0001.png");
        assert!(output.width < 64 && output.height < 48, "cropped");
        assert_eq!(warnings(&film), [], "a movie's frames are what was asked for");

        for (format, extension) in
            [(ImageFormat::Jpeg, "jpg"), (ImageFormat::OpenExr, "exr"), (ImageFormat::Tiff, "tif")]
        {
            let settings = RenderSettings {
                scene: "Second".into(),
                camera: "Other".into(),
                engine: RenderEngine::Cycles.into(),
                samples: Some(2),
                scale_percent: Some(200),
                format: format.into(),
                denoise: Some(true),
                ..RenderSettings::default()
            };
            let id = 10 + format as u64;
            let request = with(settings, request(id, file.clone(), [7]));
            let events = crew.render(request).await.unwrap().all().await;
            let output = finished(&events).first().unwrap_or_else(|| panic!("{events:#?}")).outputs
                [0]
            .clone();
            assert_eq!(output.name, format!("0007.{extension}"));
            assert_eq!((output.width, output.height), (62, 34));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_succeed_fails_as_permanent_with_words() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let scene = blender::scene(&blender, "");
        let file = crew.put("scene.blend", &scene);
        let settings = |scene: &str, camera: &str| RenderSettings {
            scene: scene.into(),
            camera: camera.into(),
            ..RenderSettings::default()
        };
        let cut = crew.put("scene.blend", &scene[..scene.len() / 2]);
        let other = crew.put("scene.blend", b"this is not a blend file");
        let blind = blender::scene(&blender, "bpy.data.objects.remove(bpy.data.objects['Camera'])");
        let blind = crew.put("scene.blend", &blind);
        let crowd = "
for n in range(400):
    camera = bpy.data.objects.new('\\U0001f3a5' * 12 + str(n), bpy.data.cameras.new('Many'))
    scene.collection.objects.link(camera)
";
        let crowd = crew.put("scene.blend", &blender::scene(&blender, crowd));
        let foreign = "
class Foreign(bpy.types.RenderEngine):
    bl_idname, bl_label = 'FOREIGN', 'Foreign'
bpy.utils.register_class(Foreign)
scene.render.engine = 'FOREIGN'
";
        let foreign = crew.put("scene.blend", &blender::scene(&blender, foreign));
        let none = settings("", "");
        for (id, request, word) in [
            (1, with(settings("Gone", ""), request(1, file.clone(), [1])), "'Gone'"),
            (2, with(settings("", "Cube"), request(2, file, [1])), "'Cube'"),
            (3, with(none.clone(), request(3, other, [1])), "open"),
            (4, with(none.clone(), request(4, cut, [1])), ""),
            (5, with(none.clone(), request(5, blind, [1])), "camera"),
            (6, with(none, request(6, foreign, [1])), "engine"),
            (7, with(settings("", "Gone"), request(7, crowd, [1])), "'Gone'"),
        ] {
            let events = crew.render(request).await.unwrap().all().await;
            let failures = failures(&events);
            assert_eq!(failures.len(), 1, "{id}: {events:#?}");
            assert_eq!(failures[0].reason(), FailureReason::Permanent, "{failures:#?}");
            assert!(failures[0].message.contains(word), "{failures:#?}");
            assert!(failures[0].message.len() <= 2_000);
            assert!(failures[0].log_tail.len() <= 20);
        }
        let events = crew.render(request(9, crew.put("scene.blend", &scene), [1])).await.unwrap();
        assert_eq!(finished(&events.all().await).len(), 1, "the node lives on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_kills_the_process_group_within_half_a_second() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, 1..=9))).await.unwrap();
        events.until(is_drawing).await;
        assert!(!processes(&crew).is_empty());
        let begun = Instant::now();
        crew.cancel(1).await.unwrap();
        let took = begun.elapsed();
        assert!(processes(&crew).is_empty());
        assert!(took < Duration::from_millis(500), "{took:?}");
        assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_within_a_frame_comes_every_second_and_resumes_after_a_detour() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, [1]))).await.unwrap();
        let before = events.until(is_drawing).await;
        drop(events);
        let mut events = crew.attach(1, before.last().unwrap().sequence).await.unwrap();
        let begun = Instant::now();
        let mut fractions = Vec::new();
        for _ in 0..3 {
            let seen = events.until(is_drawing).await;
            let Some(Event::Progress(progress)) = &seen.last().unwrap().event else { panic!() };
            assert_eq!(progress.samples_total, 1_000_000);
            fractions.push(progress.fraction.unwrap());
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(fractions.is_sorted(), "{fractions:?}");
        crew.cancel(1).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blender_killed_in_mid_frame_fails_its_frame_and_the_next_one_is_drawn() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file.clone(), [1]))).await.unwrap();
        events.until(is_drawing).await;
        for pid in processes(&crew) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let events = events.all().await;
        assert_eq!(end(&events), BatchEnd::Complete);
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
        assert!(failure.message.contains("killed"), "{failure:?}");
        assert!(!failure.log_tail.is_empty());
        let events = crew.render(request(2, file, [1])).await.unwrap().all().await;
        assert_eq!(finished(&events).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_a_newer_blender_is_refused_with_words() {
    let found = blender::found();
    let (Some(newest), Some(oldest)) = (found.first(), found.last()) else {
        return;
    };
    if newest.version.major == oldest.version.major {
        println!("skipped: only one major version of Blender");
        return;
    }
    let crew = crew(oldest).await;
    let file = crew.put("scene.blend", &blender::scene(newest, ""));
    // As the orchestrator sends it: this node has nothing to open it with.
    let told = RenderBatchRequest {
        file_version: newest.version.to_string(),
        ..request(1, file.clone(), [1])
    };
    // And as it would be if nobody had looked.
    let untold = request(2, file, [1]);
    for request in [told, untold] {
        let events = crew.render(request).await.unwrap().all().await;
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
        println!("{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_leaves_no_process_and_no_folder() {
    for blender in blender::found() {
        let mut crew = crew(&blender).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let mut events = crew.render(with(slow(), request(1, file, [1]))).await.unwrap();
        events.until(is_drawing).await;
        let (stopped, events) = tokio::join!(crew.stop(), events.all());
        stopped.unwrap();
        assert_eq!(end(&events), BatchEnd::Cancelled);
        assert!(processes(&crew).is_empty());
        assert_eq!(files(&crew.data.path().join("work")), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blender_whose_node_was_killed_ends_itself_in_mid_frame() {
    for blender in blender::found() {
        let path = blender.path.to_str().unwrap();
        let version = blender.version.to_string();
        let ttl = Duration::from_secs(15);
        let mut crew = Crew::spawn(&["--blender", path], ttl).await;
        let file = crew.put("scene.blend", &blender::scene(&blender, ""));
        let settings = RenderSettings { blender: version, ..slow() };
        let mut events = crew.render(with(settings, request(1, file, [1]))).await.unwrap();
        events.until(is_drawing).await;
        assert!(!processes(&crew).is_empty());
        crew.signal(rustix::process::Signal::KILL);
        assert_eq!(crew.code().await, None);
        let begun = Instant::now();
        eventually("the renderer's end", async || processes(&crew).is_empty()).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_closest_blender_draws_and_the_job_may_ask_for_another() {
    let found = blender::found();
    let series: BTreeSet<_> = found.iter().map(|b| (b.version.major, b.version.minor)).collect();
    if series.len() < 2 {
        println!("skipped: only one Blender");
        return;
    }
    let oldest = found.last().unwrap().clone();
    let crew = Crew::start(RendererChoice::Blender(found.clone())).await;
    let file = crew.put("scene.blend", &blender::scene(&oldest, ""));
    let old = RenderBatchRequest {
        file_version: oldest.version.to_string(),
        ..request(1, file.clone(), [1])
    };
    let asked = with(
        RenderSettings { blender: found[0].version.to_string(), ..RenderSettings::default() },
        RenderBatchRequest { batch_id: 2, ..old.clone() },
    );
    let runs = |path: &std::path::Path| {
        let path = fs::canonicalize(path).unwrap();
        processes(&crew)
            .iter()
            .any(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path))
    };
    let events = crew.render(old).await.unwrap().all().await;
    assert_eq!(finished(&events).len(), 1, "{events:#?}");
    assert!(runs(&oldest.path));
    let events = crew.render(asked).await.unwrap().all().await;
    assert_eq!(finished(&events).len(), 1, "{events:#?}");
    assert!(runs(&found[0].path));
    assert!(oldest.kind != Kind::Executable || !runs(&oldest.path), "one for each slot");
    eventually("nothing live", async || crew.status().await.live_batch_ids.is_empty()).await;
}

/// A File Output node for each of the paths that the Python list `bases` holds, in a version's own way; every
/// second one is in a group.
const FILE_OUTPUTS: &str = "
def tree_of(scene):
    if hasattr(scene, 'compositing_node_group'):
        tree = bpy.data.node_groups.new('Compositing', 'CompositorNodeTree')
        scene.compositing_node_group = tree
        return tree, tree.nodes.new('CompositorNodeRLayers').outputs[0]
    scene.use_nodes = True
    tree = scene.node_tree
    layers = [node for node in tree.nodes if node.bl_idname == 'CompositorNodeRLayers']
    return tree, layers[0].outputs[0]

def grouped(tree, source):
    group = bpy.data.node_groups.new('Group', 'CompositorNodeTree')
    if hasattr(group, 'interface'):
        group.interface.new_socket('Image', in_out='INPUT', socket_type='NodeSocketColor')
    else:
        group.inputs.new('NodeSocketColor', 'Image')
    node = tree.nodes.new('CompositorNodeGroup')
    node.node_tree = group
    tree.links.new(source, node.inputs[0])
    return group, group.nodes.new('NodeGroupInput').outputs[0]

def file_output(tree, source, base, slots, file_format):
    node = tree.nodes.new('CompositorNodeOutputFile')
    layered = file_format == 'OPEN_EXR_MULTILAYER'
    if hasattr(node, 'file_output_items'):
        node.format.media_type = 'MULTI_LAYER_IMAGE' if layered else 'IMAGE'
        node.format.file_format = file_format
        node.directory, node.file_name = os.path.split(base) if layered else (base, '')
        for slot in slots:
            node.file_output_items.new('RGBA', slot)
    else:
        node.format.file_format = file_format
        node.base_path = base
        node.file_slots.clear()
        for slot in slots:
            node.file_slots.new(slot)
    for n in range(len(slots)):
        tree.links.new(source, node.inputs[n])

tree, source = tree_of(scene)
for n, (base, slots, file_format) in enumerate(bases):
    place = grouped(tree, source) if n % 2 else (tree, source)
    file_output(*place, base, slots, file_format)
";

#[tokio::test(flavor = "multi_thread")]
async fn what_file_output_nodes_write_becomes_the_frames_and_nothing_is_written_elsewhere() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let outside = tempfile::tempdir().unwrap();
        let script = format!(
            "
scene.render.filepath = '//../../../../out/shot_####'
bases = [
    ({0:?} + '/masks/', ['depth_####', '../../../x'], 'PNG'),
    ('//../../../../../masks/', ['depth_'], 'JPEG2000'),
    ('//../layers/all', ['a', 'b'], 'OPEN_EXR_MULTILAYER'),
    ('C:\\\\renders\\\\', ['deep'], 'OPEN_EXR'),
]
{FILE_OUTPUTS}",
            outside.path()
        );
        let file = crew.put("a/scene.blend", &blender::scene(&blender, &script));
        for (id, frame) in [(1, 42), (2, 43)] {
            // But for what waits to be handed in.
            let left = || {
                let mut files = files(crew.data.path());
                files.retain(|file| !file.starts_with(crew.data.path().join("outbox")));
                files
            };
            let before = left();
            let events = crew.render(request(id, file.clone(), [frame])).await.unwrap();
            let events = events.all().await;
            let names = names(&events);
            assert_eq!(names[0], format!("shot_00{frame}.png"));
            let mut others: Vec<_> = names[1..].to_vec();
            others.sort();
            let ends: Vec<_> = others.iter().filter(|name| name.contains("depth")).collect();
            assert_eq!(ends.len(), 2, "{names:?}");
            assert!(others.contains(&format!("renders/deep00{frame}.exr")), "{names:?}");
            assert!(others.contains(&format!("layers/all00{frame}.exr")), "{names:?}");
            assert!(others.contains(&format!("masks/depth_00{frame}.png")), "{names:?}");
            assert_eq!(names.len(), 6, "{names:?}");
            for output in outputs(&events) {
                assert!(output.name.parse::<framecrew_blobs::ProjectPath>().is_ok(), "{output:?}");
                assert!(output.channels >= 1 && output.width > 0);
                assert!(crew.state.lock().unwrap().blobs.contains_key(&output.digest));
            }
            let told = warnings(&events);
            assert_eq!(told.len(), 1, "once in each batch: {told:?}");
            assert!(told[0].text.contains("JPEG2000"), "{told:?}");
            if id == 2 {
                assert_eq!(left(), before, "nothing was left");
            }
        }
        assert_eq!(files(outside.path()), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_of_a_stereo_scene_is_there_in_its_own_size() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let stereo = |more: &str| {
            let script = format!(
                "
scene.render.use_multiview = True
image = scene.render.image_settings
{more}"
            );
            crew.put("scene.blend", &blender::scene(&blender, &script))
        };
        for (id, more, expected) in [
            (1, "", vec![("0007_L.png", 64, 48), ("0007_R.png", 64, 48)]),
            (
                2,
                "scene.render.views['left'].file_suffix = '/../../../x'",
                vec![("0007_.._.._.._x.png", 64, 48), ("0007_R.png", 64, 48)],
            ),
            (
                3,
                "image.views_format = 'STEREO_3D'
image.stereo_3d_format.display_mode = 'SIDEBYSIDE'",
                vec![("0007.png", 128, 48)],
            ),
            (
                4,
                "image.views_format = 'STEREO_3D'
image.stereo_3d_format.display_mode = 'TOPBOTTOM'",
                vec![("0007.png", 64, 96)],
            ),
            (
                5,
                "image.views_format = 'STEREO_3D'
image.stereo_3d_format.display_mode = 'SIDEBYSIDE'
image.stereo_3d_format.use_squeezed_frame = True",
                vec![("0007.png", 64, 48)],
            ),
            (
                6,
                "image.file_format = 'OPEN_EXR'
image.views_format = 'MULTIVIEW'",
                vec![("0007.exr", 64, 48)],
            ),
        ] {
            let events = crew.render(request(id, stereo(more), [7])).await.unwrap().all().await;
            let got = outputs(&events);
            let got: Vec<_> = got.iter().map(|o| (o.name.as_str(), o.width, o.height)).collect();
            assert_eq!(got, expected, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preview_of_an_exr_looks_like_that_of_a_png() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let script = "
scene.render.resolution_x, scene.render.resolution_y = 600, 300
scene.cycles.samples = 16
scene.view_settings.exposure = 0.7
scene.render.film_transparent = True
";
        let file = crew.put("scene.blend", &blender::scene(&blender, script));
        let mut pictures = Vec::new();
        for format in [
            ImageFormat::Png,
            ImageFormat::OpenExr,
            ImageFormat::OpenExrMultilayer,
            ImageFormat::Png,
        ] {
            let settings = RenderSettings {
                format: format.into(),
                color_depth: (format == ImageFormat::Png).then_some(16),
                ..RenderSettings::default()
            };
            let id = pictures.len() as u64 + 1;
            let request = with(settings, request(id, file.clone(), [7]));
            let events = crew.render(request).await.unwrap().all().await;
            let layered = format == ImageFormat::OpenExrMultilayer;
            assert!(outputs(&events)[0].channels >= if layered { 4 } else { 3 });
            pictures.push(preview(&crew, &events));
        }
        assert_eq!(pictures[0].dimensions(), (256, 128));
        let spread = pictures[0].iter().max().unwrap() - pictures[0].iter().min().unwrap();
        assert!(spread > 100, "there is something to see");
        for (n, picture) in pictures.iter().enumerate() {
            let (mean, _) = difference(&pictures[0], picture);
            assert!(mean < 3.0, "{n}: {mean}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_was_not_run_is_told_and_fails_a_strict_batch_before_it_draws() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let script = "
image = bpy.data.images.new('Wood', 8, 8)
image.source, image.filepath = 'FILE', '//textures/wood.png'
material = bpy.data.materials['Material']
material.use_nodes = True
node = material.node_tree.nodes.new('ShaderNodeTexImage')
node.image = image
material.node_tree.links.new(node.outputs[0], material.node_tree.nodes.new('NodeReroute').inputs[0])
text = bpy.data.texts.new('boot.py')
text.write('import bpy\\nbpy.app.driver_namespace[\\'twice\\'] = lambda x: 2 * x\\n')
text.use_module = True
driver = cube.driver_add('location', 2).driver
driver.type, driver.expression = 'SCRIPTED', 'twice(frame)'
bpy.ops.mesh.primitive_plane_add()
bpy.context.object.modifiers.new('Cloth', 'CLOTH')
";
        let file = crew.put("scene.blend", &blender::scene(&blender, script));
        let expected = BTreeSet::from([
            WarningKind::MissingFile,
            WarningKind::ScriptBlocked,
            WarningKind::Unbaked,
        ]);
        // Also when the scene is in memory already.
        for id in [1, 2] {
            let events = crew.render(request(id, file.clone(), [5, 6])).await.unwrap().all().await;
            assert_eq!(finished(&events).len(), 2, "{events:#?}");
            let told = warnings(&events);
            let kinds: BTreeSet<_> = told.iter().map(Warning::kind).collect();
            assert_eq!(kinds, expected, "{told:?}");
            assert!(told.iter().any(|w| w.text == "textures/wood.png is missing"), "{told:?}");
            assert!(told.iter().any(|w| w.text.contains("boot.py")), "{told:?}");
            assert!(told.iter().any(|w| w.text.contains("twice(frame)")), "{told:?}");
            assert_eq!(told.len(), 4, "each once: {told:?}");
        }
        let strict = RenderBatchRequest { strict: true, ..request(3, file, [5]) };
        let events = crew.render(strict).await.unwrap().all().await;
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
        assert!(warnings(&events).iter().any(|w| w.text == failure.message), "{failure:?}");
        let drawn = events.iter().any(|e| is_drawing(e.event.as_ref().unwrap()));
        assert!(!drawn, "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_layer_or_a_colour_depth_that_does_not_exist_is_refused_with_those_that_do() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let script = "scene.view_layers.new('Fog')";
        let file = crew.put("scene.blend", &blender::scene(&blender, script));
        let layer = |name: &str| RenderSettings {
            view_layer: name.into(),
            format: ImageFormat::OpenExrMultilayer.into(),
            ..RenderSettings::default()
        };
        let channels = async |id, name: &str| {
            let request = with(layer(name), request(id, file.clone(), [1]));
            outputs(&crew.render(request).await.unwrap().all().await)[0].channels
        };
        assert!(channels(1, "").await > channels(2, "Fog").await);
        let depth = RenderSettings {
            format: ImageFormat::Jpeg.into(),
            color_depth: Some(16),
            ..RenderSettings::default()
        };
        for (id, settings, words) in
            [(3, layer("Haze"), ["'Haze'", "'Fog'"]), (4, depth, ["16", "it has 8"])]
        {
            let request = with(settings, request(id, file.clone(), [1]));
            let events = crew.render(request).await.unwrap().all().await;
            let failure = &failures(&events)[0];
            assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
            assert!(words.iter().all(|word| failure.message.contains(word)), "{failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_that_is_accepted_decodes_and_has_a_preview() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let formats = ["BMP", "TARGA", "TARGA_RAW", "HDR", "WEBP", "TIFF", "JPEG", "PNG"];
        let mut scripts: Vec<_> = formats
            .iter()
            .map(|format| format!("scene.render.image_settings.file_format = '{format}'"))
            .collect();
        for codec in ["NONE", "PIZ", "RLE", "ZIPS", "PXR24", "B44", "B44A", "DWAA", "DWAB"] {
            scripts.push(format!(
                "
image = scene.render.image_settings
image.file_format, image.color_depth, image.exr_codec = 'OPEN_EXR', '16', '{codec}'"
            ));
        }
        for (id, script) in (1..).zip(scripts) {
            let file = crew.put("scene.blend", &blender::scene(&blender, &script));
            let events = crew.render(request(id, file, [1])).await.unwrap().all().await;
            assert_eq!(finished(&events).len(), 1, "{script}: {events:#?}");
            assert_eq!(warnings(&events), [], "{script}");
            preview(&crew, &events);
        }
    }
}
