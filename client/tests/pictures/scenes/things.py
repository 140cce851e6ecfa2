"""Rows about geometry and the files that it is read from."""

import os
import shutil
import struct
import subprocess

from base import *

TRIANGLE = "v -1 -0.8 0\nv 1 -0.8 0\nv 0 1 0\nf 1 2 3\n"
PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
-1 -1 0
1 -1 0
0 0.5 0
3 0 1 2
"""
STL = """solid s
facet normal 0 0 1
outer loop
vertex -1 -1 0
vertex 1 -1 0
vertex 1 1 0
endloop
endfacet
endsolid s
"""
CSV = "position:0,position:1,position:2\n"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path


# Geometry Nodes that import files. Blender's own list of paths does not include these.


def importer(kind, path, text=None, folder=None):
    """Adds a plane whose nodes replace it with the imported geometry."""
    if text:
        write(folder + path.replace("//", "/"), text)
    modifier, tree, sink = nodes_modifier(plane(glow(), 0.2))
    node = tree.nodes.new("GeometryNodeImport" + kind)
    node.inputs[0].default_value = path
    finish(tree, node.outputs[0], sink)
    return modifier, tree, node


def finish(tree, geometry, sink):
    real = tree.nodes.new("GeometryNodeRealizeInstances")
    material = tree.nodes.new("GeometryNodeSetMaterial")
    material.inputs["Material"].default_value = bpy.data.materials["Glow"]
    tree.links.new(geometry, real.inputs[0])
    tree.links.new(real.outputs[0], material.inputs["Geometry"])
    tree.links.new(material.outputs[0], sink)


@row(since=(4, 5), without=["geo/tri.obj"])
def nodes_that_import_obj(folder):
    importer("OBJ", "//geo/tri.obj", TRIANGLE, folder)


@row(since=(4, 5), without=["geo/tri.ply"])
def nodes_that_import_ply_by_an_input_of_the_modifier(folder):
    modifier, tree, node = importer("PLY", "", None)
    write(folder + "/geo/tri.ply", PLY)
    socket = tree.interface.new_socket("Path", in_out="INPUT", socket_type="NodeSocketString")
    group = tree.nodes.new("NodeGroupInput")
    tree.links.new(group.outputs[0], node.inputs[0])
    modifier[socket.identifier] = "//geo/tri.ply"


@row(since=(4, 5), without=["geo/half.stl"])
def nodes_that_import_stl_in_a_nested_group(folder):
    write(folder + "/geo/half.stl", STL)
    modifier, tree, sink = nodes_modifier(plane(glow(), 0.2))
    inner = bpy.data.node_groups.new("Reader", "GeometryNodeTree")
    inner.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    inner.interface.new_socket("Path", in_out="INPUT", socket_type="NodeSocketString")
    node = inner.nodes.new("GeometryNodeImportSTL")
    inner.links.new(inner.nodes.new("NodeGroupInput").outputs[0], node.inputs[0])
    inner.links.new(node.outputs[0], inner.nodes.new("NodeGroupOutput").inputs[0])
    outer = tree.nodes.new("GeometryNodeGroup")
    outer.node_tree = inner
    outer.inputs[0].default_value = "//geo/half.stl"
    finish(tree, outer.outputs[0], sink)


@row(since=(4, 5), without=["data/points.csv"])
def nodes_that_import_csv(folder):
    write(folder + "/data/points.csv", "x,y\n-0.5,0\n0.5,0.3\n0.1,-0.6\n")
    modifier, tree, sink = nodes_modifier(plane(glow(), 0.2))
    node = tree.nodes.new("GeometryNodeImportCSV")
    node.inputs[0].default_value = "//data/points.csv"
    # The number of rows determines the size of the square.
    size = tree.nodes.new("GeometryNodeAttributeDomainSize")
    size.component = "POINTCLOUD"
    grid = tree.nodes.new("GeometryNodeMeshGrid")
    tree.links.new(node.outputs[0], size.inputs[0])
    tree.links.new(size.outputs["Point Count"], grid.inputs[0])
    finish(tree, grid.outputs[0], sink)


@row(since=(4, 5), without=["data/words.txt"])
def nodes_that_import_text(folder):
    write(folder + "/data/words.txt", "four")
    modifier, tree, sink = nodes_modifier(plane(glow(), 0.2))
    node = tree.nodes.new("GeometryNodeImportText")
    node.inputs[0].default_value = "//data/words.txt"
    length = tree.nodes.new("FunctionNodeStringLength")
    grid = tree.nodes.new("GeometryNodeMeshGrid")
    tree.links.new(node.outputs[0], length.inputs[0])
    tree.links.new(length.outputs[0], grid.inputs[0])
    finish(tree, grid.outputs[0], sink)


@row(since=(4, 5), without=["data/smoke_0001.vdb"])
def nodes_that_import_vdb_by_a_string_node(folder):
    volumes(folder, "/data/", 1)
    modifier, tree, sink = nodes_modifier(plane(glow(), 0.2))
    node = tree.nodes.new("GeometryNodeImportVDB")
    text = tree.nodes.new("FunctionNodeInputString")
    text.string = "//data/smoke_0001.vdb"
    tree.links.new(text.outputs[0], node.inputs[0])
    mesh = tree.nodes.new("GeometryNodeVolumeToMesh")
    tree.links.new(node.outputs[0], mesh.inputs[0])
    finish(tree, mesh.outputs[0], sink)


# Volumes, and the fluids that create them.


def volumes(folder, at, count, first=1):
    """Copies numbered OpenVDB files, each of a different size. A bake of geometry nodes creates them."""
    os.makedirs(folder + at, exist_ok=True)
    baked = os.path.dirname(folder) + "/volumes"
    if not os.path.exists(baked):
        os.makedirs(baked)
        if VERSION < (4, 5):
            fluid(baked)
        else:
            another_blender(os.path.join(os.path.dirname(os.path.abspath(__file__)), "volumes.py"), baked)
    found = sorted(os.path.join(place, name) for place, _, names in os.walk(baked) for name in names)
    found = [path for path in found if path.endswith(".vdb")]
    for number in range(count):
        shutil.copy(found[number], "%s%ssmoke_%04d.vdb" % (folder, at, first + number))


def fluid(folder, format="OPENVDB"):
    os.makedirs(folder, exist_ok=True)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fluid.py")
    another_blender(script, folder, FLUID_FORMAT=format)


def another_blender(script, argument, **environment):
    program = bpy.app.binary_path
    command = [program, "-b", "--factory-startup", "-P", script, "--"] if program else [sys.executable, script]
    environment = {**os.environ, **environment}
    subprocess.run(command + [argument], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=300)


def smoke_material():
    material = bpy.data.materials.new("Smoke")
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    volume = tree.nodes.new("ShaderNodeVolumePrincipled")
    volume.inputs["Emission Strength"].default_value = 0.3
    volume.inputs["Density"].default_value = 2
    tree.links.new(volume.outputs[0], output.inputs["Volume"])
    return material


def smoke():
    """A cube full of smoke that rises from a ball: the cube, and its settings."""
    bpy.ops.mesh.primitive_cube_add(size=2)
    domain = bpy.context.object
    domain.data.materials.append(smoke_material())
    modifier = domain.modifiers.new("Fluid", "FLUID")
    modifier.fluid_type = "DOMAIN"
    settings = modifier.domain_settings
    settings.domain_type = "GAS"
    settings.resolution_max = 8
    bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=6, radius=0.5)
    source = bpy.context.object
    source.hide_render = True
    flow = source.modifiers.new("Fluid", "FLUID")
    flow.fluid_type = "FLOW"
    flow.flow_settings.flow_type = "SMOKE"
    flow.flow_settings.flow_behavior = "INFLOW"
    flow.flow_settings.temperature = 3
    return domain, settings


def show_volume(folder, count=3, **settings):
    volumes(folder, "/vdb/", count)
    volume = bpy.data.volumes.new("Volume")
    volume.filepath = folder + "/vdb/smoke_0001.vdb"
    for name, value in settings.items():
        setattr(volume, name, value)
    volume.materials.append(smoke_material())
    scene().collection.objects.link(bpy.data.objects.new("Volume", volume))


@row(without=["vdb/smoke_0001.vdb"])
def a_volume(folder):
    show_volume(folder, 1)


@row(frames="1,3", without=["vdb/smoke_0003.vdb"])
def a_sequence_of_volumes(folder):
    show_volume(folder, is_sequence=True, frame_duration=3, frame_start=1, frame_offset=0)


@row(frames="4", without=["vdb/smoke_0002.vdb"])
def a_sequence_of_volumes_that_repeats(folder):
    show_volume(folder, is_sequence=True, frame_duration=2, frame_start=1, frame_offset=0, sequence_mode="REPEAT")
    scene().frame_end = 6


@row(frames="2", until=(3, 9), saves=True, without=["fluid/data/fluid_data_0002.vdb"])
def a_fluid_that_is_baked(folder):
    fluid(folder)


# Geometry caches.


def mdd(path, frames):
    """Writes four points that move to the right."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack(">2i", frames, 4))
        file.write(struct.pack(">%df" % frames, *[frame / 24 for frame in range(frames)]))
        for frame in range(frames):
            for x, y in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
                file.write(struct.pack(">3f", x + frame * 0.3, y, 0))
    return path


