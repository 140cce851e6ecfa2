"""Draws frames, one by one or as an animation, and previews of them."""

import os
import re
import shutil
import sys
import time

import bpy

from framecrew_outputs import place_file_outputs, promised, wanted_name
from framecrew_scene import find_blocked_scripts
from framecrew_settings import set_format
from framecrew_talk import TOLD_MAX, answer, explain, first_line, note, requests, warn


def memory():
    """Bytes this process uses now and has used at most since the node last reset that; 0: unknown."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmRSS"].split()[0]) << 10, int(lines["VmHWM"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, everyone else in kilobytes.
    peak = peak if sys.platform == "darwin" else peak << 10
    return peak, peak


def render(scene):
    """Draws the scene's frame range, as the command line does.

    `bpy.ops` would evaluate the scene for the viewport before and after. Simulations share their caches with the
    render, so the result would differ from `blender -b FILE -f N`.
    """
    options = {"animation": True}
    if scene != bpy.context.scene:
        options["scene"] = scene.name
    arguments = ["render.render", options, "EXEC_DEFAULT", False]
    if bpy.app.version < (4, 0, 0):
        arguments.insert(1, None)
    try:
        import _bpy

        _bpy.ops.call(*arguments)
    except (AttributeError, TypeError):
        # This Blender has different internals.
        warn("blender", "simulations without a cache may differ: this Blender renders in another way than earlier ones")
        bpy.ops.render.render(**options)


def begin_frame(loaded, frame, folder, stem, in_sequence=False):
    """Announces what the frame will write, and directs it into `folder`."""
    scene = loaded.scene
    name = wanted_name(loaded, frame)
    # Blender fills in the frame's number, as in `stem`.
    scene.render.filepath = os.path.join(folder, "####")
    place_file_outputs(loaded, folder)
    loaded.tell()
    warn_of_frame(loaded.files.missing_at(frame))
    for unbaked in loaded.simulations:
        text = unbaked.warning(frame, in_sequence)
        if text:
            warn("unbaked", text)
    answer("named", name=name)
    for file, width, height in promised(scene, stem):
        channels = 1 if scene.render.image_settings.color_mode == "BW" else 3
        answer("image", file=file, width=width, height=height, channels=channels)


def end_frame(loaded, begun):
    warn_of_nodes(loaded.scene)
    if not loaded.drawn:
        # By now drivers have been evaluated. Before the first frame nothing else may evaluate them.
        known = len(loaded.warnings)
        find_blocked_scripts(loaded)
        loaded.drawn = True
        for kind, text in loaded.warnings[known:]:
            warn(kind, text)
    now, peak = memory()
    seconds = time.monotonic() - begun
    answer("done", seconds=seconds, peak_memory_bytes=peak, memory_bytes=now)


def warn_of_nodes(scene):
    """Reports the errors of geometry nodes, which are known after their evaluation (from 4.3 on)."""
    for thing in scene.objects:
        for modifier in thing.modifiers if not thing.hide_render else ():
            for said in getattr(modifier, "node_warnings", ()) if modifier.show_render else ():
                if said.type == "ERROR":
                    kind = "incomplete" if re.search(r"\b(Import|files?)\b", said.message) else "blender"
                    warn(kind, "%r of %r: %s" % (modifier.name, thing.name, said.message))


def warn_of_frame(texts):
    for text in texts[:TOLD_MAX]:
        warn("missing_file", text)
    if len(texts) > TOLD_MAX:
        warn("missing_file", "%d more like that" % (len(texts) - TOLD_MAX))


def draw(loaded, frame, folder, stem):
    """Draws the same as `blender -b FILE -f N`."""
    scene = loaded.scene
    begun = time.monotonic()
    begin_frame(loaded, frame, folder, stem)
    if frame < 0:
        # An animation cannot begin at a negative frame.
        scene.render.filepath = os.path.join(folder, stem)
        scene.frame_set(frame)
        bpy.ops.render.render(write_still=True, scene=scene.name)
    else:
        own = scene.frame_start, scene.frame_end, scene.frame_step

        def restore(*_):
            scene.frame_start, scene.frame_end, scene.frame_step = own

        # Once the animation has begun, the scene gets its own range back, because simulations depend on it.
        scene.frame_start = scene.frame_end = frame
        bpy.app.handlers.render_init.insert(0, restore)
        try:
            render(scene)
        finally:
            bpy.app.handlers.render_init.remove(restore)
            restore()
    end_frame(loaded, begun)


class Animation:
    """Draws a range of frames like `blender -b FILE -s FIRST -e LAST -j STEP -a`, where each frame continues from
    the memory state of the one before. Between frames Blender waits, within its animation, for the request for
    another frame. It draws frames that nobody requests with minimal quality and discards them."""

    def __init__(self, loaded, wanted):
        self.loaded = loaded
        self.scene = loaded.scene
        self.wanted = wanted
        self.span = wanted["span"]
        self.begun = time.monotonic()
        self.over = False
        self.efforts = self.own_efforts()

    def draw(self):
        self.begin()
        first = self.span["first"]
        self.scene.frame_start, self.scene.frame_end, self.scene.frame_step = (
            first,
            self.span["last"],
            self.span["step"],
        )
        self.make_effort(first)
        bpy.app.handlers.render_write.append(self.wrote)
        try:
            render(self.scene)
        finally:
            bpy.app.handlers.render_write.remove(self.wrote)
        if not self.over:
            raise RuntimeError("Blender ended the animation before frame %d" % self.wanted["frame"])

    def begin(self):
        wanted = self.wanted
        begin_frame(self.loaded, wanted["frame"], wanted["folder"], wanted["stem"], in_sequence=True)

    def wrote(self, *_):
        """A handler. Blender prints exceptions raised here and continues."""
        try:
            self.take(self.scene.frame_current)
        except BaseException as error:
            answer("failed", reason="renderer", message=explain(error)[1])
            os._exit(1)

    def take(self, frame):
        wanted = self.wanted
        if frame != wanted["frame"]:
            throw_away(wanted["folder"])
            answer("passed", frame=frame)
        else:
            end_frame(self.loaded, self.begun)
            self.over = frame + self.span["step"] > self.span["last"]
            if not self.over:
                self.wait_for_more(frame)
        self.make_effort(frame + self.span["step"])

    def wait_for_more(self, frame):
        while True:
            wanted = requests.get()
            if "develop" in wanted:
                develop(self.loaded, wanted["develop"]["from"], wanted["develop"]["to"])
                continue
            same = wanted.get("load") == self.wanted["load"] and wanted.get("span") == self.span
            if not same or wanted["frame"] <= frame:
                raise RuntimeError("the frame is not one of those that follow")
            self.wanted = wanted
            self.begun = time.monotonic()
            answer("drawing", scene=self.scene.name)
            self.begin()
            return

    def own_efforts(self):
        """Settings that make a frame expensive and do not affect the next one: owner, name, own value, minimum."""
        scene = self.scene
        efforts = [(scene.eevee, "taa_render_samples", 1), (scene.display, "render_aa", "OFF")]
        cycles = getattr(scene, "cycles", None)
        if cycles:
            efforts += [(cycles, "samples", 1), (cycles, "use_denoising", False)]
        return [(owner, name, getattr(owner, name), least) for owner, name, least in efforts]

    def make_effort(self, frame):
        is_wanted = frame == self.wanted["frame"]
        for owner, name, own, least in self.efforts:
            value = own if is_wanted else least
            if getattr(owner, name) != value:
                setattr(owner, name, value)


def throw_away(folder):
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def develop(loaded, source, target):
    """Writes a small linear EXR as a PNG that looks as the scene looks on a screen."""
    settings = loaded.scene.render.image_settings
    names = ("media_type", "file_format", "color_mode", "color_depth", "compression", "views_format")
    before = [(name, getattr(settings, name)) for name in names if hasattr(settings, name)]
    image = None
    try:
        image = bpy.data.images.load(source)
        set_format(settings, "PNG")
        settings.color_mode, settings.color_depth, settings.compression = "RGB", "8", 0
        image.save_render(target, scene=loaded.scene)
    except Exception as error:
        note("no preview: %s" % first_line(error))
    finally:
        if image:
            bpy.data.images.remove(image)
        for name, value in before:
            if value:
                setattr(settings, name, value)
    answer("developed")
