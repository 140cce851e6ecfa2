"""Rows about cameras that markers bind."""

from base import *


def drop_camera(bind):
    """Takes the scene's camera away. Markers bind it, or not."""
    camera, scene().camera = scene().camera, None
    if bind:
        scene().timeline_markers.new("Late", frame=3).camera = camera
    return camera


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
