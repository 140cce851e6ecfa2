"""Rows about pictures: textures, sequences, clips, strips, compositing and the look of the output."""

import os
import shutil
import subprocess

from base import *


def show(image, **user):
    """Adds a plane that shows an image. The settings apply to sequences."""
    material, node = glow(image=image)
    for name, value in user.items():
        setattr(node.image_user, name, value)
    node.image_user.use_auto_refresh = True
    return plane(material, 3)


def sequence(folder, pattern, numbers=(1, 2, 3, 4), **user):
    image = load(pngs(folder + "/tex", pattern, numbers))
    image.source = "SEQUENCE"
    user = {"frame_duration": len(numbers), "frame_start": 1, **user}
    return show(image, **user)


@row(frames="1,3", without=["tex/0003_beauty.png"])
def sequence_number_in_front(folder):
    sequence(folder, "%04d_beauty.png")


@row(frames="1,3", without=["tex/take2_0003_left.png"])
def sequence_number_in_the_middle(folder):
    sequence(folder, "take2_%04d_left.png")


@row(frames="2,3", without=["tex/end.0003.png"])
def sequence_number_at_the_end(folder):
    sequence(folder, "end.%04d.png")


@row(frames="1,2", without=["tex/s01_v2.png"])
def sequence_of_versions(folder):
    """The last digits are the number, even if there are more digits before them."""
    sequence(folder, "s01_v%d.png", (1, 2))


@row(frames="1,2", without=["tex/o_0012.png"])
def sequence_with_an_offset(folder):
    sequence(folder, "o_%04d.png", range(11, 15), frame_duration=4, frame_offset=10)


@row(frames="6,9", without=["tex/c_0002.png"])
def sequence_that_repeats(folder):
    sequence(folder, "c_%04d.png", use_cyclic=True)


@row(frames="12", without=["tex/late_0003.png"])
def sequence_that_begins_late(folder):
    sequence(folder, "late_%04d.png", frame_start=10)


@row(frames="9", without=["tex/hold_0004.png"])
def sequence_that_holds_its_last_picture(folder):
    sequence(folder, "hold_%04d.png")


@row(frames="2", without=["deep/in_0002.png"])
def sequence_in_nested_groups(folder):
    image = load(pngs(folder + "/deep", "in_%04d.png", (1, 2)))
    image.source = "SEQUENCE"
    material = glow()
    inner = bpy.data.node_groups.new("Inner", "ShaderNodeTree")
    outer = bpy.data.node_groups.new("Outer", "ShaderNodeTree")
    for group in (inner, outer):
        if hasattr(group, "interface"):
            group.interface.new_socket("Color", in_out="OUTPUT", socket_type="NodeSocketColor")
        else:
            group.outputs.new("NodeSocketColor", "Color")
    texture = inner.nodes.new("ShaderNodeTexImage")
    texture.image = image
    texture.image_user.frame_duration = 2
    texture.image_user.frame_start = 1
    texture.image_user.use_auto_refresh = True
    inner.links.new(texture.outputs[0], inner.nodes.new("NodeGroupOutput").inputs[0])
    for tree, group in ((outer, inner), (material.node_tree, outer)):
        node = tree.nodes.new("ShaderNodeGroup")
        node.node_tree = group
        to = tree.nodes.get("Emission") or tree.nodes.new("NodeGroupOutput")
        tree.links.new(node.outputs[0], to.inputs[0])
    plane(material, 3)


@row(frames="2,3", without=["in/p_0003.png"])
def sequence_in_the_compositor(folder):
    image = load(pngs(folder + "/in", "p_%04d.png", (1, 2, 3)))
    image.source = "SEQUENCE"
    tree, sink = compositor()
    node = tree.nodes.new("CompositorNodeImage")
    node.image = image
    node.frame_duration, node.frame_start = 3, 1
    scale = tree.nodes.new("CompositorNodeScale")
    if hasattr(scale, "space"):
        scale.space = "RENDER_SIZE"
    else:
        scale.inputs["Type"].default_value = "Render Size"
    tree.links.new(node.outputs[0], scale.inputs[0])
    tree.links.new(scale.outputs[0], sink)


@row(frames="1,2", without=["in/p_0002.png"])
def compositing_only(folder):
    """No camera and no Render Layers node, so Blender only composites. Denoising is on, without effect."""
    scene().cycles.use_denoising = True
    sequence_in_the_compositor(folder)
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    scene().camera = None


