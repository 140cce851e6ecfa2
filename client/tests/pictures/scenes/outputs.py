"""Rows about the output: formats, passes, views, colour."""

import os
import shutil

from base import *
from things import another_blender


def two_passes():
    plane(glow(), 1)
    scene().view_layers[0].use_pass_z = True


def file_output(base, layered, names=("Image", "Depth")):
    """Adds a File Output node after the Render Layers, in the ways of 3.4, 4.5 and 5.0."""
    tree, sink = compositor()
    layers = tree.nodes.new("CompositorNodeRLayers")
    tree.links.new(layers.outputs[0], sink)
    node = tree.nodes.new("CompositorNodeOutputFile")
    if hasattr(node, "file_output_items"):
        node.directory, node.file_name = os.path.split(base) if layered else (base, "")
        if layered:
            node.directory += "/"
            node.format.media_type = "MULTI_LAYER_IMAGE"
        else:
            node.format.media_type = "IMAGE"
            node.format.file_format = "PNG"
        node.file_output_items.clear()
        for name in names:
            node.file_output_items.new("RGBA" if name == "Image" else "FLOAT", name)
    else:
        node.base_path = base
        node.format.file_format = "OPEN_EXR_MULTILAYER" if layered else "PNG"
        if layered:
            node.layer_slots.clear()
            for name in names:
                node.layer_slots.new(name)
        else:
            node.file_slots.clear()
            for name in names:
                node.file_slots.new(name)
    if not layered and not hasattr(node, "file_output_items"):
        node.format.color_mode = "RGB"
    for number, name in enumerate(names):
        tree.links.new(layers.outputs[name], node.inputs[number])
    return node


@row(frames="7")
def file_output_of_layers_into_a_folder(folder):
    two_passes()
    file_output("//passes/", True)


@row(frames="7")
def file_output_of_layers_with_a_name(folder):
    two_passes()
    file_output("//passes/beauty_", True)


@row(frames="7")
def file_output_of_pictures(folder):
    two_passes()
    file_output("//passes/", False)


@row(frames="1")
def layers_as_the_output(folder):
    two_passes()
    settings = scene().render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"


@row(frames="1")
def a_picture_of_sixteen_bits(folder):
    plane(glow(color=(0.3, 0.2, 0.1)), 1)
    settings = scene().render.image_settings
    settings.file_format = "TIFF"
    settings.color_mode, settings.color_depth = "RGB", "16"


@row(frames="1")
def two_eyes(folder):
    """Stereo, with one file for each view."""
    plane(glow(), 1)
    render = scene().render
    render.use_multiview = True
    render.views_format = "STEREO_3D"
    render.image_settings.views_format = "INDIVIDUAL"
    scene().camera.data.type = "PERSP"


@row(frames="1")
def a_crop(folder):
    plane(glow(), 1)
    render = scene().render
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x, render.border_min_y, render.border_max_y = 0.2, 0.8, 0.3, 0.7


@row(frames="1")
def a_border_without_a_crop(folder):
    plane(glow(), 2)
    render = scene().render
    render.use_border = True
    render.border_min_x, render.border_max_x, render.border_min_y, render.border_max_y = 0.2, 0.8, 0.3, 0.7


@row(frames="3")
def words_burnt_in(folder):
    """A burnt-in stamp with the values that are the same on every machine, and the file's name."""
    empty((200, 100))
    plane(glow(), 1)
    render = scene().render
    render.use_stamp = True
    for name in dir(render):
        if name.startswith("use_stamp_"):
            setattr(render, name, name in ("use_stamp_frame", "use_stamp_camera", "use_stamp_scene", "use_stamp_note"))
    render.stamp_note_text = "shot 7"
    render.use_stamp_note = True
    render.stamp_font_size = 12


@row(frames="1")
def a_transparent_film(folder):
    plane(glow(), 1)
    scene().render.film_transparent = True
    scene().render.image_settings.color_mode = "RGBA"


@row(frames="1")
def another_look(folder):
    plane(glow(color=(0.5, 0.2, 0.1)), 2)
    view = scene().view_settings
    view.view_transform = "Filmic"
    assert any(has_look(view, look) for look in ("High Contrast", "Filmic - High Contrast"))
    view.exposure, view.gamma = 0.5, 1.2


def has_look(view, look):
    try:
        view.look = look
        return True
    except TypeError:
        return False


@row(frames="1")
def dithered(folder):
    plane(glow(color=(0.3, 0.31, 0.32)), 3)
    scene().render.dither_intensity = 1


@row(frames="1")
def objects_as_cryptomatte(folder):
    two_passes()
    scene().view_layers[0].use_pass_cryptomatte_object = True
    layers_as_the_output(folder)


@row(frames="2")
def a_name_with_its_extension(folder):
    plane(glow(), 1)
    scene().render.filepath = "//render/take_####.png"


def studio(folder):
    """Writes Blender's own configuration with one view renamed, and a scene that was saved with it."""
    to = folder + "/ocio"
    shutil.copytree(os.path.join(bpy.utils.system_resource("DATAFILES"), "colormanagement"), to)
    path = to + "/config.ocio"
    with open(path) as file:
        text = file.read()
    assert "{name: Filmic, " in text or "name: Filmic" in text
    text = text.replace("name: Filmic,", "name: Studio Look,")
    lines = [
        "active_views: [Standard, Studio Look, Raw]" if line.startswith("active_views:") else line
        for line in text.splitlines()
    ]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    plane(glow(color=(0.5, 0.2, 0.1)), 2)
    save(folder + "/shot.blend")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "studio.py")
    another_blender(script, folder + "/shot.blend", OCIO=path)
    return path


@row(saves=True, args=["--ocio", "{folder}/ocio/config.ocio"], plain_env={"OCIO": "{folder}/ocio/config.ocio"})
def a_view_of_the_studio(folder):
    studio(folder)


@row(saves=True, args=["--ocio", "{folder}/ocio/config.ocio"], plain_env={"OCIO": "{folder}/ocio/config.ocio"})
def a_view_of_the_studio_with_absolute_paths(folder):
    """The tables are in another folder, which the search path names from the root of the disk."""
    path = studio(folder)
    with open(path) as file:
        lines = file.read().splitlines()
    at = [number for number, line in enumerate(lines) if line.startswith("search_path:")][0]
    names = lines[at].split(":", 1)[1].strip().strip("\"'").split(":")
    for name in names:
        if os.path.isdir(folder + "/ocio/" + name):
            os.makedirs(folder + "/tables", exist_ok=True)
            os.rename(folder + "/ocio/" + name, folder + "/tables/" + name)
    lines[at] = 'search_path: "%s"' % ":".join(folder + "/tables/" + name for name in names)
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


@row(saves=True, env={"OCIO": "{folder}/ocio/config.ocio"}, says=["is sent, too"])
def a_view_of_the_studio_by_the_environment(folder):
    studio(folder)


@row(saves=True, refused="Studio Look")
def a_view_that_nobody_has(folder):
    studio(folder)
