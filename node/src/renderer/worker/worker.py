"""Draws frames inside Blender, one for each request, with the scene kept in memory.

Runs in the `blender` program (--python) and in a Python that has the `bpy` module. Requests are lines of JSON
on standard input; the first one is a token. Answers are lines of JSON on standard output, each after that token.
When standard input closes, whoever started us is gone, and so are we: at once, even in the middle of a frame.
"""

import gc
import json
import os
import queue
import re
import shutil
import sys
import threading
import time

import bpy

# The modules are next to this file, where Blender does not look by default.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import framecrew_addons
from framecrew_bakes import unbaked_simulations
from framecrew_files import Files, absolute, draws_itself, is_asset, scenes_at, shown

requests = queue.SimpleQueue()
token = sys.stdin.buffer.readline().decode().strip()

# Bytes that a pipe takes in one piece; longer answers are cut, so that nothing of Blender's gets between.
ANSWER_BYTES_MAX = 4096

# Formats that hold movies: every frame would overwrite the same file.
MOVIES = {"FFMPEG", "AVI_JPEG", "AVI_RAW", "THEORA", "XVID", "H264", "FRAMESERVER"}

# Formats whose files the node can decode and so can accept.
IMAGES = {"PNG", "JPEG", "OPEN_EXR", "OPEN_EXR_MULTILAYER", "TIFF", "BMP", "TARGA", "TARGA_RAW", "WEBP", "HDR"}

# Bits of a channel that some format has.
COLOR_DEPTHS = ("8", "10", "12", "16", "32")

EEVEE = ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE")

# Warnings of one kind that are told one by one; the rest is counted.
TOLD_MAX = 10

DENOISER_MISSING = (
    "this Blender was built without a denoiser: frames are drawn without denoising; --blender asks for another version"
)


class Permanent(Exception):
    """No try can succeed."""


