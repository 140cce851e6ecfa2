"""Draws as the command line of Blender does, in the `bpy` module, which has none: plain.py -- WORK.

WORK is a file of JSON: a list of [FILE, FRAMES or null, whether its Python runs]. Each is opened; then `-f FRAME` for each frame, or `-a`.
Both of Blender's own options draw an animation, without `write_still`, and nothing is evaluated before that. The
Python operators update the view layer first, so the operator beneath them is called.
"""

import json
import os
import sys

import bpy
import _bpy  # Only there once bpy is.


def call(name, **settings):
    return _bpy.ops.call(name, settings)


with open(sys.argv[-1]) as file:
    work = json.load(file)
for path, frames, scripts in work:
    try:
        bpy.context.preferences.filepaths.use_scripts_auto_execute = scripts
        bpy.ops.wm.open_mainfile(filepath=path, use_scripts=scripts)
        scene = bpy.context.scene
        for frame in frames or [None]:
            if frame is None:
                call("render.render", animation=True)
            elif bpy.app.version >= (5, 0, 0):
                call("render.render", animation=True, frame_start=frame, frame_end=frame)
            else:
                scene.frame_start = scene.frame_end = frame
                call("render.render", animation=True)
    except Exception as error:
        print("plain Blender failed on %s: %s" % (path, error))
sys.stdout.flush()
os._exit(0)
