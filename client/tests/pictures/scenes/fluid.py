"""Creates a scene with a baked fluid: fluid.py -- FOLDER.

Needs Blender 3.4, because the solver crashes in the modules of 4.5 and 5.0.
"""

import os
import sys

import _bpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from base import *
from things import smoke_material

FRAMES = 3

folder = sys.argv[-1]
empty()
scene().frame_end = FRAMES
save(folder + "/shot.blend")
bpy.ops.mesh.primitive_cube_add(size=2)
domain = bpy.context.object
domain.data.materials.append(smoke_material())
modifier = domain.modifiers.new("Fluid", "FLUID")
modifier.fluid_type = "DOMAIN"
settings = modifier.domain_settings
settings.domain_type = "GAS"
settings.resolution_max = 8
settings.cache_directory = folder + "/fluid"
settings.cache_type = "ALL"
settings.cache_data_format = "OPENVDB"
settings.cache_frame_start, settings.cache_frame_end = 1, FRAMES
bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=6, radius=0.5)
source = bpy.context.object
source.hide_render = True
modifier = source.modifiers.new("Fluid", "FLUID")
modifier.fluid_type = "FLOW"
modifier.flow_settings.flow_type = "SMOKE"
modifier.flow_settings.flow_behavior = "INFLOW"
modifier.flow_settings.temperature = 3
bpy.context.view_layer.objects.active = domain
# `bpy.ops` evaluates the scene first, when the solver is not ready.
_bpy.ops.call("fluid.bake_all", None, {})
save(folder + "/shot.blend")
sys.stdout.flush()
os._exit(0)
