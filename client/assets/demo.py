"""Builds `demo.blend`, the scene that `framecrew demo` renders.

    blender --background --factory-startup --python client/assets/demo.py -- OUT.blend

A crew of three turns the 24 tiles of a wall, one with every frame, until a sunrise stands on it: what Framecrew does,
as a toy. Run it with Blender 3.4, so that 3.4 and everything newer opens the result.

The scene has to look good without a denoiser (some builds have none) after a second or two of rendering. So one sun
lights it, which is free of noise but for the rims of its shadows, and a plain sky, which is not sampled but found by
bouncing; nothing glows; most materials are purely matte; and the picture on the wall is an image, not shader nodes.
"""

import sys
from math import cos, hypot, pi, sin, tau

import bpy
from mathutils import Vector

FRAMES = 24
COLUMNS, ROWS = 6, 4
PITCH = 1.06  # Distance between the centres of neighbouring tiles, in metres; a tile is 1 m wide.
WALL_Z = 3.55  # Height of the wall's centre.
CREW_Y = -2.1  # How far in front of the wall the crew stands.
FLIGHT = 3  # Frames from a throw to the hit.
TURN = 3  # Frames that a tile takes to turn over.

CORAL, AMBER, TEAL = (0.83, 0.13, 0.09), (0.95, 0.45, 0.05), (0.02, 0.33, 0.36)
CREW = [CORAL, AMBER, TEAL]


# --- Materials -------------------------------------------------------------------------------------------------------


def lacquer(name, colour, roughness=0.42, coat=0.5):
    """A softly shining material."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*colour, 1)
    shader.inputs["Roughness"].default_value = roughness
    shader.inputs["Specular"].default_value = 0.35  # Called differently in newer versions.
    shader.inputs["Clearcoat"].default_value = coat
    return made


def matte(name, colour):
    """The cheapest material there is, for whatever fills much of the frame."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    nodes = made.node_tree.nodes
    nodes.remove(nodes["Principled BSDF"])
    shader = nodes.new("ShaderNodeBsdfDiffuse")
    shader.inputs["Color"].default_value = (*colour, 1)
    made.node_tree.links.new(shader.outputs[0], nodes["Material Output"].inputs["Surface"])
    return made


def mix(share, below, above):
    """The colour `share` of the way from `below` to `above`."""
    return tuple(b + (a - b) * share for b, a in zip(below, above))


def sunrise(x, z):
    """The picture's colour (linear), `x` and `z` metres from its centre."""
    stops = [
        (-1.30, (1.00, 0.60, 0.20)),
        (-0.20, (0.95, 0.26, 0.13)),
        (0.95, (0.45, 0.09, 0.22)),
        (2.20, (0.10, 0.06, 0.26)),
    ]
    colour = stops[0][1]
    for (low, below), (high, above) in zip(stops, stops[1:]):
        if z > low:
            colour = mix(min((z - low) / (high - low), 1), below, above)
    away = hypot(x - 0.75, z + 0.15)
    for radius, share in ((1.75, 0.16), (1.32, 0.28), (0.92, 1.0)):
        if away < radius:
            colour = mix(share, colour, (1.0, 0.80, 0.36))
    # Three ranges of hills, the nearest last.
    for base, swing, pace, shift, hill in (
        (-0.75, 0.34, 1.15, 0.4, (0.45, 0.10, 0.20)),
        (-1.20, 0.28, 1.55, 2.6, (0.17, 0.06, 0.20)),
        (-1.62, 0.22, 1.25, 4.4, (0.045, 0.035, 0.12)),
    ):
        if z < base + swing * sin(pace * x + shift):
            colour = hill
    return colour


def picture_material():
    """The sunrise as an image inside the .blend, 64 pixels a tile."""
    size = width, height = COLUMNS * 64, ROWS * 64
    image = bpy.data.images.new("Sunrise", *size)
    pixels = []
    for row in range(height):
        for column in range(width):
            x, z = (column + 0.5) / 64 - COLUMNS / 2, (row + 0.5) / 64 - ROWS / 2
            pixels += [channel ** (1 / 2.2) for channel in sunrise(x * PITCH, z * PITCH)] + [1.0]
    image.pixels.foreach_set(pixels)
    image.pack()
    made = matte("Sunrise", (0, 0, 0))
    tree = made.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = image
    tree.links.new(texture.outputs["Color"], tree.nodes["Diffuse BSDF"].inputs["Color"])
    return made