@row(frames="1", without=["tex/red.png"])
def compositing_of_another_scene(folder):
    """The active scene has no camera. Its compositor shows the Render Layers of another scene."""
    show(load(png(folder + "/tex/red.png", (1, 0, 0))))
    other = scene()
    other.name = "Other"
    made = bpy.data.scenes.new("Comp")
    made.render.engine = "CYCLES"
    made.cycles.samples, made.cycles.use_denoising = 1, True
    made.render.resolution_x, made.render.resolution_y = 48, 32
    made.view_settings.view_transform = "Standard"
    made.render.filepath = "//render/"
    tree, sink = compositor(made)
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = other
    tree.links.new(layers.outputs[0], sink)
    bpy.context.window.scene = made


@row(frames="1,2", without=["clip/c_0002.png"])
def movie_clip_of_pictures(folder):
    """A clip that is an image sequence, in the compositor."""
    clip = bpy.data.movieclips.load(pngs(folder + "/clip", "c_%04d.png", (1, 2, 3)))
    show_clip(clip)


@row(frames="4")
def movie_clip_past_its_last_picture(folder):
    """A clip shows nothing after its last picture, and lacks nothing there."""
    show_clip(bpy.data.movieclips.load(pngs(folder + "/clip", "c_%04d.png", (1, 2))))


def show_clip(clip):
    tree, sink = compositor()
    node = tree.nodes.new("CompositorNodeMovieClip")
    node.clip = clip
    scale = tree.nodes.new("CompositorNodeScale")
    if hasattr(scale, "space"):
        scale.space = "RENDER_SIZE"
    else:
        scale.inputs["Type"].default_value = "Render Size"
    tree.links.new(node.outputs[0], scale.inputs[0])
    tree.links.new(scale.outputs[0], sink)


