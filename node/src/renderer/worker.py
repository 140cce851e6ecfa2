"""Draws frames inside Blender, one for each request, with the scene kept in memory.

Runs in the `blender` program (--python) and in a Python that has the `bpy` module. Requests are lines of JSON
on standard input; the first one is a token. Answers are lines of JSON on standard output, each after that token.
When standard input closes, whoever started us is gone, and so are we: at once, even in the middle of a frame.
"""

import gc
import json
import os
import queue
import sys
import threading
import time

import bpy

requests = queue.SimpleQueue()
token = sys.stdin.buffer.readline().decode().strip()

# Bytes that a pipe takes in one piece; longer answers are cut, so that nothing of Blender's gets between.
ANSWER_BYTES_MAX = 4096

# Formats that hold films: every frame would overwrite the same file.
MOVIES = {"FFMPEG", "AVI_JPEG", "AVI_RAW", "THEORA", "XVID", "H264", "FRAMESERVER"}

# Formats whose files the node can decode and so can accept.
IMAGES = {"PNG", "JPEG", "OPEN_EXR", "OPEN_EXR_MULTILAYER", "TIFF", "BMP", "TARGA", "TARGA_RAW", "WEBP", "HDR"}


class Permanent(Exception):
    """No try can succeed."""


def answer(kind, **fields):
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


def load(wanted):
    """Opens the file and applies the settings. Returns the scene to draw."""
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False
    try:
        bpy.ops.wm.open_mainfile(filepath=wanted["blend"], use_scripts=False)
    except RuntimeError as error:
        raise Permanent("Blender cannot open the file: %s" % first_line(error))

    scene = bpy.context.scene
    if wanted["scene"]:
        scene = bpy.data.scenes.get(wanted["scene"])
        if scene is None:
            raise Permanent("the file has no scene named %r; it has %s" % (wanted["scene"], names(bpy.data.scenes)))
    if wanted["camera"]:
        cameras = [thing for thing in scene.objects if thing.type == "CAMERA"]
        camera = next((camera for camera in cameras if camera.name == wanted["camera"]), None)
        if camera is None:
            raise Permanent("the scene has no camera named %r; it has %s" % (wanted["camera"], names(cameras)))
        scene.camera = camera
        # Markers would switch to their own.
        for marker in scene.timeline_markers:
            marker.camera = None

    choose_engine(scene, wanted["engine"])
    if wanted["samples"]:
        scene.eevee.taa_render_samples = wanted["samples"]
        if hasattr(scene, "cycles"):
            scene.cycles.samples = wanted["samples"]
    if wanted["scale_percent"]:
        scene.render.resolution_percentage = wanted["scale_percent"]
    choose_format(scene.render.image_settings, wanted["format"])
    choose_denoising(scene, wanted["denoise"])
    scene.render.use_file_extension = True
    scene.render.use_overwrite = True
    scene.render.use_placeholder = False
    tell_missing_files()
    return scene


def names(things):
    return ", ".join(repr(thing.name) for thing in things) or "none"


def first_line(error):
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


def choose_engine(scene, engine):
    if engine == "EEVEE":
        # The two generations never exist side by side in the versions that we can tell apart by trying.
        for name in ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE"):
            if try_set(scene.render, "engine", name):
                return
        raise Permanent("this Blender has no EEVEE")
    if engine and not try_set(scene.render, "engine", engine):
        raise Permanent("this Blender has no render engine %s" % engine)


def choose_format(image, wanted):
    before = image.file_format
    if hasattr(image, "media_type") and (wanted or image.media_type == "VIDEO"):
        image.media_type = "IMAGE"
    if wanted:
        image.file_format = wanted
    elif before in MOVIES:
        image.file_format = "PNG"
        note("The file's output is a film (%s); frames are written as PNG." % before)
    elif before not in IMAGES:
        image.file_format = "PNG"
        note("Frames are written as PNG, because %s cannot be checked." % before)
    if image.file_format.startswith("OPEN_EXR") and image.exr_codec in ("DWAA", "DWAB"):
        note("EXR is written with ZIP compression, because %s cannot be checked." % image.exr_codec)
        image.exr_codec = "ZIP"


def choose_denoising(scene, wanted):
    if not hasattr(scene, "cycles"):
        return
    if wanted is not None:
        scene.cycles.use_denoising = wanted
    if scene.render.engine == "CYCLES" and scene.cycles.use_denoising:
        import _cycles

        if not getattr(_cycles, "with_openimagedenoise", True) and scene.cycles.denoiser != "OPTIX":
            scene.cycles.use_denoising = False
            note("Warning: this Blender was built without a denoiser; the frames are drawn without denoising.")


def tell_missing_files():
    """Blender draws pink where an image is missing, and says nothing."""
    missing = [
        block.filepath
        for block in list(bpy.data.images) + list(bpy.data.libraries)
        if block.filepath
        and getattr(block, "source", "FILE") == "FILE"
        and not block.packed_file
        and not os.path.exists(bpy.path.abspath(block.filepath, library=block.library))
    ]
    for path in missing[:20]:
        note("Warning: %s is missing." % path)
    if len(missing) > 20:
        note("Warning: %d more files are missing." % (len(missing) - 20))


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


def draw(scene, frame, output):
    begun = time.monotonic()
    scene.render.filepath = output
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True, scene=scene.name)
    seconds = time.monotonic() - begun
    now, peak = memory()
    width, height = size(scene.render)
    answer("done", width=width, height=height, seconds=seconds, peak_memory_bytes=peak, memory_bytes=now)


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


def main():
    threading.Thread(target=read_requests, daemon=True).start()
    answer("ready", version=bpy.app.version_string)
    loaded, scene = None, None
    while True:
        request = requests.get()
        try:
            if request["load"] != loaded:
                loaded, scene = None, None
                answer("loading")
                scene = load(request["load"])
                loaded = request["load"]
                gc.collect()
            answer("drawing", scene=scene.name)
            draw(scene, request["frame"], request["output"])
        except Exception as error:
            loaded, scene = None, None
            reason, message = explain(error)
            answer("failed", reason=reason, message=message)


main()