@row(frames="1,3", without=["cache/plane.mdd"])
def a_mesh_cache(folder):
    modifier = plane(glow()).modifiers.new("Cache", "MESH_CACHE")
    modifier.cache_format = "MDD"
    modifier.filepath = mdd(folder + "/cache/plane.mdd", 4)


@row(frames="1,4", since=(4, 5), without=["cache/shot.abc"])
def alembic(folder):
    move(plane(glow()))
    bpy.ops.wm.alembic_export(filepath=write_folder(folder + "/cache/shot.abc"), start=1, end=4)
    empty()
    bpy.ops.wm.alembic_import(filepath=folder + "/cache/shot.abc", as_background_job=False)
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            thing.data.materials.append(glow())


def write_folder(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


@row(frames="1,3", since=(4, 5), without=["cache/part_0003.abc"])
def alembic_in_a_sequence(folder):
    """One file for each frame."""
    thing = plane(glow())
    for frame in range(1, 4):
        for vertex in thing.data.vertices:
            vertex.co.x += 0.2
        bpy.ops.wm.alembic_export(
            filepath=write_folder(folder + "/cache/part_%04d.abc" % frame), start=frame, end=frame, flatten=True
        )
    empty()
    bpy.ops.wm.alembic_import(
        filepath=folder + "/cache/part_0001.abc", is_sequence=True, as_background_job=False, always_add_cache_reader=True
    )
    for cache in bpy.data.cache_files:
        cache.is_sequence = True
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            thing.data.materials.append(glow())


USD_HEAD = """#usda 1.0
(
    defaultPrim = "root"
    startTimeCode = 1
    endTimeCode = 4
    timeCodesPerSecond = 24
    metersPerUnit = 1
    upAxis = "Z"%s
)
"""


def usd(folder, part, head="", body=""):
    """Exports a plane's motion to one USD file, and imports another one that refers to it."""
    thing = plane(glow())
    thing.select_set(True)
    move(thing)
    bpy.ops.wm.usd_export(
        filepath=write_folder(folder + part), export_animation=True, selected_objects_only=True, export_materials=False
    )
    write(folder + "/shot.usda", USD_HEAD % head + body)
    empty()
    bpy.ops.wm.usd_import(filepath=folder + "/shot.usda", relative_path=False)
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            thing.data.materials.append(glow())


@row(frames="1,4", since=(4, 5), without=["parts/geo.usda", "shot.usda"])
def usd_with_a_sublayer(folder):
    usd(folder, "/parts/geo.usda", "\n    subLayers = [ @./parts/geo.usda@ ]")


@row(frames="1,4", since=(4, 5), without=["parts/geo.usdc"])
def usd_with_a_reference_to_a_binary(folder):
    usd(folder, "/parts/geo.usdc", body='def Xform "root" (\n    references = @./parts/geo.usdc@</root>\n)\n{\n}\n')


@row(frames="1,4", since=(4, 5), without=["parts/geo.usda"])
def usd_with_a_payload(folder):
    usd(folder, "/parts/geo.usda", body='def Xform "root" (\n    payload = @./parts/geo.usda@</root>\n)\n{\n}\n')


@row(frames="2", without=["disp.btx"])
def multires_of_its_own_file(folder):
    """Displacement that is saved outside the .blend."""
    made = scene()
    bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=6, radius=0.8)
    ball = bpy.context.object
    ball.data.materials.append(glow())
    ball.modifiers.new("Multires", "MULTIRES")
    bpy.ops.object.multires_subdivide(modifier="Multires", mode="CATMULL_CLARK")
    bumpy = ball.copy()
    bumpy.data = ball.data.copy()
    made.collection.objects.link(bumpy)
    displace = bumpy.modifiers.new("D", "DISPLACE")
    displace.texture = bpy.data.textures.new("T", "CLOUDS")
    displace.texture.noise_scale = 0.3
    bumpy.select_set(True)
    ball.select_set(True)
    bpy.context.view_layer.objects.active = ball
    bpy.ops.object.multires_reshape(modifier="Multires")
    bpy.data.objects.remove(bumpy)
    save(folder + "/shot.blend")
    bpy.ops.object.multires_external_save(filepath=folder + "/disp.btx", modifier="Multires", relative_path=True)


