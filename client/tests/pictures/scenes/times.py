"""Rows about frames: what is drawn when, and that a warm Blender draws the same as a fresh one."""

from base import *


@row(frames="7,2,5,1,3")
def a_warm_blender(folder):
    warm(folder, False)


@row(frames="7,2,5")
def a_warm_blender_with_persistent_data(folder):
    warm(folder, True)


def warm(folder, persistent):
    """An animated seed, motion blur, hair, an image sequence, keyed visibility, camera markers and a driver."""
    made = empty(samples=4)
    made.frame_end = 8
    made.render.use_persistent_data = persistent
    made.cycles.use_animated_seed = True
    made.render.use_motion_blur = True
    image = load(pngs(folder + "/tex", "t_%04d.png", range(1, 9)))
    image.source = "SEQUENCE"
    material, node = glow(image=image)
    node.image_user.frame_duration = 8
    node.image_user.use_auto_refresh = True
    move(plane(material, 1, (-0.7, 0.5, 0)), index=1, low=-0.5, high=0.5, last=8)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=12, ring_count=8, radius=0.4, location=(0.7, 0, 0))
    ball = bpy.context.object
    ball.data.materials.append(glow("Ball", (0, 0, 1)))
    hair = ball.modifiers.new("Hair", "PARTICLE_SYSTEM").particle_system.settings
    hair.type, hair.count, hair.hair_length = "HAIR", 60, 0.4
    ball.modifiers.new("Wave", "WAVE")
    curve = bpy.data.curves.new("Words", "FONT")
    curve.body = "abc"
    curve.materials.append(glow("Words", (1, 1, 0)))
    words = bpy.data.objects.new("Words", curve)
    words.location = (-1.2, -0.8, 0)
    made.collection.objects.link(words)
    words.driver_add("location", 0).driver.expression = "-1.2+sin(frame/3)*0.5"
    blinks = plane(glow("Blinks", (0, 1, 1)), 0.5, (0.2, -0.7, 0.1))
    for frame, hidden in ((1, True), (3, False), (5, True), (7, False)):
        blinks.hide_render = hidden
        blinks.keyframe_insert("hide_render", frame=frame)
    markers()


def markers():
    made = scene()
    second = bpy.data.objects.new("Second", made.camera.data.copy())
    second.data.ortho_scale = 4
    second.location = (0, 0, 9)
    made.collection.objects.link(second)
    made.timeline_markers.new("first", frame=1).camera = made.camera
    made.timeline_markers.new("second", frame=5).camera = second


@row(frames="2,6")
def cameras_of_markers(folder):
    plane(glow(), 1)
    markers()


@row(frames="10,20")
def remapped_time(folder):
    move(plane(glow(), 0.5), first=1, last=20)
    scene().render.frame_map_old, scene().render.frame_map_new = 100, 200


@row(frames=None)
def frames_below_zero(folder):
    move(plane(glow(), 0.5), first=-3, last=1)
    scene().frame_start, scene().frame_end = -2, 0


@row(frames=None)
def every_third_frame(folder):
    move(plane(glow(), 0.5), first=1, last=9)
    scene().frame_start, scene().frame_end, scene().frame_step = 2, 8, 3


@row(frames="3")
def blurred_motion(folder):
    empty(samples=4)
    move(plane(glow(), 0.5))
    scene().render.use_motion_blur = True
    scene().render.motion_blur_shutter = 1.5


@row(frames="2,3")
def half_a_frame(folder):
    """Objects are evaluated at subframes."""
    move(plane(glow(), 0.5))
    scene().render.use_motion_blur = True
    scene().render.motion_blur_shutter = 0.5
    scene().frame_set(2, subframe=0.5)


@row(frames="1")
def a_view_layer_that_is_off(folder):
    plane(glow(), 1)
    off = scene().view_layers.new("Off")
    off.use = False


@row(frames="1")
def more_for_the_render_than_for_the_screen(folder):
    """Subdivision levels and child hairs."""
    bpy.ops.mesh.primitive_cube_add(size=1.5)
    cube = bpy.context.object
    cube.data.materials.append(glow())
    levels = cube.modifiers.new("S", "SUBSURF")
    levels.levels, levels.render_levels = 0, 3


@row(frames="1")
def a_name_of_many_letters(folder):
    plane(glow(), 1)
    scene().render.filepath = "//render/" + "n" * 200 + "_####"


@row(frames="1", since=(4, 5))
def a_name_by_a_template(folder):
    plane(glow(), 1)
    scene().render.filepath = "//render/{blend_name}_{resolution_x}_####"


@row(frames="1", refused="bad_token", since=(4, 5))
def a_template_that_is_wrong(folder):
    plane(glow(), 1)
    scene().render.filepath = "//render/{bad_token}_####"


@row(frames="1", refused="camera")
def no_camera(folder):
    plane(glow(), 1)
    bpy.data.objects.remove(scene().camera)


@row(frames="1", refused="DPX")
def a_format_that_cannot_be_checked(folder):
    plane(glow(), 1)
    settings = scene().render.image_settings
    settings.file_format = "DPX"


@row(frames="1", refused="Python")
def scripts_that_are_not_run(folder):
    """A driver that needs Python."""
    thing = plane(glow(), 1)
    thing.driver_add("location", 0).driver.expression = "__import__('math').sin(frame)"


@row(frames="1")
def words_of_a_script_that_are_only_kept(folder):
    """An unregistered text never runs in Blender, so it must not cause a warning."""
    plane(glow(), 1)
    bpy.data.texts.new("notes.py").write("raise SystemExit")


@row(frames="2,4", args=["--run-scripts"], scripts=True)
def scripts_that_run(folder):
    """A registered text moves an object with each frame."""
    plane(glow(), 0.5, name="Runner")
    text = bpy.data.texts.new("run.py")
    text.use_module = True
    text.write(
        "import bpy\n"
        "def move(scene, *_):\n"
        "    bpy.data.objects['Runner'].location.x = scene.frame_current * 0.2 - 0.6\n"
        "def register():\n"
        "    bpy.app.handlers.frame_change_pre.append(move)\n"
        "register()\n"
    )