def answer(kind, /, **fields):
    line = encode(kind, fields)
    while len(line) > ANSWER_BYTES_MAX:
        # How many bytes its characters take is only known once they are written.
        longest = max(fields, key=lambda name: len(str(fields[name])))
        fields[longest] = fields[longest][: len(fields[longest]) * 9 // 10]
        line = encode(kind, fields)
    sys.stdout.flush()
    os.write(1, line)


def encode(kind, fields):
    # Names that are no UTF-8 come as halves of characters, which others do not read.
    fields = {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }
    # The line break before it ends whatever Blender has left unfinished.
    return ("\n@%s %s\n" % (token, json.dumps({kind: fields}))).encode()


def note(text):
    answer("note", text=text)


def read_requests():
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    os._exit(0)


class Loaded:
    """A scene in memory, and what must be known about its file before it is changed for drawing."""

    def __init__(self, scene):
        self.scene = scene
        self.output_path = scene.render.filepath
        self.file_outputs = []
        self.files = None
        self.simulations = []
        self.warnings = []
        self.drawn = False

    def warn(self, kind, text):
        """A warning about every frame; told again with each, for the batch that it belongs to."""
        if (kind, text) not in self.warnings:
            self.warnings.append((kind, text))

    def warn_of_all(self, kind, texts):
        for text in texts[:TOLD_MAX]:
            self.warn(kind, text)
        if len(texts) > TOLD_MAX:
            self.warn(kind, "%d more like that" % (len(texts) - TOLD_MAX))

    def tell(self):
        for kind, text in self.warnings:
            warn(kind, text)


def warn(kind, text):
    answer("warning", kind=kind, text=text)


def load(wanted):
    """Opens the file and applies the settings. Returns the scene to draw."""
    scripts = wanted["scripts"]
    try:
        framecrew_addons.install(wanted.get("addons", ()))
    except framecrew_addons.Refused as error:
        raise Permanent(str(error)) from error
    bpy.context.preferences.filepaths.use_scripts_auto_execute = scripts
    try:
        bpy.ops.wm.open_mainfile(filepath=wanted["blend"], use_scripts=scripts)
    except RuntimeError as error:
        raise Permanent("Blender cannot open the file: %s" % first_line(error))

    scene = bpy.context.scene
    if wanted["scene"]:
        scene = bpy.data.scenes.get(wanted["scene"])
        if scene is None:
            raise Permanent("the file has no scene named %r; it has %s" % (wanted["scene"], names(bpy.data.scenes)))
    loaded = Loaded(scene)
    if wanted["camera"]:
        cameras = [thing for thing in scene.objects if thing.type == "CAMERA"]
        camera = next((camera for camera in cameras if camera.name == wanted["camera"]), None)
        if camera is None:
            raise Permanent("the scene has no camera named %r; it has %s" % (wanted["camera"], names(cameras)))
        scene.camera = camera
        # Markers would switch to their own.
        for marker in scene.timeline_markers:
            marker.camera = None
    if wanted["view_layer"]:
        layers = scene.view_layers
        if wanted["view_layer"] not in layers:
            raise Permanent("the scene has no view layer named %r; it has %s" % (wanted["view_layer"], names(layers)))
        for layer in layers:
            layer.use = layer.name == wanted["view_layer"]

    choose_engine(loaded, wanted["engine"])
    if wanted["samples"]:
        scene.eevee.taa_render_samples = wanted["samples"]
        if hasattr(scene, "cycles"):
            scene.cycles.samples = wanted["samples"]
    if wanted["scale_percent"]:
        scene.render.resolution_percentage = wanted["scale_percent"]
    choose_format(loaded, scene.render.image_settings, wanted["format"], wanted["color_depth"], "frames are")
    choose_denoising(loaded, wanted["denoise"])
    scene.render.use_file_extension = True
    scene.render.use_overwrite = True
    scene.render.use_placeholder = False
    tame_stamps()
    loaded.file_outputs = take_file_outputs(loaded)
    loaded.simulations = unbaked_simulations(scene)
    find_missing(loaded)
    # Only now: images of several views have these suffixes, too.
    tame_views()
    for text in framecrew_addons.missing_of(scene, loaded.files.read):
        loaded.warn("addon", text)
    return loaded


def names(things):
    return ", ".join(repr(thing.name) for thing in things) or "none"


def first_line(error):
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


def choose_engine(loaded, engine):
    render = loaded.scene.render
    if engine == "EEVEE":
        # The two generations never exist side by side in the versions that we can tell apart by trying.
        if not any(try_set(render, "engine", name) for name in EEVEE):
            raise Permanent("this Blender has no EEVEE")
    elif engine and not try_set(render, "engine", engine):
        raise Permanent("this Blender has no render engine %s" % engine)
    elif not engine and bpy.data.version < (2, 80, 0) and render.engine in EEVEE:
        # EEVEE is younger than the file: Blender has replaced the engine, and says nothing.
        version = "%d.%d" % bpy.data.version[:2]
        loaded.warn(
            "engine",
            "the file was saved by Blender %s for its internal engine, which no longer exists: "
            "EEVEE draws it, and lights and materials differ" % version,
        )


def choose_format(loaded, image, wanted, depth, what):
    """Settles on a format that the node can check. Depth, compression and quality are the file's."""
    before = image.file_format
    if wanted:
        if not set_format(image, wanted):
            raise Permanent("this Blender cannot write %s" % wanted)
    elif before in MOVIES:
        set_format(image, "PNG")
        # No warning: frames of a movie are what was asked for.
        note("%s written as PNG, because the file's output is a movie (%s)" % (what, before))
    elif not before:
        # Only movies' codecs of old have no name any more.
        set_format(image, "PNG")
        note("%s written as PNG, because this Blender no longer has the file's format" % what)
    elif before not in IMAGES:
        set_format(image, "PNG")
        loaded.warn("format", "%s written as PNG, because %s cannot be checked" % (what, before))
    if depth and not try_set(image, "color_depth", str(depth)):
        has = [bits for bits in COLOR_DEPTHS if try_set(image, "color_depth", bits)]
        has = " or ".join(has)
        raise Permanent("%s has no colour depth of %d bits; it has %s" % (image.file_format, depth, has))
    # It may have been chosen for another format.
    if image.views_format not in ("INDIVIDUAL", "STEREO_3D") and not image.file_format.startswith("OPEN_EXR"):
        image.views_format = "INDIVIDUAL"


def set_format(image, wanted):
    # From 5.0 on a format is one of its medium's.
    if hasattr(image, "media_type"):
        image.media_type = "MULTI_LAYER_IMAGE" if wanted == "OPEN_EXR_MULTILAYER" else "IMAGE"
    return try_set(image, "file_format", wanted)


def choose_denoising(loaded, wanted):
    scene = loaded.scene
    if not hasattr(scene, "cycles"):
        return
    if wanted is not None:
        scene.cycles.use_denoising = wanted
    import _cycles

    if getattr(_cycles, "with_openimagedenoise", True):
        return
    for shown, _ in scenes_at(scene, None):
        is_denoised = shown.cycles.use_denoising and shown.cycles.denoiser != "OPTIX"
        if is_denoised and shown.render.engine == "CYCLES" and (shown != scene or draws_itself(shown)):
            shown.cycles.use_denoising = False
            loaded.warn("denoiser", DENOISER_MISSING)


def tame_stamps():
    """Makes the metadata that Blender writes into or with a picture the same on every node.

    The path of the .blend would be that of the node's layout, and the host name that of the node. If the path is
    burnt in, the file's own name replaces it, as a line of the note."""
    name = os.path.basename(bpy.data.filepath)
    for scene in bpy.data.scenes:
        render = scene.render
        if render.use_stamp and render.use_stamp_filename:
            line = "File %s" % name if render.use_stamp_labels else name
            note = render.stamp_note_text if render.use_stamp_note else ""
            render.stamp_note_text = line + "\n" + note if note else line
            render.use_stamp_note = True
        render.use_stamp_filename = False
        render.use_stamp_hostname = False


def tame_views():
    """The suffixes of views become part of paths, and each must have its own."""
    for scene in bpy.data.scenes:
        taken = set()
        for number, view in enumerate(scene.render.views):
            suffix = "".join(c if c.isalnum() or c in "_-." else "_" for c in view.file_suffix)[:40]
            if suffix.lower() in taken:
                suffix += "_%d" % number
            taken.add(suffix.lower())
            view.file_suffix = suffix


def take_file_outputs(loaded):
    """Finds every File Output node, in groups and in other scenes too: strips may draw those. Names its slots so
    that no path of the file's is ever written to. Returns, for each, what the file says."""
    trees = [tree for tree in bpy.data.node_groups if tree.bl_idname == "CompositorNodeTree"]
    trees += [scene.node_tree for scene in bpy.data.scenes if getattr(scene, "node_tree", None)]
    found = []
    for tree in dict.fromkeys(trees):
        for node in tree.nodes:
            if node.bl_idname == "CompositorNodeOutputFile":
                found.append(take_file_output(loaded, node))
    return found


def take_file_output(loaded, node):
    what = "what %r writes is" % node.name
    choose_format(loaded, node.format, None, None, what)
    layered = node.format.file_format == "OPEN_EXR_MULTILAYER"
    modern = hasattr(node, "file_output_items")
    if modern:
        base, stem, slots = node.directory, node.file_name, node.file_output_items
        own, path = "override_node_format", "name"
    else:
        base, stem, slots = node.base_path, "", node.file_slots
        own, path = "use_node_format", "path"
    paths, prefixes = [], []
    if layered:
        if not modern:
            base, stem = os.path.split(base.replace("\\", "/"))
        paths.append(stem)
        prefixes.append("s")
    else:
        for number, slot in enumerate(slots):
            if getattr(slot, own) == modern:
                choose_format(loaded, slot.format, None, None, what)
            # From 5.0 on a slot's name is not a path.
            name = getattr(slot, path)
            paths.append(stem + name.replace("/", "_") if modern else name)
            setattr(slot, path, "s%d_" % number)
        # Read after all are set: Blender keeps them distinct.
        prefixes = [getattr(slot, path) for slot in slots]
    return node, layered, base, list(zip(prefixes, paths))


def expanded(loaded, node, path):
    """Fills in the templates in a path of a File Output node (`{blend_name}`, from 4.5 on) with Blender itself.
    Returns `None` if Blender does not know one of them."""
    render = loaded.scene.render
    if "{" not in path and "}" not in path or bpy.app.version < (4, 5, 0):
        return path
    # Blender would replace `#` by the frame's number, and slashes by the folder of the .blend.
    stand_ins = {"#": "\x01", "/": "\x02", "\\": "\x03"}
    path = path.replace("{node_name}", node.name)
    for sign, stand_in in stand_ins.items():
        path = path.replace(sign, stand_in)
    before, extension = render.filepath, render.use_file_extension
    try:
        render.filepath, render.use_file_extension = "/" + path + "####", False
        path = render.frame_path(frame=0)[1:-4]
    except RuntimeError:
        return None
    finally:
        render.filepath, render.use_file_extension = before, extension
    for sign, stand_in in stand_ins.items():
        path = path.replace(stand_in, sign)
    return path


def place_file_outputs(loaded, folder):
    """Sends what File Output nodes write into the frame's folder, and tells the node how to name it."""
    for number, (node, layered, base, slots) in enumerate(loaded.file_outputs):
        place = "n%d" % number
        path = os.path.join(folder, place)
        if hasattr(node, "file_output_items"):
            node.directory = path
            node.file_name = "s" if layered else ""
        else:
            node.base_path = os.path.join(path, "s") if layered else path
        base = expanded(loaded, node, base)
        for prefix, wanted in slots:
            wanted = expanded(loaded, node, wanted)
            if base is None or wanted is None:
                loaded.warn(
                    "incomplete", "%r uses a template that Blender does not know, and writes no file" % node.name
                )
                node.mute = True
            else:
                answer("file_output", folder=place, prefix=prefix, base=base, node=node.name, path=wanted)


def find_missing(loaded):
    """Blender draws pink or nothing where a file is missing, and mostly says nothing."""
    for library in bpy.data.libraries:
        parent = library.parent
        path = absolute(library.filepath)
        if not library.packed_file and not is_asset(path) and library.users_id and not os.path.exists(path):
            by = " (linked by %s)" % shown(parent.filepath) if parent else ""
            text = "the library %s%s is missing: what comes from it is not drawn"
            loaded.warn("missing_library", text % (shown(library.filepath), by))

    loaded.files = Files(loaded.scene)
    loaded.warn_of_all("missing_file", loaded.files.missing_ever())


def node_trees():
    owners = [bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes]
    trees = [getattr(owner, "node_tree", None) for blocks in owners for owner in blocks]
    return list(dict.fromkeys([tree for tree in trees if tree] + list(bpy.data.node_groups)))


def find_blocked_scripts(loaded):
    """What Python the file has that was not run. Drivers are known only once they were to be evaluated."""
    if not bpy.app.autoexec_fail:
        return
    texts = [text.name for text in bpy.data.texts if text.use_module and text.name.endswith(".py")]
    if texts:
        listed = ", ".join(repr(name) for name in texts[:3])
        loaded.warn("script_blocked", "Python in text blocks was not run (%s): --run-scripts runs it" % listed)
    drivers = list(blocked_drivers())
    if drivers:
        text = "Python in drivers was not run, like %s (%d in all): --run-scripts runs it"
        loaded.warn("script_blocked", text % (drivers[0], len(drivers)))
    if not texts and not drivers:
        loaded.warn("script_blocked", "Python was not run: %s" % first_line(bpy.app.autoexec_fail_message))


def blocked_drivers():
    blocks = set(node_trees())
    for collection in bpy.data.bl_rna.properties:
        if collection.type == "COLLECTION":
            blocks.update(getattr(bpy.data, collection.identifier))
    for block in blocks:
        animation = getattr(block, "animation_data", None)
        for curve in animation.drivers if animation else ():
            driver = curve.driver
            if driver.type == "SCRIPTED" and not driver.is_valid and not driver.is_simple_expression:
                yield "%r of %r" % (driver.expression, block.name)


def try_set(thing, name, value):
    try:
        setattr(thing, name, value)
        return True
    except TypeError:
        return False


def size(render):
    """Width and height in pixels that the output will have, by Blender's own arithmetic."""
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    if render.use_border and render.use_crop_to_border:
        width, height = (
            int(single(high) * size) - int(single(low) * size)
            for low, high, size in (
                (render.border_min_x, render.border_max_x, width),
                (render.border_min_y, render.border_max_y, height),
            )
        )
    return width, height


def single(number):
    import struct

    return struct.unpack("f", struct.pack("f", number))[0]


def promised(scene, stem):
    """The files that Blender will write for the scene's own output: name, width, height."""
    render, image = scene.render, scene.render.image_settings
    width, height = size(render)
    suffixes = [""]
    if render.use_multiview and image.views_format == "INDIVIDUAL":
        views = render.stereo_views if render.views_format == "STEREO_3D" else render.views
        suffixes = [view.file_suffix for view in views if view.use]
    elif render.use_multiview and image.views_format == "STEREO_3D":
        stereo = image.stereo_3d_format
        if not stereo.use_squeezed_frame:
            width *= 2 if stereo.display_mode == "SIDEBYSIDE" else 1
            height *= 2 if stereo.display_mode == "TOPBOTTOM" else 1
    return [(stem + suffix + render.file_extension, width, height) for suffix in suffixes]


def wanted_name(loaded, frame):
    """How Blender would name the frame's file, without its extension; empty: it would not."""
    render = loaded.scene.render
    render.filepath = loaded.output_path
    try:
        path = render.frame_path(frame=frame)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:500]
        raise Permanent("Blender refuses the output path %r: %s" % (loaded.output_path, said)) from error
    name = os.path.basename(path.replace("\\", "/"))
    extension = render.file_extension
    return name[: -len(extension)] if extension and name.endswith(extension) else name


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