def paint_tile(tile, column, row, picture, edge):
    """Gives the back of a tile its part of the picture, upright once the tile has turned over about x."""
    tile.data.materials.append(picture)
    tile.data.materials.append(edge)
    layer = tile.data.uv_layers.active.data
    for face in tile.data.polygons:
        if face.normal.y > -0.9:
            face.material_index = 2
        if face.normal.y > 0.9:
            face.material_index = 1
            for corner in face.loop_indices:
                x, _, z = tile.data.vertices[tile.data.loops[corner].vertex_index].co
                layer[corner].uv = ((column + 0.5 + x) / COLUMNS, (row + 0.5 - z) / ROWS)


# --- Shapes ----------------------------------------------------------------------------------------------------------


def finish(thing, paint, parent=None, smooth=True):
    thing.data.materials.append(paint)
    thing.parent = parent
    for face in thing.data.polygons:
        face.use_smooth = smooth
    return thing


def block(name, size, place, paint, bevel=0.06, parent=None):
    """A box with round edges."""
    bpy.ops.mesh.primitive_cube_add(size=1, location=place)
    made = bpy.context.object
    made.name, made.scale = name, size
    bpy.ops.object.transform_apply(location=False, rotation=False, scale=True)
    edge = made.modifiers.new("Edge", "BEVEL")
    edge.width, edge.segments = bevel, 3
    bpy.ops.object.modifier_apply(modifier=edge.name)
    made.data.use_auto_smooth = True
    return finish(made, paint, parent)


def ball(name, radius, place, paint, parent=None, stretch=(1, 1, 1), detail=3):
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=detail, radius=radius, location=place)
    made = bpy.context.object
    made.name, made.scale = name, stretch
    return finish(made, paint, parent)


def ring(name, radius, thickness, place, paint, parent=None):
    bpy.ops.mesh.primitive_torus_add(
        major_radius=radius,
        minor_radius=thickness,
        major_segments=32,
        minor_segments=10,
        location=place,
        rotation=(pi / 2, 0, 0),
    )
    made = bpy.context.object
    made.name = name
    return finish(made, paint, parent)


def rod(name, radius, length, place, paint, parent=None):
    bpy.ops.mesh.primitive_cylinder_add(vertices=16, radius=radius, depth=length, location=place)
    made = bpy.context.object
    made.name = name
    return finish(made, paint, parent)


def lettering(text, size, place, paint):
    bpy.ops.object.text_add(location=place, rotation=(pi / 2, 0, 0))
    made = bpy.context.object
    made.data.body, made.data.size, made.data.extrude = text, size, 0.015
    made.data.align_x, made.data.align_y = "CENTER", "CENTER"
    made.data.space_character, made.data.resolution_u = 1.25, 3
    bpy.ops.object.convert(target="MESH")  # The built-in font differs between versions.
    made.name = text.title()
    return finish(made, paint, smooth=False)


def stage(paint):
    """A floor that curves up into a backdrop: no horizon."""
    profile = [(-14.0, 0.0), (4.0, 0.0)]
    profile += [(4.0 + 5 * sin(a), 5 - 5 * cos(a)) for a in (pi / 2 * step / 16 for step in range(1, 17))]
    profile += [(9.0, 22.0)]
    points = [(side, y, z) for y, z in profile for side in (-30.0, 30.0)]
    faces = [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(len(profile) - 1)]
    mesh = bpy.data.meshes.new("Stage")
    mesh.from_pydata(points, [], faces)
    made = bpy.data.objects.new("Stage", mesh)
    bpy.context.collection.objects.link(made)
    return finish(made, paint)


