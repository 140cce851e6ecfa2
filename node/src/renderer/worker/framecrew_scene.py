"""Opens a file and keeps what must be known about it before it is changed for drawing."""

import os

import bpy

import framecrew_addons
from framecrew_bakes import unbaked_simulations
from framecrew_files import Files, absolute, is_asset, shown
from framecrew_outputs import take_file_outputs
from framecrew_settings import choose_denoising, choose_engine, choose_format, names, tame_stamps, tame_views
from framecrew_talk import TOLD_MAX, Permanent, first_line, warn


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