def movie(path):
    """Makes a movie of four pictures with ffmpeg. Every test of movies needs it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=48x32:rate=24", "-frames:v", "4"]
        + ["-c:v", "png", path],
        check=True,
    )
    return path


@row(frames="1,3", without=["mov/take.mov"])
def movie_clip_of_a_movie(folder):
    show_clip(bpy.data.movieclips.load(movie(folder + "/mov/take.mov")))


@row(frames="1,3", without=["mov/screen.mov"])
def movie_as_a_texture(folder):
    image = load(movie(folder + "/mov/screen.mov"))
    show(image, frame_duration=4, frame_start=1)


@row(without=["tex/tile.1002.png"])
def tiles(folder):
    """A UDIM texture."""
    png(folder + "/tex/tile.1001.png", (1, 0, 0))
    png(folder + "/tex/tile.1002.png", (0, 1, 0))
    image = load(folder + "/tex/tile.1001.png")
    image.source = "TILED"
    image.filepath = folder + "/tex/tile.<UDIM>.png"
    image.tiles.new(1002)
    show(image)
    layer = bpy.data.meshes["Plane"].uv_layers[0]
    for corner in layer.data:
        corner.uv.x *= 2


@row(without=["tex/caf%E9.png => caf"])
def a_name_that_is_not_unicode(folder):
    png(folder + "/tex/plain.png", (0, 0.5, 1))
    os.rename(os.fsencode(folder + "/tex/plain.png"), os.fsencode(folder) + b"/tex/caf\xe9.png")
    image = bpy.data.images.new("I", 8, 8)
    image.source = "FILE"
    image.filepath = "//tex/caf\udce9.png"
    show(image)


@row(without=["Ünï çødé/木 目.png"])
def a_name_with_spaces_and_letters_of_all_kinds(folder):
    show(load(png(folder + "/Ünï çødé/木 目.png", (0, 1, 1))))


@row(without=["Textures/Wood.png"], saves=True)
def a_path_with_backslashes(folder):
    image = load(png(folder + "/Textures/Wood.png", (0.6, 0.4, 0)))
    image.filepath = "//Textures\\Wood.png"
    show(image)
    save(folder + "/shot.blend", relative=False)


@row(without=["elsewhere/wall.png"], saves=True)
def a_path_that_is_absolute(folder):
    show(load(png(folder + "/elsewhere/wall.png", (0.3, 0, 0.6))))
    save(folder + "/shot.blend", relative=False)


@row(args=["--follow-links"], without=["real/skin.png"], saves=True)
def a_folder_that_is_a_link(folder):
    png(folder + "/real/skin.png", (1, 0.5, 0.5))
    os.symlink("real", folder + "/tex")
    image = load(folder + "/tex/skin.png")
    image.filepath = "//tex/skin.png"
    show(image)
    save(folder + "/shot.blend", relative=False)


@row()
def a_packed_picture(folder):
    """The original file may be missing."""
    image = load(png(folder + "/gone.png", (0.2, 0.8, 0.2)))
    image.pack()
    show(image)
    os.remove(folder + "/gone.png")


@row(without=["sky/sky.exr"])
def a_sky(folder):
    world = scene().world
    node = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    node.image = load(png(folder + "/sky/sky.exr", (0.1, 0.2, 0.9), format="OPEN_EXR"))
    world.node_tree.links.new(node.outputs[0], world.node_tree.nodes["Background"].inputs[0])
    plane(glow(), 0.5)


@row(without=["tex/bumps.png"])
def a_picture_that_displaces(folder):
    """A legacy texture data-block in a modifier."""
    os.makedirs(folder + "/tex")
    image = bpy.data.images.new("bumps", 8, 8)
    image.pixels = [value for n in range(64) for value in ((n % 8) / 8, (n % 8) / 8, (n % 8) / 8, 1)]
    image.filepath_raw = folder + "/tex/bumps.png"
    image.file_format = "PNG"
    image.save()
    bpy.data.images.remove(image)
    texture = bpy.data.textures.new("T", "IMAGE")
    texture.image = load(folder + "/tex/bumps.png")
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=8, y_subdivisions=8, size=2)
    thing = bpy.context.object
    thing.data.materials.append(glow())
    modifier = thing.modifiers.new("D", "DISPLACE")
    modifier.texture = texture
    modifier.direction = "X"


@row(without=["tex/backdrop_0002.png"], frames="2", since=(4, 5))
def a_picture_in_geometry_nodes(folder):
    image = load(pngs(folder + "/tex", "backdrop_%04d.png", (1, 2)))
    image.source = "SEQUENCE"
    thing = plane(glow(), 1)
    modifier, tree, sink = nodes_modifier(thing)
    texture = tree.nodes.new("GeometryNodeImageTexture")
    texture.inputs["Image"].default_value = image
    frame = tree.nodes.new("GeometryNodeInputSceneTime")
    tree.links.new(frame.outputs["Frame"], texture.inputs["Frame"])
    square = tree.nodes.new("GeometryNodeMeshGrid")
    place = tree.nodes.new("GeometryNodeTransform")
    material = tree.nodes.new("GeometryNodeSetMaterial")
    material.inputs["Material"].default_value = bpy.data.materials["Glow"]
    tree.links.new(square.outputs[0], place.inputs["Geometry"])
    tree.links.new(texture.outputs[0], place.inputs["Translation"])
    tree.links.new(place.outputs[0], material.inputs["Geometry"])
    tree.links.new(material.outputs[0], sink)


@row(without=["fonts/Face One.ttf"])
def a_font(folder):
    os.makedirs(folder + "/fonts")
    font = folder + "/fonts/Face One.ttf"
    copy_a_font(font)
    curve = bpy.data.curves.new("Words", "FONT")
    curve.body = "Wg4"
    curve.font = bpy.data.fonts.load(font)
    curve.size = 1.5
    curve.materials.append(glow())
    words = bpy.data.objects.new("Words", curve)
    words.location.x = -1.2
    scene().collection.objects.link(words)


def copy_a_font(to):
    """Copies a font that comes with Blender, other than its default."""
    import shutil

    folder = bpy.utils.system_resource("DATAFILES", path="fonts")
    found = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if "mono" in name.lower()]
    for source in found + ["/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf"]:
        if source.endswith((".ttf", ".otf")) and os.path.exists(source):
            shutil.copy(source, to)
            return
        if source.endswith(".woff2"):
            shutil.copy(source, to)
            return
    raise RuntimeError("no font was found in " + folder)


IES = """IESNA:LM-63-1995
TILT=NONE
1 1000 1 3 1 1 2 0 0 0
1 1 10
0 45 90
0
1000 500 0
"""


@row(without=["light/lamp.ies"])
def a_light_of_ies(folder):
    os.makedirs(folder + "/light")
    with open(folder + "/light/lamp.ies", "w") as file:
        file.write(IES)
    light = bpy.data.lights.new("L", "POINT")
    light.use_nodes = True
    tree = light.node_tree
    emission = tree.nodes.get("Emission") or tree.nodes.new("ShaderNodeEmission")
    node = tree.nodes.new("ShaderNodeTexIES")
    node.mode = "EXTERNAL"
    node.filepath = "//light/lamp.ies"
    tree.links.new(node.outputs[0], emission.inputs["Strength"])
    lamp = bpy.data.objects.new("L", light)
    lamp.location.z = 1
    scene().collection.objects.link(lamp)
    material = bpy.data.materials.new("M")
    material.use_nodes = True
    plane(material, 3)


@row(frames="1,2", without=["strip/s_0002.png"])
def strip_of_pictures(folder):
    """The sequencer makes the picture; there is no camera."""
    pngs(folder + "/strip", "s_%04d.png", (1, 2, 3))
    strip = strips().new_image("S", folder + "/strip/s_0001.png", 1, 1)
    strip.elements.append("s_0002.png")
    strip.elements.append("s_0003.png")
    if hasattr(strip, "frame_final_duration"):
        strip.frame_final_duration = 3
    without_camera()


def without_camera():
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    scene().camera = None


@row(frames="2", without=["mov/cut.mov"])
def strip_of_a_movie(folder):
    movie(folder + "/mov/cut.mov")
    strips().new_movie("M", folder + "/mov/cut.mov", 1, 1)
    without_camera()


def strip_of_this_scene():
    """Makes another scene the active one, with this scene as a strip. That scene only cuts, and denoises nothing."""
    other = scene()
    cut = bpy.data.scenes.new("Cut")
    cut.render.engine = "CYCLES"
    cut.cycles.use_denoising = True
    cut.render.resolution_x, cut.render.resolution_y = 48, 32
    cut.view_settings.view_transform = "Standard"
    cut.render.filepath = "//render/"
    bpy.context.window.scene = cut
    return strips(cut).new_scene("S", other, 1, 1)


@row(frames="2", without=["tex/in_0002.png"])
def strip_of_another_scene(folder):
    image = load(pngs(folder + "/tex", "in_%04d.png", (1, 2)))
    image.source = "SEQUENCE"
    show(image, frame_duration=2, frame_start=1)
    strip_of_this_scene()


@row(frames="1")
def strip_of_words(folder):
    kinds = {"length": 4} if VERSION >= (5, 0) else {"frame_end": 5}
    strip = strips().new_effect("T", "TEXT", 1, frame_start=1, **kinds)
    strip.text = "Ag"
    strip.font_size = 24
    without_camera()


# Files that nothing drawn uses are not missed.


@row()
def a_missing_picture_that_nothing_draws(folder):
    """One image only has a fake user, and the other is in an unused material."""
    plane(glow(), 1)
    for name in ("kept", "unused"):
        image = load(png(folder + "/" + name + ".png", (0, 0, 1)))
        image.use_fake_user = True
    material, _ = glow("Unused", image=bpy.data.images["unused.png"])
    material.use_fake_user = True
    save(folder + "/shot.blend")
    os.remove(folder + "/kept.png")
    os.remove(folder + "/unused.png")


@row()
def a_result_that_was_saved_elsewhere(folder):
    """The Render Result and a generated image remember paths that nothing reads."""
    made = bpy.data.images.new("Made", 8, 8)
    made.filepath = "//gone/made.png"
    show(made)
    scene().render.filepath = folder + "/gone/"
    bpy.ops.render.render(write_still=True)
    shutil.rmtree(folder + "/gone")
    scene().render.filepath = "//render/"


@row(saves=True, refused="D:\\projects\\film\\wood.png")
def a_path_of_windows(folder):
    """The message names it as stored in the file."""
    image = load(png(folder + "/wood.png", (0, 0, 1)))
    show(image)
    image.filepath = "D:\\projects\\film\\wood.png"
    save(folder + "/shot.blend", relative=False)


@row(saves=True, refused="Textures/Wood.png")
def a_path_in_other_letters(folder):
    """The message names the existing file that differs only in letter case."""
    image = load(png(folder + "/Textures/Wood.png", (0, 0, 1)))
    show(image)
    image.filepath = "//textures/wood.PNG"
    save(folder + "/shot.blend", relative=False)
