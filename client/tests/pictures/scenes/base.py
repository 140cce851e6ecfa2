"""Shared helpers for the scenes of the table: an empty scene that renders quickly, and rows."""

import json
import os
import sys
import traceback

import bpy

VERSION = bpy.app.version[:2]
ROWS = []


def row(frames="1", since=(3, 4), until=(9, 9), **facts):
    """Returns a decorator that registers a function as a row of the table. The function gets the folder for
    `shot.blend`.

    frames    frames that both draw; None: the scene's own range, as an animation
    without   needed files: each is taken away once, and the job must then fail and name it
    args      more arguments for `framecrew render`
    saves     the function has already saved the scene
    env       environment variables of both; plain_env: of plain Blender only
    scripts   plain Blender runs the file's Python
    lenient   without --strict, for a scene that is drawn despite a warning
    says      a line of the client must contain this; any other warning or note is a false alarm
    refused   the client refuses the job with these words, or every frame fails with them; plain Blender is not run
    noise     largest difference of a channel, out of 255, between two runs of plain Blender
    without may also be `FILE => WORDS` if other words name the file; `%E9` is a byte that is not Unicode.
    """

    def register(make):
        if since <= VERSION <= until:
            ROWS.append((make, {"name": make.__name__, "frames": frames, "about": make.__doc__, **facts}))
        return make

    return register


def make_all(root, names):
    """Creates the scenes for this Blender, each in its own folder, and `rows.json`, which lists them."""
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
    """Resets to an empty scene for Cycles, with a camera that looks down and a grey world, but no lights."""
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
    """Returns a material that emits a colour, or one that emits an image together with the image's node."""
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
    """Writes a picture of one colour. Different colours make different files."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = bpy.data.images.new("made", size, size, float_buffer=format in ("OPEN_EXR", "HDR"))
    image.pixels = [*color, 1] * (size * size)
    image.filepath_raw = path
    image.file_format = format
    image.save()
    bpy.data.images.remove(image)
    return path


def pngs(folder, pattern, numbers):
    """Writes numbered pictures, each of a different colour."""
    for number in numbers:
        png(os.path.join(folder, pattern % number), (number % 5 / 5, 1 - number % 7 / 7, 0.3))
    return os.path.join(folder, pattern % list(numbers)[0])


def load(path):
    return bpy.data.images.load(path)


def move(thing, first=1, last=4, path="location", index=0, low=-1.0, high=1.0):
    """Animates a property from one frame to another, with the default interpolation."""
    value = getattr(thing, path)
    for frame, at in ((first, low), (last, high)):
        value[index] = at
        thing.keyframe_insert(path, index=index, frame=frame)


def compositor(of=None):
    """Returns the scene's compositor tree, emptied, and the socket for its picture."""
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
    """Adds a Geometry Nodes modifier with an empty tree. Returns the modifier, the tree and its output socket."""
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