def soundtrack(scene, span, target):
    """Tells the scene's frame rate, and writes its sound between two frames where it has any."""
    sound, delay = False, 0
    # Blender's scenes begin at frame 0 at the earliest.
    if span and span[1] >= 0 and has_sound(scene, set()):
        before = scene.frame_start, scene.frame_end
        scene.frame_start, scene.frame_end = max(span[0], 0), span[1]
        delay = scene.frame_start - span[0]
        try:
            with bpy.context.temp_override(scene=scene):
                bpy.ops.sound.mixdown(filepath=target, container="FLAC", codec="FLAC", format="S16")
            sound = os.path.exists(target)
        except Exception as error:
            note("Warning: the scene's sound cannot be mixed, and the movie has none: %s" % first_line(error))
        scene.frame_start, scene.frame_end = before
    answer("soundtrack", fps=scene.render.fps, fps_base=scene.render.fps_base, sound=sound, delay_frames=delay)


def has_sound(scene, seen):
    if scene in seen:
        return False
    seen.add(scene)
    if any(thing.type == "SPEAKER" and thing.data.sound and not thing.data.muted for thing in scene.objects):
        return True
    editor = scene.sequence_editor
    strips = getattr(editor, "strips_all", None) or getattr(editor, "sequences_all", ())
    return any(
        not strip.mute and (strip.type == "SOUND" or strip.type == "SCENE" and strip.scene and has_sound(strip.scene, seen))
        for strip in strips
    )


