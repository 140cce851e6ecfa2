//! Checks what the worker finds out about a picture before and after drawing it, with real Blenders. Each test
//! runs with every Blender on this machine.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, io::Cursor, time::Duration};

use framecrew_node::{Config, RendererChoice, blender::FoundBlender};
use framecrew_proto::v1::{
    BatchEvent, FailureReason, ProjectFile, RenderBatchRequest, RenderSettings, Warning,
    WarningKind, batch_event::Event,
};
use support::{Crew, blender, failures, finished, log, request};

async fn crew(blender: &FoundBlender) -> Crew {
    // Creating a scene takes seconds, during which no heartbeat is answered.
    let ttl = Duration::from_secs(300);
    let renderer = RendererChoice::Blender(vec![blender.clone()]);
    let change = |config| Config { renderer, allow_scripts: true, ..config };
    Crew::start_as(ttl, change).await.unwrap()
}

fn warnings(events: &[BatchEvent]) -> Vec<Warning> {
    let events = events.iter().filter_map(|event| match &event.event {
        Some(Event::Warning(warning)) => Some(warning.clone()),
        _ => None,
    });
    events.collect()
}

fn texts(events: &[BatchEvent]) -> BTreeSet<String> {
    warnings(events).into_iter().map(|warning| warning.text).collect()
}

fn with(files: &[ProjectFile], request: RenderBatchRequest) -> RenderBatchRequest {
    let mut project = request.project.unwrap();
    project.files.extend(files.iter().cloned());
    RenderBatchRequest { project: Some(project), ..request }
}

fn set(settings: RenderSettings, request: RenderBatchRequest) -> RenderBatchRequest {
    RenderBatchRequest { settings: Some(settings), ..request }
}

