"""Says what Blender will write for a frame, and directs it into the frame's folder."""

import os

import bpy

from framecrew_settings import choose_format
from framecrew_talk import Permanent, answer


def take_file_outputs(loaded):
    """Finds every File Output node, in groups and in other scenes too: strips may draw those. Names its slots so
    that no path of the file's is ever written to. Returns, for each, what the file says."""
    trees = [tree for tree in bpy.data.node_groups if tree.bl_idname == "CompositorNodeTree"]
    trees += [scene.node_tree for scene in bpy.data.scenes if getattr(scene, "node_tree", None)]
    found = []
    for tree in dict.fromkeys(trees):
        for node in tree.nodes:
            if node.bl_idname == "CompositorNodeOutputFile":
                found.append(take_file_output(loaded, node))
    return found


def take_file_output(loaded, node):
    what = "what %r writes is" % node.name
    choose_format(loaded, node.format, None, None, what)
    layered = node.format.file_format == "OPEN_EXR_MULTILAYER"
    modern = hasattr(node, "file_output_items")
    if modern:
        base, stem, slots = node.directory, node.file_name, node.file_output_items
        own, path = "override_node_format", "name"
    else:
        base, stem, slots = node.base_path, "", node.file_slots
        own, path = "use_node_format", "path"
    paths, prefixes = [], []
    if layered:
        if not modern:
            base, stem = os.path.split(base.replace("\\", "/"))
        paths.append(stem)
        prefixes.append("s")
    else:
        for number, slot in enumerate(slots):
            if getattr(slot, own) == modern:
                choose_format(loaded, slot.format, None, None, what)
            # From 5.0 on a slot's name is not a path.
            name = getattr(slot, path)
            paths.append(stem + name.replace("/", "_") if modern else name)
            setattr(slot, path, "s%d_" % number)
        # Read after all are set: Blender keeps them distinct.
        prefixes = [getattr(slot, path) for slot in slots]
    return node, layered, base, list(zip(prefixes, paths))


def expanded(loaded, node, path):
    """Fills in the templates in a path of a File Output node (`{blend_name}`, from 4.5 on) with Blender itself.
    Returns `None` if Blender does not know one of them."""
    render = loaded.scene.render
    if "{" not in path and "}" not in path or bpy.app.version < (4, 5, 0):
        return path
    # Blender would replace `#` by the frame's number, and slashes by the folder of the .blend.
    stand_ins = {"#": "\x01", "/": "\x02", "\\": "\x03"}
    path = path.replace("{node_name}", node.name)
    for sign, stand_in in stand_ins.items():
        path = path.replace(sign, stand_in)
    before, extension = render.filepath, render.use_file_extension
    try:
        render.filepath, render.use_file_extension = "/" + path + "####", False
        path = render.frame_path(frame=0)[1:-4]
    except RuntimeError:
        return None
    finally:
        render.filepath, render.use_file_extension = before, extension
    for sign, stand_in in stand_ins.items():
        path = path.replace(stand_in, sign)
    return path


def place_file_outputs(loaded, folder):
    """Sends what File Output nodes write into the frame's folder, and tells the node how to name it."""
    for number, (node, layered, base, slots) in enumerate(loaded.file_outputs):
        place = "n%d" % number
        path = os.path.join(folder, place)
        if hasattr(node, "file_output_items"):
            node.directory = path
            node.file_name = "s" if layered else ""
        else:
            node.base_path = os.path.join(path, "s") if layered else path
        base = expanded(loaded, node, base)
        for prefix, wanted in slots:
            wanted = expanded(loaded, node, wanted)
            if base is None or wanted is None:
                loaded.warn(
                    "incomplete", "%r uses a template that Blender does not know, and writes no file" % node.name
                )
                node.mute = True
            else:
                answer("file_output", folder=place, prefix=prefix, base=base, node=node.name, path=wanted)


def size(render):
    """Width and height in pixels that the output will have, by Blender's own arithmetic."""
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    if render.use_border and render.use_crop_to_border:
        width, height = (
            int(single(high) * size) - int(single(low) * size)
            for low, high, size in (
                (render.border_min_x, render.border_max_x, width),
                (render.border_min_y, render.border_max_y, height),
            )
        )
    return width, height


def single(number):
    import struct

    return struct.unpack("f", struct.pack("f", number))[0]


def promised(scene, stem):
    """The files that Blender will write for the scene's own output: name, width, height."""
    render, image = scene.render, scene.render.image_settings
    width, height = size(render)
    suffixes = [""]
    if render.use_multiview and image.views_format == "INDIVIDUAL":
        views = render.stereo_views if render.views_format == "STEREO_3D" else render.views
        suffixes = [view.file_suffix for view in views if view.use]
    elif render.use_multiview and image.views_format == "STEREO_3D":
        stereo = image.stereo_3d_format
        if not stereo.use_squeezed_frame:
            width *= 2 if stereo.display_mode == "SIDEBYSIDE" else 1
            height *= 2 if stereo.display_mode == "TOPBOTTOM" else 1
    return [(stem + suffix + render.file_extension, width, height) for suffix in suffixes]


def wanted_name(loaded, frame):
    """How Blender would name the frame's file, without its extension; empty: it would not."""
    render = loaded.scene.render
    render.filepath = loaded.output_path
    try:
        path = render.frame_path(frame=frame)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:500]
        raise Permanent("Blender refuses the output path %r: %s" % (loaded.output_path, said)) from error
    name = os.path.basename(path.replace("\\", "/"))
    extension = render.file_extension
    return name[: -len(extension)] if extension and name.endswith(extension) else name
