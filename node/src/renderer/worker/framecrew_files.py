"""Finds the files that a render of a scene reads and that are missing, for all frames and for a single frame.

If a file is missing, Blender draws pink or nothing, and usually does not report it. The numbers in sequences are
computed as in Blender.
"""

import math
import os
import re

import bpy

# Blender's own folder of assets. Files name it as it was on the machine where they were saved, but need nothing of
# it.
ASSETS = "/datafiles/assets/"

# The beginning of a file that only stands in for an image.
STAND_IN = b"version https://git-lfs"

# Windows paths: a drive or a share. Blender on other systems finds neither.
FOREIGN = re.compile(r"[A-Za-z]:[\\/]|\\\\")

# Ends of the types of geometry nodes that read a file.
IMPORTS = ("OBJ", "PLY", "STL", "CSV", "Text", "VDB")

# Maximum nesting of scenes in strips, and of groups in groups.
NESTING_MAX = 16


def absolute(path, library=None):
    """Returns where Blender looks for a path that is stored in the file or in a library."""
    if not path:
        return ""
    if FOREIGN.match(path) and os.name != "nt":
        path = path.replace("\\", "/")
        # Blender treats a drive as a folder.
        return os.path.normpath("/" + path[0].lower() + path[2:]) if path[1] == ":" else path
    return os.path.normpath(bpy.path.abspath(path, library=library))


def shown(path, library=None):
    """Returns a path for people: as stored if it is a Windows path, otherwise relative to the .blend."""
    if FOREIGN.match(path):
        # Blender changes the slashes of some paths.
        return path.replace("/", "\\")
    path = absolute(path, library)
    try:
        path = os.path.relpath(path, os.path.dirname(bpy.data.filepath))
    except ValueError:
        # The path is on another drive.
        pass
    return path.replace("\\", "/")


def is_asset(path):
    return ASSETS in path.replace("\\", "/")


def strips_of(scene):
    """Returns the strips of a scene that are shown, including those in meta strips."""
    return [strip for strip, is_shown in all_strips(scene) if is_shown]


def all_strips(scene):
    """Returns the strips of a scene, and whether each is shown."""
    editor = scene.sequence_editor
    found = []

    def collect(holder, is_shown):
        muted = {number for number, channel in enumerate(getattr(holder, "channels", ())) if channel.mute}
        for strip in holder.strips if hasattr(holder, "strips") else holder.sequences:
            shows = is_shown and not strip.mute and strip.channel not in muted
            found.append((strip, shows))
            if strip.type == "META":
                collect(strip, shows)

    if editor:
        collect(editor, scene.render.use_sequencer)
    return found


def laid_out(scene):
    """Returns the objects in the view layers that a scene draws, including objects that are hidden themselves."""
    found = {}

    def collect(layer):
        if layer.collection.hide_render:
            return
        if not layer.exclude:
            found.update(dict.fromkeys(layer.collection.objects))
        for child in layer.children:
            collect(child)

    for layer in scene.view_layers:
        if layer.use:
            collect(layer.layer_collection)
    waiting = list(found)
    while waiting:
        thing = waiting.pop()
        instanced = thing.instance_collection if thing.instance_type == "COLLECTION" else None
        for inside in instanced.all_objects if instanced else ():
            if inside not in found:
                found[inside] = None
                waiting.append(inside)
    return list(found)


def trees_of(blocks):
    """Returns the node trees that data-blocks use: groups and embedded trees."""
    return [tree for tree in dict.fromkeys(tree_of(block) for block in blocks) if tree]


def tree_of(block):
    if isinstance(block, bpy.types.NodeTree):
        return block
    if isinstance(block, bpy.types.Scene):
        return compositor(block)
    # Modifiers have trees too, but are not data-blocks.
    return getattr(block, "node_tree", None) if getattr(block, "use_nodes", True) else None


def collections_of_data():
    for collection in bpy.data.bl_rna.properties:
        if collection.type == "COLLECTION":
            yield getattr(bpy.data, collection.identifier)


