"""Rows about simulations that are baked into the file, next to it or elsewhere, or not baked."""

import os
import shutil

from base import *
from things import finish, smoke

IN_ORDER = ["--in-order", "on"]


def cloth(size=1.6):
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=5, y_subdivisions=5, size=size)
    thing = bpy.context.object
    thing.data.materials.append(glow())
    thing.rotation_euler.x = 1.2
    return thing, thing.modifiers.new("Cloth", "CLOTH").point_cache


def bake(cache, thing):
    with bpy.context.temp_override(scene=scene(), active_object=thing, object=thing, point_cache=cache):
        bpy.ops.ptcache.bake(bake=True)


@row(frames="4")
def a_cloth_baked_into_the_file(folder):
    thing, cache = cloth()
    cache.frame_end = 4
    bake(cache, thing)


@row(frames="3")
def a_cloth_baked_beside_the_file(folder):
    save(folder + "/shot.blend")
    thing, cache = cloth()
    cache.frame_end = 4
    cache.use_disk_cache = True
    bake(cache, thing)
    at = folder + "/blendcache_shot"
    return {"without": ["blendcache_shot/" + name for name in sorted(os.listdir(at)) if "_000003_" in name]}


@row(frames="3", without=["points/cloth_000003_00.bphys"])
def a_cloth_with_an_external_cache(folder):
    save(folder + "/shot.blend")
    thing, cache = cloth()
    cache.frame_end = 4
    cache.name = "cloth"
    cache.use_disk_cache = True
    bake(cache, thing)
    os.rename(folder + "/blendcache_shot", folder + "/points")
    for name in sorted(os.listdir(folder + "/points")):
        os.rename(folder + "/points/" + name, folder + "/points/" + "cloth" + name[name.index("_0"):])
    cache.use_external = True
    cache.index = 0
    cache.filepath = "//points/"


def cloth_on_disk(folder, name="Grid", cache_name=""):
    save(folder + "/shot.blend")
    thing, cache = cloth()
    thing.name = name
    cache.frame_end, cache.name = 4, cache_name
    cache.use_disk_cache = True
    bake(cache, thing)
    at = folder + "/blendcache_shot"
    return {"without": ["blendcache_shot/" + name for name in sorted(os.listdir(at)) if "_000003_" in name]}


@row(frames="3")
def a_cloth_on_disk_of_a_name_with_a_slash(folder):
    return cloth_on_disk(folder, "set/cape")


@row(frames="3")
def a_cloth_on_disk_by_a_name_of_its_own(folder):
    return cloth_on_disk(folder, cache_name="my_cape")


@row(frames="4", refused="not baked")
def a_cloth_that_is_not_baked_drawn_alone(folder):
    cloth()[1].frame_end = 4


@row(frames=None, args=IN_ORDER, says=["one node draws the frames in order"])
def a_cloth_that_is_not_baked_drawn_in_order(folder):
    cloth()[1].frame_end = 4


def particles():
    thing = plane(glow(), 1)
    settings = thing.modifiers.new("P", "PARTICLE_SYSTEM").particle_system.settings
    settings.count, settings.frame_end, settings.lifetime = 30, 4, 20
    settings.render_type = "OBJECT"
    ball = plane(glow("Ball", (0, 1, 0)), 0.5, (9, 9, 9))
    settings.instance_object = ball
    settings.particle_size = 0.3
    settings.normal_factor = 3
    scene().camera.rotation_euler = (0.6, 0, 0)
    scene().camera.location = (0, -6, 8)
    return thing, thing.particle_systems[0].point_cache


@row(frames="4")
def particles_baked_into_the_file(folder):
    thing, cache = particles()
    cache.frame_end = 4
    bake(cache, thing)


@row(frames=None, args=IN_ORDER, says=["one node draws the frames in order"])
def particles_that_are_not_baked_drawn_in_order(folder):
    particles()


def simulation(target=None):
    """A square in a simulation zone that moves one step to the right with each frame."""
    thing = plane(glow(), 0.5, (-1, 0, 0))
    modifier, tree, sink = nodes_modifier(thing)
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    begin = tree.nodes.new("GeometryNodeSimulationInput")
    end = tree.nodes.new("GeometryNodeSimulationOutput")
    begin.pair_with_output(end)
    step = tree.nodes.new("GeometryNodeTransform")
    step.inputs["Translation"].default_value = (0.3, 0, 0)
    tree.links.new(tree.nodes.new("NodeGroupInput").outputs[0], begin.inputs["Geometry"])
    tree.links.new(begin.outputs["Geometry"], step.inputs["Geometry"])
    tree.links.new(step.outputs[0], end.inputs["Geometry"])
    tree.links.new(end.outputs["Geometry"], sink)
    if target:
        modifier.bake_target = target
    return thing, modifier


def bake_simulation(folder, thing, modifier):
    save(folder + "/shot.blend")
    scene().frame_set(1)
    bpy.ops.object.geometry_node_bake_single(
        session_uid=thing.session_uid, modifier_name=modifier.name, bake_id=modifier.bakes[0].bake_id
    )


@row(frames="3", since=(4, 5))
def a_simulation_baked_beside_the_file(folder):
    thing, modifier = simulation("DISK")
    bake_simulation(folder, thing, modifier)
    return {"without": metas(folder, "blendcache_shot")}


