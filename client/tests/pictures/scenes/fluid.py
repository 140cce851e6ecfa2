"""Creates a scene with a baked fluid: fluid.py -- FOLDER. Its cache has the format that FLUID_FORMAT says.

Needs Blender 3.4, because the solver crashes in the modules of 4.5 and 5.0.
"""

import os
import sys

import _bpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from base import *
from things import smoke

FRAMES = 3

folder = sys.argv[-1]
empty()
scene().frame_end = FRAMES
save(folder + "/shot.blend")
domain, settings = smoke()
settings.cache_directory = folder + "/fluid"
settings.cache_type = "ALL"
settings.cache_data_format = os.environ["FLUID_FORMAT"]
settings.cache_frame_start, settings.cache_frame_end = 1, FRAMES
bpy.context.view_layer.objects.active = domain
# `bpy.ops` evaluates the scene first, when the solver is not ready.
_bpy.ops.call("fluid.bake_all", None, {})
save(folder + "/shot.blend")
sys.stdout.flush()
os._exit(0)