class Uses:
    """Which data-blocks use which others."""

    def __init__(self):
        self.users = bpy.data.user_map()
        self.used = {}
        for block, users in self.users.items():
            for user in users:
                self.used.setdefault(user, set()).add(block)
        self.found = {}
        self.laid_out = {thing for scene in bpy.data.scenes for thing in laid_out(scene)}

    def of(self, scene):
        """Returns the data-blocks that a render of this scene reads, without those of other scenes."""
        if scene not in self.found:
            found, waiting = {scene}, [scene]
            while waiting:
                for block in self.read_by(waiting.pop()):
                    if block not in found:
                        found.add(block)
                        waiting.append(block)
            self.found[scene] = found
        return self.found[scene]

    def read_by(self, block):
        types = bpy.types
        if isinstance(block, (types.Brush, types.Screen, types.WorkSpace, types.WindowManager, types.Library)):
            return ()
        apart = (types.Scene, types.Brush)
        if isinstance(block, types.Object) and block.type == "EMPTY" or isinstance(block, types.Camera):
            # Background images of cameras and images of empties are only for the viewport.
            apart += (types.Image, types.MovieClip)
        if isinstance(block, types.Object) and self.is_hidden(block):
            return ()
        idle = idle_in(block)
        return (used for used in self.used.get(block, ()) if used not in idle and not isinstance(used, apart))

    def is_hidden(self, thing):
        """Whether an object appears in no picture, neither by itself nor as the shape of another object."""
        if thing.animation_data or not (thing.hide_render or thing not in self.laid_out):
            return False
        holders, waiting = set(), [thing]
        while waiting:
            for user in self.users.get(waiting.pop(), ()):
                if not isinstance(user, (bpy.types.Scene, bpy.types.Collection)):
                    return False
                if user not in holders:
                    holders.add(user)
                    waiting += [user] if isinstance(user, bpy.types.Collection) else []
        return True


def idle_in(block):
    """Returns the images, clips and the like that a data-block refers to, and that its render does not read."""
    idle = set()
    # The original of an override.
    if block.override_library:
        idle.add(block.override_library.reference)
    if isinstance(block, bpy.types.Scene):
        paint = block.tool_settings.image_paint
        idle |= {paint.canvas, paint.stencil_image, paint.clone_image}
    tree = block if isinstance(block, bpy.types.NodeTree) else getattr(block, "node_tree", None)
    if isinstance(tree, bpy.types.NodeTree):
        shown = set()
        for node in tree.nodes:
            its = {getattr(node, name, None) for name in ("image", "clip", "texture")}
            is_shown = tree_of(block) and not node.mute and is_linked(node)
            (shown if is_shown else idle).update(its)
        idle -= shown
    return idle - {None}


def is_linked(node):
    """Whether something reads what a node gives."""
    return not node.outputs or any(output.is_linked for output in node.outputs)


def scenes_at(scene, frame, depth=0):
    """Returns the scenes that a frame shows, each with its own frame, or with `None` if the frame is not known."""
    yield scene, frame
    if depth == NESTING_MAX:
        return
    others = [node.scene for tree in trees_of([scene]) for node in tree.nodes if is_layers(node)]
    others.append(scene.background_set)
    for other in dict.fromkeys(others):
        if other and other != scene:
            yield other, frame
    for strip in strips_of(scene):
        if strip.type == "SCENE" and strip.scene and strip.scene != scene:
            inside = None
            if frame is not None and strip.frame_final_start <= frame < strip.frame_final_end:
                cut = getattr(strip, "animation_offset_start", 0)
                inside = strip.scene.frame_start + frame - int(strip.frame_start) + cut
            yield from scenes_at(strip.scene, inside, depth + 1)


def compositor(scene):
    """Returns the scene's tree of compositing nodes, which is a group from 5.0 on."""
    if not scene.render.use_compositing:
        return None
    if hasattr(scene, "compositing_node_group"):
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def draws_itself(scene):
    """Whether a render draws the objects of a scene, rather than only strips or other pictures."""
    editor = scene.sequence_editor
    cut = getattr(editor, "strips", None) or getattr(editor, "sequences", ())
    if scene.render.use_sequencer and any(strip.type != "SOUND" and not strip.mute for strip in cut):
        return False
    tree = compositor(scene)
    return tree is None or any(is_layers(node) and not node.mute and node.scene in (None, scene) for node in tree.nodes)


def is_layers(node):
    return node.bl_idname == "CompositorNodeRLayers"


