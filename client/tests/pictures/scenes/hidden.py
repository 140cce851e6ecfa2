"""Rows about what no picture shows, so that nothing is missing without it, and about cameras of markers."""

import os

from base import *
from pictures import show


def drop_camera(bind):
    """Takes the scene's camera away. Markers bind it, or not."""
    camera, scene().camera = scene().camera, None
    if bind:
        scene().timeline_markers.new("Late", frame=3).camera = camera
    return camera


def pictured(folder, name="gone", at=(0, 0, 1)):
    """Returns a plane whose picture is taken away once the scene has been saved."""
    material, _ = glow(name, image=load(png("%s/%s.png" % (folder, name), (1, 1, 0))))
    return plane(material, 1, at, name=name)


def without_pictures(folder, names=("gone",)):
    save(folder + "/shot.blend")
    for name in names:
        os.remove("%s/%s.png" % (folder, name))


def apart(thing, name="Apart"):
    """Moves a thing into a collection of its own."""
    collection = bpy.data.collections.new(name)
    scene().collection.children.link(collection)
    scene().collection.objects.unlink(thing)
    collection.objects.link(thing)
    return collection


def in_view_layer(collection, layer=0):
    return scene().view_layers[layer].layer_collection.children[collection.name]


@row(frames="1,3,4")
def camera_of_markers(folder):
    """Before all markers, Blender takes the first one's camera."""
    plane(glow(), 1)
    first = drop_camera(bind=True)
    other = bpy.data.objects.new("Other", first.data)
    other.location = (0.5, 0, 10)
    scene().collection.objects.link(other)
    scene().timeline_markers.new("Later", frame=4).camera = other


@row(frames="3")
def camera_of_markers_in_the_compositor(folder):
    plane(glow(), 1)
    drop_camera(bind=True)
    tree, sink = compositor()
    layers = tree.nodes.new("CompositorNodeRLayers")
    tree.links.new(layers.outputs[0], sink)


@row(frames="1", refused="has no camera in the scene")
def camera_that_nothing_chooses(folder):
    plane(glow(), 1)
    drop_camera(bind=False)
    scene().timeline_markers.new("Plain", frame=1)


@row(frames="1", saves=True)
def hidden_thing(folder):
    plane(glow(), 2)
    pictured(folder).hide_render = True
    without_pictures(folder)


@row(frames="1", saves=True)
def hidden_collection(folder):
    plane(glow(), 2)
    apart(pictured(folder)).hide_render = True
    without_pictures(folder)


@row(frames="1", saves=True)
def excluded_collection(folder):
    plane(glow(), 2)
    in_view_layer(apart(pictured(folder))).exclude = True
    without_pictures(folder)


@row(frames="1", saves=True)
def view_layer_that_is_off(folder):
    plane(glow(), 2)
    collection = apart(pictured(folder))
    scene().view_layers.new("Off").use = False
    in_view_layer(collection).exclude = True
    without_pictures(folder)


@row(frames="1", args=["--view-layer", "Off"], saves=True, refused="gone.png")
def view_layer_that_is_off_but_named(folder):
    plane(glow(), 2)
    collection = apart(pictured(folder))
    scene().view_layers.new("Off").use = False
    in_view_layer(collection).exclude = True
    without_pictures(folder)


@row(frames="1", saves=True)
def muted_strip_of_a_scene(folder):
    plane(glow(), 2)
    other, main = bpy.data.scenes.new("Other"), scene()
    thing = pictured(folder)
    main.collection.objects.unlink(thing)
    other.collection.objects.link(thing)
    other.camera = main.camera
    strips().new_scene("Other", other, 1, 1).mute = True
    without_pictures(folder)


@row(frames="1", without=["gone.png"])
def hidden_thing_that_is_instanced(folder):
    """A hidden collection with a hidden emitter's shape, which an empty instances."""
    thing = pictured(folder)
    collection = apart(thing)
    in_view_layer(collection).exclude = True
    instance = bpy.data.objects.new("Instance", None)
    instance.instance_type = "COLLECTION"
    instance.instance_collection = collection
    scene().collection.objects.link(instance)


@row(frames="1", without=["gone.png"])
def hidden_thing_of_particles(folder):
    thing = pictured(folder)
    thing.hide_render = True
    emitter = plane(glow(), 1)
    system = emitter.modifiers.new("Particles", "PARTICLE_SYSTEM").particle_system
    system.settings.type = "HAIR"
    system.settings.count = 5
    system.settings.render_type = "OBJECT"
    system.settings.instance_object = thing
    system.settings.particle_size = 0.5


@row(frames="1,3", without=["gone.png"])
def hidden_thing_that_appears(folder):
    thing = pictured(folder)
    for frame, is_hidden in ((1, True), (3, False)):
        thing.hide_render = is_hidden
        thing.keyframe_insert("hide_render", frame=frame)