def osl(folder, text):
    """Shows a script in a file on a plane."""
    write(folder + "/osl/tint.osl", text)
    scene().cycles.shading_system = True
    material = glow()
    node = material.node_tree.nodes.new("ShaderNodeScript")
    node.mode = "EXTERNAL"
    node.filepath = folder + "/osl/tint.osl"
    if not node.outputs:
        node.outputs.new("NodeSocketColor", "Tint")
    material.node_tree.links.new(node.outputs[0], material.node_tree.nodes["Emission"].inputs[0])
    plane(material, 3)


@row(frames="1", since=(4, 5), without=["osl/tint.osl"])
def osl_in_a_file(folder):
    """Cycles compiles the script, and writes the result next to it if it can."""
    osl(folder, "shader tint(output color Tint = color(0.1, 0.8, 0.3)) { Tint = color(0.8, 0.1, 0.6); }\n")


@row(frames="1", since=(4, 5), without=["osl/tint.osl", "osl/tint.h", "shared/red.h"])
def osl_that_includes(folder):
    """A header beside the script includes one of another folder."""
    write(folder + "/osl/tint.h", '#include "../shared/red.h"\n#define TINT color(RED, 0.1, 0.6)\n')
    write(folder + "/shared/red.h", "#define RED 0.8\n")
    osl(folder, '#include "tint.h"\nshader tint(output color Tint = color(0.1, 0.8, 0.3)) { Tint = TINT; }\n')


