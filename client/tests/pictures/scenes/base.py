"""What the scenes of the table share: an empty scene that is drawn in no time, and rows."""

import json
import os
import sys
import traceback

import bpy

VERSION = bpy.app.version[:2]
ROWS = []


def row(frames="1", since=(3, 4), until=(9, 9), **facts):
    """Makes a function that makes a scene into a row of the table. It gets the folder to make `shot.blend` in.

    frames    what both draw; None: the scene's own range, as an animation
    without   files, any one of which is needed: each is taken away once, and the job must fail for it by name
    args      more arguments for `framecrew render`
    saves     the function has saved the scene as it is to be
    env       environment of both; plain_env: of plain Blender alone
    scripts   plain Blender runs the file's Python
    lenient   without --strict, for what is drawn though it is warned of
    says      a line of the client's must contain it; every other warning or note is a false alarm
    refused   the client refuses the job, or every frame fails, in these words; plain Blender is not asked
    noise     largest difference of a channel of 255 that plain Blender shows between two runs of its own
    without may also be `FILE => WORDS`, where the job names it in other words; `%E9` is a byte that is no Unicode.
    """

    def register(make):
        if since <= VERSION <= until:
            ROWS.append((make, {"name": make.__name__, "frames": frames, "about": make.__doc__, **facts}))
        return make

    return register


def make_all(root, names):
    """Makes the scenes of this Blender, each in a folder of its own, and `rows.json`, which lists them."""
    rows = []
    for make, facts in ROWS:
        if names and facts["name"] not in names:
            continue
        folder = os.path.join(root, facts["name"])
        os.makedirs(folder)
        before = set(os.environ)
        try:
            empty()
            made = make(folder)
            facts.update(made or {})
            if not facts.pop("saves", False):
                save(folder + "/shot.blend")
        except Exception:
            facts["broken"] = traceback.format_exc()
        assert before == set(os.environ)
        rows.append(facts)
    with open(os.path.join(root, "rows.json"), "w") as file:
        json.dump(rows, file)


def scene():
    return bpy.context.scene


def empty(size=(48, 32), samples=1):
    """Cycles, lit by nothing but what glows, from above."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0
    made = scene()
    made.render.engine = "CYCLES"
    made.cycles.samples = samples
    made.cycles.use_denoising = False
    made.cycles.use_adaptive_sampling = False
    made.cycles.max_bounces = 0
    made.render.resolution_x, made.render.resolution_y = size
    made.view_settings.view_transform = "Standard"
    made.frame_start, made.frame_end = 1, 4
    made.render.filepath = "//render/"
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.data.type = "ORTHO"
    camera.data.ortho_scale = 3
    camera.location.z = 10
    made.collection.objects.link(camera)
    made.camera = camera
    grey_world(made)
    return made


def grey_world(of, color=(0.1, 0.1, 0.1)):
    of.world = world = bpy.data.worlds.new("World")
    world.use_nodes = True
    background = world.node_tree.nodes.get("Background")
    if background is None:
        background = world.node_tree.nodes.new("ShaderNodeBackground")
        output = world.node_tree.nodes.new("ShaderNodeOutputWorld")
        world.node_tree.links.new(background.outputs[0], output.inputs[0])
    background.inputs[0].default_value = (*color, 1)
    return world


def glow(name="Glow", color=(1, 0, 0), image=None):
    """A material that glows in a colour, or in an image's; with the image's node."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    emission = tree.nodes.new("ShaderNodeEmission")
    tree.links.new(emission.outputs[0], output.inputs[0])
    emission.inputs[0].default_value = (*color, 1)
    if image is None:
        return material
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    node.interpolation = "Closest"
    tree.links.new(node.outputs[0], emission.inputs[0])
    return material, node


def plane(material=None, size=1.0, at=(0, 0, 0), name="Plane"):
    half = size / 2
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)], [], [(0, 1, 2, 3)])
    layer = mesh.uv_layers.new(name="UV")
    for corner, uv in zip(layer.data, [(0, 0), (1, 0), (1, 1), (0, 1)]):
        corner.uv = uv
    made = bpy.data.objects.new(name, mesh)
    made.location = at
    scene().collection.objects.link(made)
    if material:
        mesh.materials.append(material)
    return made


def png(path, color, size=8, format="PNG"):
    """A picture of one colour; another colour is another file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = bpy.data.images.new("made", size, size, float_buffer=format in ("OPEN_EXR", "HDR"))
    image.pixels = [*color, 1] * (size * size)
    image.filepath_raw = path
    image.file_format = format
    image.save()
    bpy.data.images.remove(image)
    return path


def pngs(folder, pattern, numbers):
    """Pictures of a row, each of another colour."""
    for number in numbers:
        png(os.path.join(folder, pattern % number), (number % 5 / 5, 1 - number % 7 / 7, 0.3))
    return os.path.join(folder, pattern % list(numbers)[0])


def load(path):
    return bpy.data.images.load(path)


def move(thing, first=1, last=4, path="location", index=0, low=-1.0, high=1.0):
    """Moves it from one frame to another, evenly enough."""
    value = getattr(thing, path)
    for frame, at in ((first, low), (last, high)):
        value[index] = at
        thing.keyframe_insert(path, index=index, frame=frame)


def compositor(of=None):
    """The scene's compositor, empty, and the socket that its picture goes into."""
    of = of or scene()
    of.render.use_compositing = True
    if hasattr(of, "compositing_node_group"):
        tree = bpy.data.node_groups.new("Compositing", "CompositorNodeTree")
        of.compositing_node_group = tree
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        return tree, tree.nodes.new("NodeGroupOutput").inputs[0]
    of.use_nodes = True
    of.node_tree.nodes.clear()
    return of.node_tree, of.node_tree.nodes.new("CompositorNodeComposite").inputs[0]


def strips(of=None):
    editor = (of or scene()).sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def nodes_modifier(thing, name="Nodes"):
    """A modifier of Geometry Nodes with an empty tree, and its output socket."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    modifier = thing.modifiers.new(name, "NODES")
    modifier.node_group = tree
    return modifier, tree, tree.nodes.new("NodeGroupOutput").inputs[0]


def bake_node(tree):
    node = tree.nodes.new("GeometryNodeBake")
    if not node.bake_items:
        node.bake_items.new("GEOMETRY", "Geometry")
    return node


def save(path, relative=True):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=path, compress=True, relative_remap=False)
    if relative:
        bpy.ops.file.make_paths_relative()
        bpy.ops.wm.save_as_mainfile(filepath=path, compress=True, relative_remap=False)


def main():
    root, names = sys.argv[-2:]
    root = os.path.abspath(root)
    make_all(root, [name for name in names.split(",") if name])
    sys.stdout.flush()
    os._exit(0)