def explain(error):
    text = str(error).strip()
    if isinstance(error, Permanent):
        return "permanent", text
    lines = [line for line in text.splitlines() if line.strip()]
    # Reports come as "Error: …", the decisive one last.
    said = lines[-1][:500] if lines else type(error).__name__
    if "no camera" in text.lower():
        return "permanent", "the scene has no camera"
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "out_of_memory", said
    return "renderer", said


def flush_blender():
    """Flushes what Blender has printed so far, so that it precedes the next answer."""
    try:
        import ctypes

        ctypes.CDLL(None).fflush(None)
    except (ImportError, OSError, TypeError):
        # If the C library cannot be loaded this way, the lines arrive later.
        pass


@bpy.app.handlers.persistent
def print_progress(text, *_):
    """A handler. Prints the progress that Blender from 5.0 on only prints at log level "info"."""
    if isinstance(text, str):
        print("00:00.000  render           | Fra: 0 | %s" % text, flush=True)


def main():
    if bpy.app.version >= (5, 0, 0):
        bpy.app.handlers.render_stats.append(print_progress)
    threading.Thread(target=read_requests, daemon=True).start()
    # Output about the startup scene does not concern the job.
    flush_blender()
    answer("ready", version=bpy.app.version_string)
    request, loaded = None, None
    while True:
        wanted = requests.get()
        try:
            if "develop" in wanted:
                develop(loaded, wanted["develop"]["from"], wanted["develop"]["to"])
                continue
            span = wanted.get("span")
            # A simulation keeps state from earlier frames, but each frame must be as in a new Blender.
            is_used = loaded and loaded.drawn and "frame" in wanted and (span or loaded.simulations)
            if wanted["load"] != request or is_used:
                request, loaded = None, None
                answer("loading")
                loaded = load(wanted["load"])
                request = wanted["load"]
                gc.collect()
            if "soundtrack" in wanted:
                soundtrack(loaded.scene, wanted["soundtrack"]["span"], wanted["soundtrack"]["to"])
                continue
            answer("drawing", scene=loaded.scene.name)
            if span:
                Animation(loaded, wanted).draw()
                # Its scene can still develop previews.
                request = None
            else:
                draw(loaded, wanted["frame"], wanted["folder"], wanted["stem"])
        except Exception as error:
            request, loaded = None, None
            reason, message = explain(error)
            answer("failed", reason=reason, message=message)


main()
