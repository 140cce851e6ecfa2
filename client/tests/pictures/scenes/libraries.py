"""Rows about linked .blend files."""

import os

from base import *
from simulations import bake, cloth
from things import TRIANGLE, importer


def library(path, *things):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    bpy.data.libraries.write(path, set(things), path_remap="RELATIVE_ALL", compress=True)
    return path


def link(path, kind, name):
    with bpy.data.libraries.load(path, link=True, relative=True) as (_, to):
        setattr(to, kind, [name])
    return getattr(to, kind)[0]


@row(without=["lib/props.blend", "lib/maps/skin.png"])
def a_library_with_a_texture(folder):
    material, _ = glow("Skin", image=load(png(folder + "/lib/maps/skin.png", (0.9, 0.6, 0.1))))
    thing = plane(material, 2, name="Prop")
    library(folder + "/lib/props.blend", thing)
    empty()
    save(folder + "/shot.blend")
    scene().collection.objects.link(link(folder + "/lib/props.blend", "objects", "Prop"))


@row(without=["lib/a.blend", "lib/b.blend"])
def a_library_of_a_library(folder):
    library(folder + "/lib/b.blend", glow("Deep", (0.1, 0.9, 0.9)))
    empty()
    save(folder + "/lib/a.blend")
    thing = plane(link(folder + "/lib/b.blend", "materials", "Deep"), 2, name="Prop")
    bpy.ops.wm.save_as_mainfile(filepath=folder + "/lib/a.blend", compress=True)
    empty()
    save(folder + "/shot.blend")
    scene().collection.objects.link(link(folder + "/lib/a.blend", "objects", "Prop"))


@row(frames="3", without=["lib/rig.blend"])
def a_library_override(folder):
    thing = plane(glow(), 1, name="Prop")
    group = bpy.data.collections.new("Group")
    group.objects.link(thing)
    library(folder + "/lib/rig.blend", group)
    empty()
    save(folder + "/shot.blend")
    group = link(folder + "/lib/rig.blend", "collections", "Group")
    scene().collection.children.link(group)
    changed = group.override_hierarchy_create(scene(), bpy.context.view_layer)
    scene().collection.children.unlink(group)
    thing = changed.objects[0]
    thing.location.x = 0.5
    move(thing)


@row(saves=True)
def pasted_from_a_file_that_is_gone(folder):
    """The object was appended, so nothing of the other file is needed."""
    library(folder + "/gone.blend", plane(glow(), 1, name="Prop"))
    empty()
    save(folder + "/shot.blend")
    bpy.ops.wm.append(filepath=folder + "/gone.blend/Object/Prop", directory=folder + "/gone.blend/Object/", filename="Prop")
    save(folder + "/shot.blend")
    os.remove(folder + "/gone.blend")


@row(without=["lib/set.blend"])
def an_instance_of_a_linked_collection(folder):
    thing = plane(glow(), 1, name="Prop")
    group = bpy.data.collections.new("Set")
    group.objects.link(thing)
    library(folder + "/lib/set.blend", group)
    empty()
    save(folder + "/shot.blend")
    instance = bpy.data.objects.new("Instance", None)
    instance.instance_type = "COLLECTION"
    instance.instance_collection = link(folder + "/lib/set.blend", "collections", "Set")
    instance.location.x = 0.4
    scene().collection.objects.link(instance)


@row(frames="2", since=(4, 5), without=["lib/nodes.blend", "lib/geo/tri.obj"])
def nodes_of_a_library_that_import(folder):
    """The path of a library's nodes is relative to the library."""
    importer("OBJ", "//geo/tri.obj", TRIANGLE, folder + "/lib")
    library(folder + "/lib/nodes.blend", bpy.data.node_groups["Nodes"])
    empty()
    save(folder + "/shot.blend")
    thing = plane(size=0.2)
    thing.modifiers.new("Nodes", "NODES").node_group = link(folder + "/lib/nodes.blend", "node_groups", "Nodes")


@row(frames="4")
def a_linked_cloth_whose_override_is_baked(folder):
    thing, cache = cloth()
    cache.frame_end = 4
    thing.name = "Cloth"
    group = bpy.data.collections.new("Group")
    for owner in list(thing.users_collection):
        owner.objects.unlink(thing)
    group.objects.link(thing)
    library(folder + "/lib/cloth.blend", group)
    empty()
    save(folder + "/shot.blend")
    group = link(folder + "/lib/cloth.blend", "collections", "Group")
    scene().collection.children.link(group)
    changed = group.override_hierarchy_create(scene(), bpy.context.view_layer)
    scene().collection.children.unlink(group)
    thing = changed.objects[0]
    cache = thing.modifiers["Cloth"].point_cache
    cache.use_disk_cache = True
    save(folder + "/shot.blend")
    bake(cache, thing)