def sequence_path(path, number):
    """Returns the path with another number. It replaces the last digits of the name before the extension."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    found = re.search(r"([0-9]*)([^0-9]*)$", stem)
    digits, rest = found.groups()
    number = max(0, number)
    if not digits:
        # In this case Blender appends the number if it is not 0.
        return os.path.join(folder, "%s%s%s" % (stem, number or "", extension))
    return os.path.join(folder, "%s%0*d%s%s" % (stem[: found.start()], len(digits), number, rest, extension))


def numbered_path(path, number):
    """Does the same for a number directly before the extension. Returns `None` if there is none."""
    stem, extension = os.path.splitext(path)
    digits = len(stem) - len(stem.rstrip("0123456789"))
    return "%s%0*d%s" % (stem[:-digits], digits, number, extension) if digits else None


def at_frame(owner, name, frame):
    """Returns the value that a setting has at a frame, or `None` if a driver or the like decides."""
    block = owner.id_data
    animation = getattr(block, "animation_data", None)
    value = getattr(owner, name)
    if not animation:
        return value
    path = name if owner == block else "%s.%s" % (owner.path_from_id(), name)
    if any(curve.data_path == path for curve in animation.drivers) or len(animation.nla_tracks):
        return None
    for curve in curves_of(animation):
        if curve.data_path == path and not curve.mute:
            # As Blender does for whole numbers.
            return int(math.floor(curve.evaluate(frame) + 0.5))
    return value


def curves_of(animation):
    action = animation.action
    if not action:
        return ()
    if hasattr(action, "fcurves"):
        return action.fcurves
    # From 5.0 on, in layers.
    strips = [strip for layer in action.layers for strip in layer.strips]
    bags = [strip.channelbag(animation.action_slot) for strip in strips if animation.action_slot]
    return [curve for bag in bags if bag for curve in bag.fcurves]


def image_number(user, frame):
    """Returns the number of the file that an image user shows, or `None`."""
    names = ("frame_duration", "frame_start", "frame_offset")
    length, start, offset = (at_frame(user, name, frame) for name in names)
    if not length or start is None or offset is None:
        return None
    number = frame - start + 1
    if user.use_cyclic:
        number = (number - 1) % length + 1
    # A number below 0 counts as 0, as in `sequence_path`.
    return max(0, max(0, min(number, length)) + offset)


def volume_number(volume, frame):
    """Returns the number of the file that a volume shows, or `None`."""
    names = ("frame_duration", "frame_start", "frame_offset")
    length, start, offset = (at_frame(volume, name, frame) for name in names)
    if not length or start is None or offset is None:
        return None
    number = frame - start + 1
    if volume.sequence_mode == "CLIP":
        if not 1 <= number <= length:
            return None
    elif volume.sequence_mode == "EXTEND":
        number = max(1, min(number, length))
    elif volume.sequence_mode == "REPEAT":
        number = (number - 1) % length + 1
    else:
        there_and_back = max(1, 2 * length - 2)
        number = (number - 1) % there_and_back + 1
        if number > length:
            number = 2 * length - number
    return number + offset


class Files:
    """The files that a scene's render reads, and which of them are missing."""

    def __init__(self, scene):
        self.scene = scene
        self.uses = Uses()
        self.read = set()
        for shown_scene, _ in scenes_at(scene, None):
            self.read |= self.uses.of(shown_scene)

    def missing_at(self, frame):
        """Describes the files that are missing at a frame, computed as in Blender."""
        found = {}
        for scene, inside in scenes_at(self.scene, frame):
            if inside is not None:
                for path, library in self.needed_at(scene, inside):
                    if path and not os.path.exists(absolute(path, library)):
                        text = "%s, which frame %d needs, is missing" % (shown(path, library), frame)
                        found.setdefault(text)
        return sorted(found)

    def needed_at(self, scene, frame):
        """Yields the files of sequences that a scene reads at a frame, each with the library that names it."""
        blocks = self.uses.of(scene)
        for tree in trees_of(blocks):
            for node in tree.nodes:
                yield from needed_by_node(node, frame)
        for block in blocks:
            if isinstance(block, bpy.types.Texture) and getattr(block, "image", None):
                yield from needed_of_image(block.image, image_number(block.image_user, frame))
            elif isinstance(block, bpy.types.Volume) and block.is_sequence and not block.packed_file:
                number = volume_number(block, frame)
                if number is not None:
                    yield numbered_path(block.filepath, number), block.library
            elif isinstance(block, bpy.types.CacheFile) and block.is_sequence:
                number = int(block.frame if block.override_frame else frame)
                yield numbered_path(block.filepath, number), block.library
        for thing in laid_out(scene):
            for modifier in thing.modifiers if not thing.hide_render else ():
                if modifier.show_render:
                    yield from ((path, thing.library) for path in needed_by_modifier(modifier, frame))
        for strip in strips_of(scene):
            if strip.frame_final_start <= frame < strip.frame_final_end:
                yield from needed_by_strip(strip, frame, scene.library)

    def missing_ever(self):
        """Describes the files that are missing at every frame, sorted."""
        texts, known = {}, set()

        def need(path, library, read=True):
            at = absolute(path, library)
            known.add(at)
            if read and path and not is_asset(at) and not os.path.exists(at):
                texts.setdefault("%s is missing" % shown(path, library))

        for image in bpy.data.images:
            known.add(absolute(image.filepath, image.library))
            if image in self.read and is_of_files(image):
                for text in missing_of_image(image, self.scene):
                    texts.setdefault(text)
        for font in bpy.data.fonts:
            if font.filepath != "<builtin>":
                need(font.filepath, font.library, font in self.read and not font.packed_file)
        for sound in bpy.data.sounds:
            need(sound.filepath, sound.library, sound in self.read and not sound.packed_file)
        for clip in bpy.data.movieclips:
            need(clip.filepath, clip.library, clip.source == "MOVIE" and clip in self.read)
        for volume in bpy.data.volumes:
            once = volume in self.read and not volume.packed_file and not volume.is_sequence
            need(volume.filepath, volume.library, once)
        for cache in bpy.data.cache_files:
            need(cache.filepath, cache.library, cache in self.read and not cache.is_sequence)
            for layer in getattr(cache, "layers", ()):
                need(layer.filepath, cache.library, cache in self.read and not layer.hide_layer)
        for scene in bpy.data.scenes:
            for strip, is_shown in all_strips(scene):
                if strip.type == "MOVIE":
                    need(strip.filepath, scene.library, is_shown and scene in self.read)
                elif strip.type == "IMAGE":
                    folder = absolute(strip.directory, scene.library)
                    known.update(os.path.join(folder, element.filename) for element in strip.elements)
        for thing in bpy.data.objects:
            for path, read in files_of_object(thing):
                need(path, thing.library, read and thing in self.read)
        read = set(trees_of(self.read))
        for tree in all_trees():
            for path, used in files_of_nodes(tree):
                need(path, tree.library, used and tree in read)
        for path, library in imported_by_modifiers(self.read):
            need(path, library)
        known |= self.never_read()
        for path in bpy.utils.blend_paths(absolute=True, packed=False, local=False):
            if os.path.normpath(path) not in known and not FOREIGN.match(path):
                need(path, None)
        return sorted(texts)

    def never_read(self):
        """Returns the paths that Blender lists but no render reads."""
        known = set()
        for text in bpy.data.texts:
            known.add(absolute(text.filepath, text.library))
        for blocks in collections_of_data():
            for block in blocks:
                # The file that the data-block was appended or pasted from.
                origin = getattr(block, "library_weak_reference", None)
                if origin:
                    known.add(absolute(origin.filepath, block.library))
        for library in bpy.data.libraries:
            known.add(absolute(library.filepath, library.library))
        return known