READS = 'shader tint(string file = "%s", output color Tint = 0) { Tint = texture(file, u, v); }\n'
FIXED = "fixed in the script"


@row(frames="1", since=(4, 5), refused=FIXED)
def osl_that_reads_a_picture(folder):
    osl(folder, READS % png(folder + "/tex/a.png", (0, 0, 1)))


@row(frames="1", since=(4, 5), refused=FIXED)
def osl_that_reads_a_picture_from_the_folder_of_the_start(folder):
    """Plain Blender draws the picture only if it is started in the folder of the .blend."""
    png(folder + "/tex/a.png", (0, 0, 1))
    osl(folder, READS % "tex/a.png")


@row(frames="1", without=["curves.pc2"])
def a_cache_of_points(folder):
    """A PC2 file, in the modifier that also reads MDD."""
    modifier = plane(glow()).modifiers.new("Cache", "MESH_CACHE")
    modifier.cache_format = "PC2"
    with open(folder + "/curves.pc2", "wb") as file:
        file.write(struct.pack("<12siiffi", b"POINTCACHE2\0", 1, 4, 1, 1, 4))
        for frame in range(4):
            for x, y in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
                file.write(struct.pack("<3f", x + frame * 0.3, y + 0.5, 0))
    modifier.filepath = folder + "/curves.pc2"


