"""Rows about settings that change with time, and about files that a scene names and a render does not read."""

import os

from base import *
from libraries import link
from pictures import show, strip_of_this_scene, without_camera
from things import fluid


def two_eyes(*suffixes):
    render = scene().render
    render.use_multiview = True
    render.views_format = "STEREO_3D"
    render.image_settings.views_format = "INDIVIDUAL"
    for view, suffix in zip(render.views, suffixes):
        view.file_suffix = suffix
    scene().camera.data.type = "PERSP"


def remove(path):
    """What is saved refers to a file that is gone."""
    save(os.path.dirname(os.path.dirname(path)) + "/shot.blend")
    os.remove(path)


@row(frames="1")
def views_with_dots_in_their_names(folder):
    plane(glow(), 1)
    two_eyes(".left", ".right")


@row(frames="1")
def a_picture_for_each_of_two_eyes(folder):
    """No file has the name that the image has: each eye has its own."""
    two_eyes(".L", ".R")
    image = load(png(folder + "/tex/st.L.png", (1, 0, 0)))
    png(folder + "/tex/st.R.png", (0, 0, 1))
    image.use_multiview = True
    image.views_format = "INDIVIDUAL"
    show(image)


def keyed(folder):
    image = load(pngs(folder + "/tex", "k_%04d.png", (1, 2, 3, 4)))
    image.source = "SEQUENCE"
    show(image, frame_duration=1)
    tree = bpy.data.materials["Glow"].node_tree
    user = next(node.image_user for node in tree.nodes if node.bl_idname == "ShaderNodeTexImage")
    for frame in (1, 2, 3, 4):
        user.frame_offset = frame - 1
        user.keyframe_insert("frame_offset", frame=frame)
    return user


@row(frames="1,3", without=["tex/k_0003.png"])
def an_offset_with_keys(folder):
    # The value that is saved is that of no frame.
    keyed(folder).frame_offset = 40


@row(frames="3", saves=True)
def an_offset_with_keys_past_a_picture_that_is_gone(folder):
    keyed(folder)
    remove(folder + "/tex/k_0001.png")


@row(frames="1", saves=True)
def a_picture_that_no_node_reads(folder):
    material, _ = glow(image=load(png(folder + "/tex/a.png", (0, 1, 0))))
    material.node_tree.nodes.new("ShaderNodeTexImage").image = load(png(folder + "/tex/gone.png", (1, 0, 0)))
    plane(material, 2)
    remove(folder + "/tex/gone.png")


@row(frames="1", saves=True)
def a_picture_of_a_muted_node(folder):
    material, node = glow(image=load(png(folder + "/tex/gone.png", (0, 1, 0))))
    node.mute = True
    plane(material, 2)
    remove(folder + "/tex/gone.png")


@row(frames="1", saves=True)
def pictures_that_are_painted_on(folder):
    plane(glow(), 1)
    scene().tool_settings.image_paint.canvas = load(png(folder + "/tex/gone.png", (0, 1, 1)))
    remove(folder + "/tex/gone.png")


@row(frames="1,2")
def strip_of_a_clip(folder):
    clip = bpy.data.movieclips.load(pngs(folder + "/clip", "c_%04d.png", (1, 2, 3)))
    strips().new_clip("C", clip, 1, 1)
    without_camera()


@row(frames="2", since=(4, 5), without=["tex/c_0002.png"])
def a_picture_input_in_geometry_nodes(folder):
    """A node gives the image to another one, which moves what is as bright as it."""
    image = load(pngs(folder + "/tex", "c_%04d.png", (1, 2, 3)))
    image.source = "SEQUENCE"
    thing = plane(glow(), 0.5)
    _, tree, sink = nodes_modifier(thing)
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    given = tree.nodes.new("GeometryNodeInputImage")
    given.image = image
    texture = tree.nodes.new("GeometryNodeImageTexture")
    time = tree.nodes.new("GeometryNodeInputSceneTime")
    moved = tree.nodes.new("GeometryNodeSetPosition")
    tree.links.new(given.outputs[0], texture.inputs["Image"])
    tree.links.new(time.outputs["Frame"], texture.inputs["Frame"])
    tree.links.new(texture.outputs["Color"], moved.inputs["Offset"])
    tree.links.new(tree.nodes.new("NodeGroupInput").outputs[0], moved.inputs["Geometry"])
    tree.links.new(moved.outputs[0], sink)


@row(frames="2", until=(3, 4), saves=True, without=["lib/fluid/data/fluid_data_0002.vdb"])
def a_fluid_of_a_library_that_is_instanced(folder):
    fluid(folder + "/lib")
    bpy.ops.wm.open_mainfile(filepath=folder + "/lib/shot.blend")
    group = bpy.data.collections.new("Group")
    for thing in [thing for thing in bpy.data.objects if thing.type == "MESH"]:
        for owner in list(thing.users_collection):
            owner.objects.unlink(thing)
        group.objects.link(thing)
    scene().collection.children.link(group)
    bpy.ops.wm.save_mainfile()
    empty()
    save(folder + "/shot.blend")
    instance = bpy.data.objects.new("Instance", None)
    instance.instance_type = "COLLECTION"
    instance.instance_collection = link(folder + "/lib/shot.blend", "collections", "Group")
    scene().collection.objects.link(instance)
    save(folder + "/shot.blend")


@row(frames="2", until=(3, 4), saves=True, without=["fluid/data/density_0002.uni"])
def a_fluid_in_a_file_for_each_grid(folder):
    fluid(folder, "UNI")


@row(frames="2", without=["tex/p_0004.png"])
def a_strip_of_a_scene_that_begins_later(folder):
    image = load(pngs(folder + "/tex", "p_%04d.png", (1, 2, 3, 4)))
    image.source = "SEQUENCE"
    show(image, frame_duration=4, frame_start=1)
    strip_of_this_scene().animation_offset_start = 2