def is_of_files(image):
    return image.source in ("FILE", "SEQUENCE", "MOVIE", "TILED") and not image.packed_file


def missing_of_image(image, scene):
    path = absolute(image.filepath, image.library)
    if not path:
        return []
    if image.source == "TILED":
        paths = [tile_path(image.filepath, tile.number) for tile in image.tiles]
    elif image.source == "SEQUENCE":
        # The files of a sequence are checked for each frame.
        paths = [] if os.path.isdir(os.path.dirname(path)) else [image.filepath]
    else:
        paths = [image.filepath]
    texts = []
    for path in paths:
        at = absolute(path, image.library)
        if is_asset(at) or has_views(image, at, scene):
            continue
        if not os.path.exists(at):
            texts.append("%s is missing" % shown(path, image.library))
        elif image.source == "FILE" and stands_in(at):
            label = shown(path, image.library)
            texts.append("%s is not an image: it is empty, or only a Git LFS pointer" % label)
    return texts


def has_views(image, path, scene):
    """Whether each view has its own file, so that no file has the name that the image stores."""
    if image.views_format != "INDIVIDUAL" or not (image.is_multiview or getattr(image, "use_multiview", False)):
        return False
    stem, extension = os.path.splitext(path)
    return any(os.path.exists(stem + view.file_suffix + extension) for view in scene.render.views)


