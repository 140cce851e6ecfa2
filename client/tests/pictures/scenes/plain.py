"""Draws like Blender's command line, for the `bpy` module, which has no command line: plain.py -- WORK.

WORK is a JSON file: a list of [FILE, FRAMES or null, whether its Python runs]. Each FILE is opened and drawn with
`-f FRAME` for each frame, or `-a`.
Both options of Blender draw an animation without `write_still`, and evaluate nothing before. The Python operators
update the view layer first, so this calls the underlying operator.
"""

import json
import os
import sys

import bpy
import _bpy  # Only available after bpy.


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
