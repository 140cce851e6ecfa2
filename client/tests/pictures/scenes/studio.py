"""Gives a scene a view that only the configuration in OCIO provides: studio.py -- FILE."""

import os
import sys

import bpy

bpy.ops.wm.open_mainfile(filepath=sys.argv[-1])
bpy.context.preferences.filepaths.save_version = 0
bpy.context.scene.view_settings.view_transform = "Studio Look"
bpy.ops.wm.save_mainfile(compress=True)
sys.stdout.flush()
os._exit(0)