def stands_in(path):
    try:
        with open(path, "rb") as file:
            start = file.read(len(STAND_IN))
    except OSError:
        return False
    return not start or start == STAND_IN


def tile_path(path, number):
    u, v = (number - 1001) % 10 + 1, (number - 1001) // 10 + 1
    return path.replace("<UDIM>", str(number)).replace("<UVTILE>", "u%d_v%d" % (u, v))


def needed_of_image(image, number):
    if isinstance(image, bpy.types.Image) and image.source == "SEQUENCE" and number is not None and is_of_files(image):
        # If all of them are missing, that was already reported.
        if os.path.isdir(os.path.dirname(absolute(image.filepath, image.library))):
            yield sequence_path(image.filepath, number), image.library


def needed_by_node(node, frame):
    if node.mute:
        return
    if node.bl_idname == "GeometryNodeImageTexture":
        image, number = node.inputs["Image"], node.inputs["Frame"]
        from_time = number.is_linked and number.links[0].from_node.bl_idname == "GeometryNodeInputSceneTime"
        if from_time and number.links[0].from_socket.name == "Frame":
            number = frame
        else:
            number = None if number.is_linked else number.default_value
        if not is_linked(node):
            return
        if not image.is_linked:
            yield from needed_of_image(image.default_value, number)
        elif image.links[0].from_node.bl_idname == "GeometryNodeInputImage":
            yield from needed_of_image(image.links[0].from_node.image, number)
    elif node.bl_idname == "CompositorNodeMovieClip":
        if node.clip and node.clip.source == "SEQUENCE" and is_linked(node):
            yield clip_path(node.clip, frame), node.clip.library
    elif isinstance(getattr(node, "image", None), bpy.types.Image) and is_linked(node):
        # In the compositor the node itself has these settings; an input of geometry nodes has none.
        user = getattr(node, "image_user", node)
        if hasattr(user, "frame_duration"):
            yield from needed_of_image(node.image, image_number(user, frame))


def needed_by_modifier(modifier, frame):
    """Yields the file of a bake that a frame reads."""
    if modifier.type == "OCEAN" and modifier.is_cached:
        number = min(max(frame, modifier.frame_start), modifier.frame_end)
        yield os.path.join(modifier.filepath, "disp_%04d.exr" % number)
    elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
        domain = modifier.domain_settings
        is_within = domain.cache_frame_start <= frame <= domain.cache_frame_end
        if domain.has_cache_baked_data and not domain.cache_frame_offset and is_within:
            # Without OpenVDB each grid has a file of its own, and so have particles.
            uni = "density_%04d.uni" if domain.domain_type == "GAS" else "pp_%04d.uni"
            name = "fluid_data_%04d.vdb" if domain.cache_data_format == "OPENVDB" else uni
            yield os.path.join(domain.cache_directory, "data", name % frame)


def clip_path(clip, frame):
    """Returns the file of a clip at a frame; `None` before its first file and after its last, where a clip shows nothing.
    The path of the clip names the first file."""
    stem = os.path.splitext(os.path.basename(clip.filepath.replace("\\", "/")))[0]
    first = re.findall(r"[0-9]+", stem)
    if not first:
        return clip.filepath
    number = max(0, int(first[-1]) + frame - clip.frame_start + clip.frame_offset)
    path = sequence_path(clip.filepath, number)
    if os.path.exists(absolute(path, clip.library)):
        return path
    there = numbers_there(absolute(clip.filepath, clip.library))
    return path if not there or min(there) <= number <= max(there) else None


