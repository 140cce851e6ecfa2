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


def only_in_a_layer_that_is_off(folder):
    plane(glow(), 2)
    collection = apart(pictured(folder))
    scene().view_layers.new("Off").use = False
    in_view_layer(collection).exclude = True
    without_pictures(folder)


@row(frames="1", saves=True)
def view_layer_that_is_off(folder):
    only_in_a_layer_that_is_off(folder)


@row(frames="1", args=["--view-layer", "Off"], saves=True, refused="gone.png")
def view_layer_that_is_off_but_named(folder):
    only_in_a_layer_that_is_off(folder)


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


def pictures_in_a_strip(folder, count=3, first=1):
    pngs(folder + "/strip", "s_%04d.png", range(1, count + 1))
    strip = strips().new_image("Strip", folder + "/strip/s_0001.png", 1, first)
    for number in range(2, count + 1):
        strip.elements.append("s_%04d.png" % number)
    strip.frame_final_duration = count
    return strip


def without_picture(folder, number):
    save(folder + "/shot.blend")
    os.remove("%s/strip/s_%04d.png" % (folder, number))


@row(frames="2", saves=True)
def strip_whose_other_pictures_are_gone(folder):
    pictures_in_a_strip(folder)
    without_picture(folder, 3)


@row(frames="2", saves=True)
def strip_in_reverse_whose_other_pictures_are_gone(folder):
    pictures_in_a_strip(folder, 4).use_reverse_frames = True
    without_picture(folder, 2)


@row(frames="3", saves=True)
def strip_cut_whose_other_pictures_are_gone(folder):
    pictures_in_a_strip(folder, 5).frame_offset_start = 2
    without_picture(folder, 1)


@row(frames="1", saves=True)
def strip_that_begins_later(folder):
    pictures_in_a_strip(folder, 1, first=100)
    without_picture(folder, 1)


@row(frames="1,2,3", without=["strip/s_0003.png"])
def strip_that_lacks_a_picture(folder):
    pictures_in_a_strip(folder)


@row(frames="1,2", saves=True)
def strip_faster_whose_other_pictures_are_gone(folder):
    strip = pictures_in_a_strip(folder, 5)
    first = {"seq1" if VERSION < (4, 4) else "input1": strip}
    effect = strips().new_effect("Speed", "SPEED", 2, frame_start=1, **first)
    effect.speed_control = "MULTIPLY"
    effect.speed_factor = 2.0
    without_picture(folder, 5)


@row(frames="1", saves=True)
def picture_of_two_eyes_without_a_file_of_its_own(folder):
    render = scene().render
    render.use_multiview, render.views_format = True, "STEREO_3D"
    render.image_settings.views_format = "INDIVIDUAL"
    scene().camera.data.type = "PERSP"
    png(folder + "/tex/st_L.png", (1, 0, 0))
    png(folder + "/tex/st_R.png", (0, 0, 1))
    image = load(folder + "/tex/st_L.png")
    image.use_multiview, image.views_format = True, "INDIVIDUAL"
    image.filepath = folder + "/tex/st.png"
    show(image)
    save(folder + "/shot.blend")


@row(frames="1")
def volume_without_a_path(folder):
    """Blender makes `//../../` of it when it makes paths relative."""
    plane(glow(), 1)
    scene().collection.objects.link(bpy.data.objects.new("Volume", bpy.data.volumes.new("Volume")))


@row(frames="1", says=['Modifier: "Cache"'])
def mesh_cache_without_a_path(folder):
    plane(glow(), 1).modifiers.new("Cache", "MESH_CACHE")


@row(frames="1", saves=True, lenient=True, says=["the movie will lack it", "a.wav is missing"])
def sound_that_is_gone(folder):
    import wave

    sound = wave.open(folder + "/a.wav", "wb")
    sound.setnchannels(1)
    sound.setsampwidth(2)
    sound.setframerate(8000)
    sound.writeframes(b"\0\0" * 8000)
    sound.close()
    strips().new_sound("Sound", folder + "/a.wav", 1, 1)
    plane(glow(), 1)
    save(folder + "/shot.blend")
    os.remove(folder + "/a.wav")