@row(frames="1,4", since=(4, 5), without=["parts/a.usda", "parts/deep/b.usda"])
def usd_in_three_layers(folder):
    """A layer names a second layer, which names a third. Each path is relative to its own layer."""
    usd(folder, "/parts/deep/b.usda", "\n    subLayers = [ @./parts/a.usda@ ]")
    empty()
    write(folder + "/parts/a.usda", USD_HEAD % "\n    subLayers = [ @deep/b.usda@ ]")
    bpy.ops.wm.usd_import(filepath=folder + "/shot.usda", relative_path=False)
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            thing.data.materials.append(glow())


CLIPS = """def Xform "root" (
    clips = {
        dictionary default = {
            string primPath = "/root"
            double templateStartTime = 1
            double templateEndTime = 4
            double templateStride = 1
            string templateAssetPath = "%s"
        }
    }
)
{
    def Mesh "M" {
        int[] faceVertexCounts = [4]
        int[] faceVertexIndices = [0, 1, 2, 3]
        point3f[] points = [(-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 0)]
        double3 xformOp:translate
        uniform token[] xformOpOrder = ["xformOp:translate"]
    }
}
"""


def usd_clips(folder, at):
    """Writes a USD file for each frame, and one that names them by a pattern."""
    for frame in range(1, 5):
        head = USD_HEAD % ""
        moved = "double3 xformOp:translate.timeSamples = { %d: (%s, 0, 0) }" % (frame, frame * 0.3 - 0.8)
        write(folder + "/%sc.%d.usda" % (at, frame), head + 'over "root" {\n    over "M" {\n        %s\n    }\n}\n' % moved)
    write(folder + "/shot.usda", USD_HEAD % "" + CLIPS % ("./%sc.#.usda" % at))
    bpy.ops.wm.usd_import(filepath=folder + "/shot.usda", relative_path=False)
    for thing in bpy.data.objects:
        if thing.type == "MESH" and not thing.data.materials:
            thing.data.materials.append(glow())


@row(frames="1,4", since=(4, 5), without=["c.3.usda"])
def usd_clips_by_a_pattern(folder):
    usd_clips(folder, "")


@row(frames="1,4", since=(4, 5), without=["clips/c.2.usda", "clips/c.3.usda"])
def usd_clips_by_a_pattern_in_another_folder(folder):
    usd_clips(folder, "clips/")


@row(frames="1")
def a_tree_of_an_add_on(folder):
    """Logic of a game, which no renderer reads, though an object that is drawn points to it."""

    class GameTree(bpy.types.NodeTree):
        bl_idname, bl_label, bl_icon = "GameTree", "Game", "NODETREE"

    class GameNode(bpy.types.Node):
        bl_idname, bl_label = "GameNode", "Game"

        def init(self, _):
            self.inputs.new("NodeSocketFloat", "In")
            self.outputs.new("NodeSocketFloat", "Out")

    bpy.utils.register_class(GameTree)
    bpy.utils.register_class(GameNode)
    tree = bpy.data.node_groups.new("Logic", "GameTree")
    nodes = [tree.nodes.new("GameNode") for _ in range(2)]
    tree.links.new(nodes[0].outputs[0], nodes[1].inputs[0])
    plane(glow())["logic"] = tree