def numbers_there(path):
    """Returns the numbers of the existing files of a sequence."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    head, tail = re.search(r"^(.*?)[0-9]*([^0-9]*)$", stem, re.DOTALL).groups()
    of_it = re.compile(re.escape(head) + "([0-9]+)" + re.escape(tail + extension))
    try:
        found = [of_it.fullmatch(other) for other in os.listdir(folder)]
    except OSError:
        return []
    return [int(match.group(1)) for match in found if match]


def needed_by_strip(strip, frame, library):
    if strip.type == "IMAGE":
        element = strip.strip_elem_from_frame(frame)
        if element:
            yield os.path.join(strip.directory, element.filename), library
    elif strip.type == "MOVIECLIP" and getattr(strip, "clip", None) and strip.clip.source == "SEQUENCE":
        # Before 4.0 Python is not told which clip it is.
        inside = frame - int(strip.frame_start) + strip.clip.frame_start + strip.animation_offset_start
        yield clip_path(strip.clip, inside), strip.clip.library


def files_of_object(thing):
    """Yields the files of an object's modifiers and caches, and whether a render reads them."""
    for modifier in thing.modifiers:
        used = modifier.show_render
        if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
            # A fluid without this folder is not baked, which is reported elsewhere.
            yield modifier.domain_settings.cache_directory, False
        elif modifier.type == "MESH_CACHE":
            yield modifier.filepath, used
        elif modifier.type == "OCEAN":
            # The path is a folder, which is only used after a bake.
            yield modifier.filepath, used and modifier.is_cached
        elif modifier.type == "MULTIRES":
            yield modifier.filepath, used and modifier.is_external
        for cache in point_caches(modifier):
            # If the cache is not external, the path is a leftover.
            yield cache.filepath, used and cache.use_external


def point_caches(modifier):
    if modifier.type in ("CLOTH", "SOFT_BODY"):
        yield modifier.point_cache
    elif modifier.type == "PARTICLE_SYSTEM":
        yield modifier.particle_system.point_cache
    elif modifier.type == "DYNAMIC_PAINT" and modifier.canvas_settings:
        for surface in modifier.canvas_settings.canvas_surfaces:
            yield surface.point_cache


def all_trees():
    owners = [bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes, bpy.data.textures]
    embedded = [getattr(owner, "node_tree", None) for blocks in owners for owner in blocks]
    return dict.fromkeys([tree for tree in embedded if tree] + list(bpy.data.node_groups))


def files_of_nodes(tree):
    """Yields the files that a tree's nodes name, and whether the nodes are in use."""
    for node in tree.nodes:
        if node.bl_idname in ("ShaderNodeTexIES", "ShaderNodeScript") and node.mode == "EXTERNAL":
            yield node.filepath, not node.mute


def is_import(node):
    return node.bl_idname.startswith("GeometryNodeImport") and node.bl_idname.endswith(IMPORTS)


def has_imports(tree, known):
    """Whether a node of the tree, or of a group in it, reads a file. `known` caches the answers."""
    if tree not in known:
        known[tree] = False
        groups = (getattr(node, "node_tree", None) for node in tree.nodes)
        known[tree] = any(map(is_import, tree.nodes)) or any(has_imports(group, known) for group in groups if group)
    return known[tree]


def imported_by_modifiers(blocks):
    """Yields the paths that a modifier's inputs pass to nodes that read a file."""
    known = {}
    for thing in blocks:
        for modifier in getattr(thing, "modifiers", ()) if isinstance(thing, bpy.types.Object) else ():
            tree = modifier.node_group if modifier.type == "NODES" and modifier.show_render else None
            if tree and has_imports(tree, known):
                values = {
                    item.identifier: modifier.get(item.identifier)
                    for item in getattr(getattr(tree, "interface", None), "items_tree", ())
                    if item.item_type == "SOCKET" and item.socket_type == "NodeSocketString"
                }
                yield from imported_by(tree, values, known, 0)


def imported_by(tree, values, known, depth):
    """Follows a tree's string inputs to the nodes that read the file with that path."""
    if depth == NESTING_MAX:
        return
    for node in tree.nodes:
        inside = getattr(node, "node_tree", None)
        if node.mute or not (is_import(node) or inside and has_imports(inside, known)):
            continue
        given = {socket.identifier: value_of(socket, values) for socket in node.inputs if socket.type == "STRING"}
        if inside:
            yield from imported_by(inside, given, known, depth + 1)
            continue
        # The path is the first string. The delimiter of a CSV node is a string too.
        path = next(iter(given.values()), None)
        if isinstance(path, str) and path:
            yield path, tree.library


def value_of(socket, values):
    """Returns the value of a string socket, or `None` if it is not known."""
    if not socket.is_linked:
        return socket.default_value
    link = socket.links[0]
    return values.get(link.from_socket.identifier) if link.from_node.bl_idname == "NodeGroupInput" else None