def member(name, colour, x):
    """One of the crew: a round body with a lens for an eye, on an empty that is animated."""
    bpy.ops.object.empty_add(location=(x, CREW_Y, 0))
    root = bpy.context.object
    root.name = name
    body = lacquer(name, colour)
    white = bpy.data.materials.get("White") or matte("White", (0.82, 0.80, 0.76))
    dark = bpy.data.materials.get("Dark") or lacquer("Dark", (0.012, 0.014, 0.025), roughness=0.2, coat=1.0)
    ball(f"{name} body", 0.52, (0, 0, 0.62), body, root, (1, 0.94, 1.12), detail=4)
    ring(f"{name} rim", 0.235, 0.06, (0, -0.42, 0.80), white, root)
    ball(f"{name} lens", 0.22, (0, -0.40, 0.80), dark, root, (1, 0.5, 1))
    ball(f"{name} glint", 0.055, (0.07, -0.505, 0.875), white, root, (1, 0.5, 1), detail=2)
    for side in (-1, 1):
        ball(f"{name} foot", 0.17, (0.23 * side, -0.06, 0.10), dark, root, (1, 1.3, 0.62))
        ball(f"{name} hand", 0.13, (0.60 * side, -0.12, 0.62), body, root)
    rod(f"{name} antenna", 0.022, 0.34, (0, 0, 1.32), dark, root)
    ball(f"{name} tip", 0.085, (0, 0, 1.50), white, root)
    return root


# --- The scene -------------------------------------------------------------------------------------------------------


def build(scene):
    stage(matte("Paper", (0.19, 0.36, 0.47)))
    film = matte("Film", (0.024, 0.028, 0.055))
    hole = matte("Hole", (0.62, 0.66, 0.66))
    cream = matte("Cream", (0.90, 0.70, 0.42))

    # The wall is one picture on a strip of film: a bar above, a bar below, both perforated.
    width, height = COLUMNS * PITCH, ROWS * PITCH
    block("Back", (width + 0.5, 0.14, height + 1.8), (0, 0.42, WALL_Z), film, 0.05)
    for sign in (-1, 1):
        bar = WALL_Z + sign * (height / 2 + 0.42)
        block("Bar", (width + 0.5, 0.62, 0.72), (0, 0.12, bar), film, 0.06)
        block("Side", (0.2, 0.62, height + 0.4), (sign * (width / 2 + 0.14), 0.12, WALL_Z), film, 0.06)
        for step in range(13):
            x = (step - 6) * 0.5
            if sign < 0 or abs(x) > 1.7:
                block("Perforation", (0.24, 0.04, 0.34), (x, -0.19, bar), hole, 0.018)
    lettering("FRAMECREW", 0.40, (0, -0.205, WALL_Z + height / 2 + 0.42), cream)
    for sign in (-1, 1):
        rod("Leg", 0.09, 1.4, (sign * 2.6, 0.15, 0.6), film)

    front, behind = matte("Tile", (0.70, 0.64, 0.55)), picture_material()
    tiles = {}
    for row in range(ROWS):
        for column in range(COLUMNS):
            place = ((column - (COLUMNS - 1) / 2) * PITCH, 0.02, WALL_Z + (row - (ROWS - 1) / 2) * PITCH)
            tiles[column, row] = block(f"Tile {column} {row}", (1, 0.16, 1), place, front, 0.045)
            paint_tile(tiles[column, row], column, row, behind, film)

    crew = [member(name, colour, x) for name, colour, x in zip(("Ada", "Bo", "Cy"), CREW, (-2.3, 0, 2.3))]
    balls = [ball(f"{root.name} throw", 0.19, (0, 0, 0), matte(f"{root.name} throw", mix(0.08, colour, (1, 1, 1))))
             for root, colour in zip(crew, CREW)]

    animate(tiles, crew, balls)
    light(scene)
    camera(scene)


def smoothstep(share):
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def hit_frame(turn):
    """Frame in which tile `turn` of the whole wall, from 0, is hit; it lies flat again TURN frames later."""
    return turn + 1 - TURN