fn png() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = image::RgbaImage::from_pixel(8, 8, image::Rgba([200, 100, 50, 255]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn at_least(blender: &FoundBlender, major: u32, minor: u32) -> bool {
    (u32::from(blender.version.major), u32::from(blender.version.minor)) >= (major, minor)
}

/// Every kind of data block that can show a file of a sequence, and a few that only look like it. Frame 2 has its
/// files.
const ROWS: &str = "
scene.render.resolution_x, scene.render.resolution_y = 32, 24
scene.cycles.samples = 1

def sequence(path):
    image = bpy.data.images.new(os.path.basename(path), 8, 8)
    image.source, image.filepath = 'SEQUENCE', '//' + path
    return image

def show(user, **more):
    user.frame_duration, user.frame_start = 9, 1
    for name, value in more.items():
        setattr(user, name, value)

def textured(tree, kind, path, **more):
    node = tree.nodes.new(kind)
    node.image = sequence(path)
    show(getattr(node, 'image_user', node), **more)
    tree.links.new(node.outputs[0], tree.nodes.new('NodeReroute').inputs[0])

material = bpy.data.materials['Material']
material.use_nodes = True
textured(material.node_tree, 'ShaderNodeTexImage', 'tex/0001_front.png')
textured(material.node_tree, 'ShaderNodeTexImage', 'tex/middle_0001.b.png')
textured(material.node_tree, 'ShaderNodeTexImage', 'tex/offset_0009.png', frame_offset=7)
textured(material.node_tree, 'ShaderNodeTexImage', 'tex/cycle_1.png', use_cyclic=True, frame_duration=2)
# Frame 3 shows the number -1, which counts as 0.
textured(material.node_tree, 'ShaderNodeTexImage', 'tex/below_0001.png', use_cyclic=True, frame_duration=3,
         frame_start=0, frame_offset=-2)
world = scene.world
world.use_nodes = True
textured(world.node_tree, 'ShaderNodeTexEnvironment', 'tex/world_0001.png')
light = bpy.data.objects['Light'].data
light.use_nodes = True
textured(light.node_tree, 'ShaderNodeTexImage', 'tex/light_0001.png')
texture = bpy.data.textures.new('Waves', 'IMAGE')
texture.image = sequence('tex/waves_0001.png')
show(texture.image_user)
cube.modifiers.new('Waves', 'DISPLACE').texture = texture
volume = bpy.data.volumes.new('Smoke')
volume.filepath, volume.is_sequence, volume.sequence_mode = '//tex/smoke_0001.vdb', True, 'CLIP'
volume.frame_start, volume.frame_duration, volume.frame_offset = 3, 1, 2
scene.collection.objects.link(bpy.data.objects.new('Smoke', volume))

# Blender looks at the file to tell a row from a movie.
folder = os.path.join(os.path.dirname(__file__), 'tex')
os.mkdir(folder)
bpy.ops.wm.save_as_mainfile(filepath=os.path.join(os.path.dirname(__file__), 'scene.blend'))
image = bpy.data.images.new('first', 8, 8)
image.filepath_raw, image.file_format = os.path.join(folder, 'clip_0005.png'), 'PNG'
image.save()
clip = bpy.data.movieclips.load(image.filepath_raw)
clip.filepath, clip.frame_start = '//tex/clip_0005.png', 1
if hasattr(scene, 'compositing_node_group'):
    tree = bpy.data.node_groups.new('Compositing', 'CompositorNodeTree')
    scene.compositing_node_group = tree
    tree.interface.new_socket('Image', in_out='OUTPUT', socket_type='NodeSocketColor')
    target = tree.nodes.new('NodeGroupOutput')
else:
    scene.use_nodes = True
    tree = scene.node_tree
    target = next(node for node in tree.nodes if node.bl_idname == 'CompositorNodeComposite')
layers = next((node for node in tree.nodes if node.bl_idname == 'CompositorNodeRLayers'), None)
layers = layers or tree.nodes.new('CompositorNodeRLayers')
tree.links.new(layers.outputs[0], target.inputs[0])
textured(tree, 'CompositorNodeImage', 'tex/comp_0001.png')
node = tree.nodes.new('CompositorNodeMovieClip')
node.clip = clip
tree.links.new(node.outputs[0], tree.nodes.new('NodeReroute').inputs[0])

cut = bpy.data.scenes.new('Cut')
cut.render.resolution_x, cut.render.resolution_y = 32, 24
editor = cut.sequence_editor_create()
strips = editor.strips if hasattr(editor, 'strips') else editor.sequences
strip = strips.new_image('Strip', '//tex/strip_1.png', 1, 1)
strip.elements.append('strip_2.png')
strip.elements.append('strip_3.png')
strip.directory = '//tex/'
strip.frame_final_duration = 3

# None of these is drawn.
bpy.data.images.remove(image)
unused = bpy.data.images.new('Unused', 8, 8)
unused.source, unused.filepath, unused.use_fake_user = 'FILE', '//gone/unused.png', True
camera = bpy.data.objects['Camera'].data
camera.show_background_images = True
camera.background_images.new().image = sequence('gone/behind_0001.png')
empty = bpy.data.objects.new('Reference', None)
empty.empty_display_type, empty.data = 'IMAGE', sequence('gone/reference_0001.png')
scene.collection.objects.link(empty)
hidden = bpy.data.objects.new('Hidden', bpy.data.meshes.new('Hidden'))
hidden.hide_render = True
hidden.data.materials.append(bpy.data.materials.new('Hidden'))
hidden.data.materials[0].use_nodes = True
node = hidden.data.materials[0].node_tree.nodes.new('ShaderNodeTexImage')
node.image = bpy.data.images.new('Behind', 8, 8)
node.image.source, node.image.filepath = 'FILE', '//gone/hidden.png'
scene.collection.objects.link(hidden)
";

#[tokio::test(flavor = "multi_thread")]
async fn every_file_that_a_frame_lacks_is_named_and_no_other() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let file = crew.put("shots/a/scene.blend", &blender::scene(&blender, ROWS));
        let names = [
            "0002_front.png",
            "middle_0002.b.png",
            "offset_0009.png",
            "cycle_1.png",
            "cycle_2.png",
            "below_0001.png",
            "world_0002.png",
            "light_0002.png",
            "waves_0002.png",
            "clip_0006.png",
            "clip_0008.png",
            "comp_0002.png",
            "strip_2.png",
        ];
        let files = names.map(|name| crew.put(&format!("shots/a/tex/{name}"), &png()));
        let render = async |id, scene: &str, frame, strict| {
            let settings = RenderSettings { scene: scene.into(), ..RenderSettings::default() };
            let request = set(settings, with(&files, request(id, file.clone(), [frame])));
            let request = RenderBatchRequest { strict, ..request };
            crew.render(request).await.unwrap().all().await
        };
        let whole = render(1, "", 2, true).await;
        assert_eq!(finished(&whole).len(), 1, "{whole:#?}");
        assert_eq!(warnings(&whole), [], "{}", blender.version);
        let lacking = render(2, "", 3, false).await;
        let named = |names: &[&str]| -> BTreeSet<_> {
            let text = |name: &&str| format!("tex/{name}, which frame 3 needs, is missing");
            names.iter().map(text).collect()
        };
        let expected = named(&[
            "0003_front.png",
            "middle_0003.b.png",
            "offset_0010.png",
            "below_0000.png",
            "world_0003.png",
            "light_0003.png",
            "waves_0003.png",
            "smoke_0003.vdb",
            "clip_0007.png",
            "comp_0003.png",
        ]);
        assert_eq!(texts(&lacking), expected, "{}", blender.version);
        // A clip shows nothing before its first file and after its last.
        for (id, frame) in [(6, 1), (7, 5)] {
            let outside = texts(&render(id, "", frame, false).await);
            assert!(!outside.is_empty(), "{}", blender.version);
            assert!(!outside.iter().any(|text| text.contains("clip_")), "{outside:?}");
        }
        let strict = render(3, "", 3, true).await;
        assert_eq!(failures(&strict)[0].reason(), FailureReason::Permanent);
        assert_eq!(warnings(&render(4, "Cut", 2, true).await), []);
        assert_eq!(texts(&render(5, "Cut", 3, false).await), named(&["strip_3.png"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_simulations_that_are_drawn_and_not_baked_are_reported() {
    for blender in blender::found().into_iter().filter(|blender| at_least(blender, 4, 5)) {
        let crew = crew(&blender).await;
        let script = "
tree = bpy.data.node_groups.new('Sim', 'GeometryNodeTree')
for way in ('INPUT', 'OUTPUT'):
    tree.interface.new_socket('Geometry', in_out=way, socket_type='NodeSocketGeometry')
begin, end = tree.nodes.new('NodeGroupInput'), tree.nodes.new('NodeGroupOutput')
before, after = tree.nodes.new('GeometryNodeSimulationInput'), tree.nodes.new('GeometryNodeSimulationOutput')
before.pair_with_output(after)
tree.links.new(begin.outputs[0], before.inputs['Geometry'])
tree.links.new(before.outputs['Geometry'], after.inputs['Geometry'])
tree.links.new(after.outputs['Geometry'], end.inputs[0])
scene.frame_end = 4
for name in ('Baked', 'Open', 'Hidden', 'Switched'):
    thing = bpy.data.objects.new(name, cube.data)
    scene.collection.objects.link(thing)
    modifier = thing.modifiers.new('Sim', 'NODES')
    modifier.node_group = tree
    thing.hide_render = name == 'Hidden'
    modifier.show_render = name != 'Switched'
    assert modifier.bake_target == 'PACKED'
    if name == 'Baked':
        bake = modifier.bakes[0].bake_id
        bpy.context.view_layer.update()
        bpy.ops.object.geometry_node_bake_single(
            session_uid=thing.session_uid, modifier_name=modifier.name, bake_id=bake)
";
        let file = crew.put("scene.blend", &blender::scene(&blender, script));
        let events = crew.render(request(1, file, [3])).await.unwrap().all().await;
        let told = warnings(&events);
        let kinds: Vec<_> = told.iter().map(Warning::kind).collect();
        assert_eq!(kinds, [WarningKind::Unbaked], "{told:?}");
        assert!(told[0].text.contains("'Open'"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_names_a_folder_of_the_node() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let script = "
render = scene.render
render.use_stamp = render.use_stamp_filename = render.use_stamp_hostname = True
render.image_settings.file_format = 'PNG'
# Saving elsewhere changes paths.
bpy.ops.wm.save_as_mainfile(filepath=os.path.join(os.path.dirname(__file__), 'scene.blend'))
image = bpy.data.images.new('Wood', 8, 8)
image.source, image.filepath = 'FILE', 'D:\\\\film\\\\wood.png'
other = bpy.data.images.new('Stone', 8, 8)
other.source, other.filepath = 'FILE', '\\\\\\\\nas\\\\film\\\\stone.png'
material = bpy.data.materials['Material']
material.use_nodes = True
for image in (image, other):
    node = material.node_tree.nodes.new('ShaderNodeTexImage')
    node.image = image
    material.node_tree.links.new(node.outputs[0], material.node_tree.nodes.new('NodeReroute').inputs[0])
";
        let scene = blender::scene(&blender, script);
        let file = crew.put("shots/a/scene.blend", &scene);
        let events = crew.render(request(1, file.clone(), [1])).await.unwrap().all().await;
        let output = finished(&events)[0].outputs[0].clone();
        let expected = ["D:\\film\\wood.png is missing", "\\\\nas\\film\\stone.png is missing"];
        assert_eq!(texts(&events), expected.map(str::to_owned).into());
        let stored = crew.state.lock().unwrap().blobs[&output.digest].clone();
        let within = |words: &str| stored.windows(words.len()).any(|part| part == words.as_bytes());
        assert!(within("File scene.blend"), "{}", blender.version);
        let data = crew.data.path().to_string_lossy().into_owned();
        let host = sysinfo::System::host_name().unwrap();
        for inside in [data.as_str(), "layouts", host.as_str()] {
            assert!(!within(inside), "{inside} {}", blender.version);
        }
        let broken = crew.put("shots/a/scene.blend", &scene[..scene.len() / 2]);
        let broken = crew.render(request(2, broken, [1])).await.unwrap().all().await;
        let failure = &failures(&broken)[0];
        let mut lines = log(&events);
        lines.extend(log(&broken));
        lines.extend(failure.log_tail.clone());
        lines.push(failure.message.clone());
        lines.extend(texts(&events));
        for line in lines {
            assert!(!line.contains(&data) && !line.contains("layouts/"), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_named_or_refused_as_in_blender() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let named = async |id, path: &str| {
            let script = format!("scene.render.filepath = {path:?}");
            let file = crew.put("scene.blend", &blender::scene(&blender, &script));
            crew.render(request(id, file, [7])).await.unwrap().all().await
        };
        let long = format!("{}_####", "n".repeat(235));
        let events = named(1, &format!("//{long}")).await;
        let name = finished(&events)[0].outputs[0].name.clone();
        assert_eq!(name, format!("{}.png", long.replace("####", "0007")));
        if !at_least(&blender, 4, 5) {
            continue;
        }
        let events = named(2, "//{blend_name}_{resolution_x}_####").await;
        assert_eq!(finished(&events)[0].outputs[0].name, "scene_64_0007.png");
        let events = named(3, "//{bad_token}_####").await;
        let failure = &failures(&events)[0];
        assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
        assert!(failure.message.contains("bad_token"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blender_that_dies_once_its_frame_is_written_leaves_the_frame() {
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let dying = |when: &str| {
            format!(
                "
text = bpy.data.texts.new('die.py')
text.use_module = True
text.write('''
import bpy, os, signal
def die(*_):
    os.kill(os.getpid(), signal.SIGSEGV)
bpy.app.handlers.{when}.append(die)
''')
"
            )
        };
        let scripts = RenderSettings { run_scripts: true, ..RenderSettings::default() };
        let render = async |id, when, strict| {
            let file = crew.put("scene.blend", &blender::scene(&blender, &dying(when)));
            let request = set(scripts.clone(), request(id, file, [7]));
            let request = RenderBatchRequest { strict, ..request };
            crew.render(request).await.unwrap().all().await
        };
        let events = render(1, "render_write", false).await;
        assert_eq!(finished(&events).len(), 1, "{events:#?}");
        assert_eq!(finished(&events)[0].outputs[0].name, "0007.png");
        let told = warnings(&events);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].kind(), WarningKind::CrashedAfter);
        for events in [render(2, "render_pre", false).await, render(3, "render_write", true).await]
        {
            let failure = &failures(&events)[0];
            assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
            assert!(failure.message.contains("segmentation fault"), "{failure:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_add_on_is_used_and_a_broken_one_is_refused_with_a_reason() {
    const ADDON: &[u8] = include_bytes!("fixtures/thing.zip");
    for blender in blender::found() {
        let crew = crew(&blender).await;
        let script = "
class Thing(bpy.types.RenderEngine):
    bl_idname, bl_label = 'THING', 'Thing'
bpy.utils.register_class(Thing)
scene.render.engine = 'THING'
scene.view_settings.view_transform = 'Standard'
";
        let file = crew.put("scene.blend", &blender::scene(&blender, script));
        let addons = [
            crew.put("framecrew-addons/thing.zip", ADDON),
            crew.put("framecrew-addons/broken.zip", b"this is no archive"),
        ];
        let render = async |id, names: &[&str]| {
            let addons_named = names.iter().map(|name| format!("framecrew-addons/{name}"));
            let settings =
                RenderSettings { addons: addons_named.collect(), ..RenderSettings::default() };
            let request = set(settings, with(&addons, request(id, file.clone(), [1])));
            crew.render(request).await.unwrap().all().await
        };
        let events = render(1, &["thing.zip"]).await;
        assert_eq!(warnings(&events), []);
        let digest = finished(&events)[0].outputs[0].digest.clone();
        let stored = crew.state.lock().unwrap().blobs[&digest].clone();
        let picture = image::load_from_memory(&stored).unwrap().to_rgb8();
        assert_eq!(picture.get_pixel(10, 10).0, [0, 255, 0], "{}", blender.version);
        for (id, names, words) in
            [(2, &[][..], "THING"), (3, &["broken.zip"][..], "broken.zip cannot be used")]
        {
            let events = render(id, names).await;
            let failure = &failures(&events)[0];
            assert_eq!(failure.reason(), FailureReason::Permanent, "{failure:?}");
            assert!(failure.message.contains(words), "{failure:?}");
        }
    }
}