def metas(folder, below):
    """Returns the file that describes the geometry of the last frame but one, which is the frame that is drawn."""
    found = []
    for at, _, names in os.walk(os.path.join(folder, below)):
        found += [os.path.relpath(os.path.join(at, name), folder) for name in names if name.endswith(".json")]
    return [sorted(name for name in found if "/meta/" in name)[-2:][0]]


@row(frames="3", since=(4, 5))
def a_simulation_baked_to_a_folder_of_its_own(folder):
    thing, modifier = simulation("DISK")
    modifier.bake_directory = "//sim/one"
    bake_simulation(folder, thing, modifier)
    return {"without": metas(folder, "sim")}


@row(frames="4", since=(4, 5))
def a_simulation_packed_into_the_file(folder):
    bake_simulation(folder, *simulation("PACKED"))


@row(frames="4", since=(4, 5))
def a_bake_node(folder):
    """A Bake node stores a single frame. Without its bake it behaves as if it was never baked."""
    thing = plane(glow(), 0.5)
    modifier, tree, sink = nodes_modifier(thing)
    modifier.bake_target = "DISK"
    node = bake_node(tree)
    shape = tree.nodes.new("GeometryNodeMeshGrid")
    tree.links.new(shape.outputs[0], node.inputs[0])
    finish(tree, node.outputs[0], sink)
    save(folder + "/shot.blend")
    modifier.bakes[0].bake_mode = "STILL"
    bake_simulation(folder, thing, modifier)


@row(frames="4", since=(4, 5), refused="not baked")
def a_simulation_that_is_not_baked_drawn_alone(folder):
    simulation()


@row(frames=None, since=(4, 5), lenient=True, says=["as it was made", "a render does not simulate it"])
def a_simulation_that_is_not_baked_in_all_frames(folder):
    """Geometry nodes simulate during playback, not in a render."""
    simulation()


@row(frames="4")
def a_rigid_body_that_is_baked(folder):
    thing = plane(glow(), 0.5, (-0.5, 0.5, 0))
    thing.rotation_euler.y = 0.5
    scene().frame_end = 4
    bpy.context.view_layer.objects.active = thing
    bpy.ops.rigidbody.world_add()
    bpy.ops.rigidbody.object_add()
    scene().camera.rotation_euler.x = 1.2
    scene().camera.location = (0, -9, 3)
    world = scene().rigidbody_world
    world.time_scale = 3
    world.point_cache.frame_end = 4
    bake(world.point_cache, thing)


@row(frames=None, args=IN_ORDER, says=["one node draws the frames in order"])
def a_rigid_body_that_is_not_baked_drawn_in_order(folder):
    thing = plane(glow(), 0.5, (-0.5, 0.5, 0))
    bpy.context.view_layer.objects.active = thing
    bpy.ops.rigidbody.world_add()
    bpy.ops.rigidbody.object_add()
    scene().camera.rotation_euler.x = 1.2
    scene().camera.location = (0, -9, 3)
    scene().rigidbody_world.time_scale = 3


@row(frames="3")
def a_soft_body_that_is_baked(folder):
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=4, y_subdivisions=4, size=1.6)
    thing = bpy.context.object
    thing.data.materials.append(glow())
    thing.rotation_euler.x = 1.2
    cache = thing.modifiers.new("Soft", "SOFT_BODY").point_cache
    thing.soft_body.use_goal = False
    cache.frame_end = 4
    bake(cache, thing)


@row(frames="3")
def an_ocean(folder):
    bpy.ops.mesh.primitive_plane_add(size=1)
    thing = bpy.context.object
    thing.data.materials.append(glow())
    ocean = thing.modifiers.new("Ocean", "OCEAN")
    ocean.resolution = 4
    ocean.spatial_size = 3
    ocean.wave_scale = 3
    ocean.choppiness = 3
    ocean.time = 1
    ocean.keyframe_insert("time", frame=1)
    ocean.time = 3
    ocean.keyframe_insert("time", frame=4)


@row(frames="2")
def hair_that_grows_on_a_ball(folder):
    """The render has more child hairs than the viewport."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=8, ring_count=6, radius=0.6)
    thing = bpy.context.object
    thing.data.materials.append(glow())
    settings = thing.modifiers.new("Hair", "PARTICLE_SYSTEM").particle_system.settings
    settings.type, settings.count, settings.hair_length = "HAIR", 20, 0.5
    settings.child_type = "INTERPOLATED"
    settings.rendered_child_count = 10


@row(frames=None, until=(3, 4), lenient=True, says=["as it was made", "a render does not simulate it"])
def a_fluid_that_is_not_baked(folder):
    """The first frame has smoke, and leaves its cache beside the file; the solver crashes in newer modules."""
    # Else the cache lies in a folder of this process.
    save(folder + "/shot.blend")
    smoke()


@row(frames="1", until=(3, 4), saves=True, refused="a render does not simulate it")
def a_fluid_that_was_never_played(folder):
    """There is no cache, and a node's Blender cannot write one beside the file."""
    save(folder + "/shot.blend")
    _, settings = smoke()
    save(folder + "/shot.blend")
    shutil.rmtree(bpy.path.abspath(settings.cache_directory))


@row(frames="2", until=(3, 4), refused="a render does not simulate it")
def a_fluid_that_is_not_baked_drawn_alone(folder):
    save(folder + "/shot.blend")
    smoke()