def animate(tiles, crew, balls):
    # Each has two columns and fills them from below, left and right in turn.
    order = [(2 * who + (turn + who) % 2, turn // 2) for turn in range(2 * ROWS) for who in range(len(crew))]
    for frame in range(1, FRAMES + 1):
        for turn, spot in enumerate(order):
            tile = tiles[spot]
            share = smoothstep((frame - hit_frame(turn)) / TURN)
            tile.rotation_euler.x = pi * share
            tile.location.y = 0.02 - 0.55 * sin(pi * share)
            tile.keyframe_insert("rotation_euler", index=0, frame=frame)
            tile.keyframe_insert("location", index=1, frame=frame)
        for who, (root, thrown) in enumerate(zip(crew, balls)):
            # A member throws every third frame; between throws it lands and gathers itself.
            beat = (frame - who) % len(crew)
            phase = beat / len(crew)
            hop = (0.0, 0.62, 0.34)[beat]
            squash = (0.86, 1.10, 1.02)[beat]
            root.location.z = hop
            root.scale = (1 / squash**0.5, 1 / squash**0.5, squash)
            root.rotation_euler.z = 0.30 * sin(tau * (frame / FRAMES + who / 3)) - root.location.x * 0.06
            root.rotation_euler.y = 0.10 * sin(tau * phase + who)
            for path in ("location", "scale", "rotation_euler"):
                root.keyframe_insert(path, frame=frame)
            # The throw that lands next, on its way from over the head to the tile.
            turn = next((t for t in range(who, len(order), len(crew)) if hit_frame(t) >= frame), None)
            share = 1.0 if turn is None else 1 - (hit_frame(turn) - frame) / FLIGHT
            thrown.scale = (0, 0, 0) if turn is None else (1, 1, 1)
            if turn is not None:
                start = Vector((root.location.x, CREW_Y, 1.75 + hop))
                end = Vector(tiles[order[turn]].location)
                end.y = -0.25
                thrown.location = start.lerp(end, share)
                thrown.location.z += 0.9 * sin(pi * share)
            thrown.keyframe_insert("location", frame=frame)
            thrown.keyframe_insert("scale", frame=frame)


def light(scene):
    bpy.ops.object.light_add(type="SUN", rotation=(0.80, -0.10, -0.62))
    sun = bpy.context.object
    sun.name, sun.data.energy, sun.data.angle, sun.data.color = "Sun", 3.6, 0.05, (1.0, 0.87, 0.70)

    sky = scene.world or bpy.data.worlds.new("Sky")
    scene.world, sky.use_nodes = sky, True
    background = sky.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = (0.50, 0.66, 0.95, 1)
    background.inputs["Strength"].default_value = 0.62
    sky.cycles.sampling_method = "NONE"


def camera(scene):
    """Glides from low on the left to the right, always looking at the wall."""
    bpy.ops.object.empty_add()
    target = bpy.context.object
    target.name = "Target"
    bpy.ops.object.camera_add()
    made = bpy.context.object
    made.name, made.data.lens = "Camera", 40
    aim = made.constraints.new("TRACK_TO")
    aim.target, aim.track_axis, aim.up_axis = target, "TRACK_NEGATIVE_Z", "UP_Y"
    for frame in range(1, FRAMES + 1):
        share = smoothstep((frame - 1) / (FRAMES - 1))
        angle = -0.50 + 0.72 * share
        distance = 15.7 - 0.9 * share
        made.location = (distance * sin(angle), -distance * cos(angle), 1.5 + 2.0 * share)
        target.location = (0.0, -0.8, 3.0)
        made.keyframe_insert("location", frame=frame)
        target.keyframe_insert("location", frame=frame)
    scene.camera = made


def settings(scene):
    scene.frame_start, scene.frame_end, scene.frame_step = 1, FRAMES, 1
    render = scene.render
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y, render.resolution_percentage = 480, 270, 100
    render.fps = 12
    render.filepath = "//framecrew-####"
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    render.use_persistent_data = True
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples, cycles.use_adaptive_sampling = 12, False
    cycles.use_denoising = False
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 2, 2, 1
    cycles.transmission_bounces = cycles.transparent_max_bounces = 0
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.blur_glossy, cycles.sample_clamp_indirect = 1.0, 2.0
    scene.view_settings.view_transform = "Standard"


def main():
    out = sys.argv[sys.argv.index("--") + 1]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.name = "Demo"
    build(scene)
    settings(scene)
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=out, compress=True)


main()
