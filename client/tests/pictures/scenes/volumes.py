"""Bakes volumes: volumes.py -- FOLDER. The modules of Blender 4.5 and 5.0 cannot create OpenVDB files otherwise."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from base import *

folder = sys.argv[-1]
empty()
scene().frame_end = 3
save(folder + "/shot.blend")
thing = plane(size=1)
modifier, tree, sink = nodes_modifier(thing)
modifier.bake_target = "DISK"
node = bake_node(tree)
shape = tree.nodes.new("GeometryNodeVolumeCube")
for axis in ("X", "Y", "Z"):
    shape.inputs["Resolution " + axis].default_value = 6
time = tree.nodes.new("GeometryNodeInputSceneTime")
scale = tree.nodes.new("ShaderNodeMath")
scale.operation = "MULTIPLY"
scale.inputs[1].default_value = 0.5
tree.links.new(time.outputs["Frame"], scale.inputs[0])
tree.links.new(scale.outputs[0], shape.inputs["Max"])
tree.links.new(shape.outputs[0], node.inputs[0])
tree.links.new(node.outputs[0], sink)
save(folder + "/shot.blend")
modifier.bakes[0].bake_mode = "ANIMATION"
scene().frame_set(1)
bpy.ops.object.geometry_node_bake_single(
    session_uid=thing.session_uid, modifier_name=modifier.name, bake_id=modifier.bakes[0].bake_id
)
sys.stdout.flush()
os._exit(0)
