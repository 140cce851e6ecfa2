"""Applies a job's settings to a scene, and makes what Blender writes the same on every node."""

import os

import bpy

from framecrew_files import draws_itself, scenes_at
from framecrew_talk import Permanent, note

# Formats that hold movies: every frame would overwrite the same file.
MOVIES = {"FFMPEG", "AVI_JPEG", "AVI_RAW", "THEORA", "XVID", "H264", "FRAMESERVER"}

# Formats whose files the node can decode and so can accept.
IMAGES = {"PNG", "JPEG", "OPEN_EXR", "OPEN_EXR_MULTILAYER", "TIFF", "BMP", "TARGA", "TARGA_RAW", "WEBP", "HDR"}

# Bits of a channel that some format has.
COLOR_DEPTHS = ("8", "10", "12", "16", "32")
EEVEE = ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE")
DENOISER_MISSING = (
    "this Blender was built without a denoiser: frames are drawn without denoising; --blender asks for another version"
)


def names(things):
    return ", ".join(repr(thing.name) for thing in things) or "none"


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


def try_set(thing, name, value):
    try:
        setattr(thing, name, value)
        return True
    except TypeError:
        return False
