"""Finds a scene's frame rate and mixes its sound."""

import os

import bpy

from framecrew_talk import answer, first_line, note


def soundtrack(scene, span, target):
    """Tells the scene's frame rate, and writes its sound between two frames where it has any."""
    sound, delay = False, 0
    # Blender's scenes begin at frame 0 at the earliest.
    if span and span[1] >= 0 and has_sound(scene, set()):
        before = scene.frame_start, scene.frame_end
        scene.frame_start, scene.frame_end = max(span[0], 0), span[1]
        delay = scene.frame_start - span[0]
        try:
            with bpy.context.temp_override(scene=scene):
                bpy.ops.sound.mixdown(filepath=target, container="FLAC", codec="FLAC", format="S16")
            sound = os.path.exists(target)
        except Exception as error:
            note("Warning: the scene's sound cannot be mixed, and the movie has none: %s" % first_line(error))
        scene.frame_start, scene.frame_end = before
    answer("soundtrack", fps=scene.render.fps, fps_base=scene.render.fps_base, sound=sound, delay_frames=delay)


def has_sound(scene, seen):
    if scene in seen:
        return False
    seen.add(scene)
    if any(thing.type == "SPEAKER" and thing.data.sound and not thing.data.muted for thing in scene.objects):
        return True
    editor = scene.sequence_editor
    strips = getattr(editor, "strips_all", None) or getattr(editor, "sequences_all", ())
    return any(not strip.mute and sounds(strip, seen) for strip in strips)


def sounds(strip, seen):
    if strip.type == "SCENE":
        return strip.scene and has_sound(strip.scene, seen)
    return strip.type == "SOUND"
