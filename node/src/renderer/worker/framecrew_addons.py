"""Installs the add-ons and extensions of a job, for this process only."""

import ast
import os
import re
import sys
import zipfile

import addon_utils
import bpy

# Maximum size and number of files of an unpacked add-on. The largest known ones have some hundred megabytes.
BYTES_MAX = 2 << 30
FILES_MAX = 50_000

MANIFEST = "blender_manifest.toml"

# Kinds of node trees that renderers read.
OWN_TREES = ("ShaderNodeTree", "CompositorNodeTree", "GeometryNodeTree", "TextureNodeTree")

installed = set()


class Refused(Exception):
    """Raised with the reason if the add-on cannot be used."""


def install(paths):
    """Installs and enables each .zip that is not installed yet."""
    for path in paths:
        if path not in installed:
            try:
                install_one(path)
            except (Refused, OSError, zipfile.BadZipFile, UnicodeError) as error:
                raise Refused("the add-on %s cannot be used: %s" % (os.path.basename(path), error)) from error
            installed.add(path)


def install_one(path):
    with zipfile.ZipFile(path) as archive:
        names = check(archive)
        manifests = sorted((name for name in names if os.path.basename(name) == MANIFEST), key=len)
        if manifests and bpy.app.version >= (4, 2, 0):
            enable(unpack_extension(archive, names, manifests[0]))
        else:
            for module in unpack_legacy(archive, names):
                enable(module)


def check(archive):
    """Checks that no file of an archive leaves the folder that it is unpacked into, and returns the files."""
    files = [info for info in archive.infolist() if not info.is_dir()]
    if len(files) > FILES_MAX or sum(info.file_size for info in files) > BYTES_MAX:
        raise Refused("it has more than %d files, or more than %d GiB" % (FILES_MAX, BYTES_MAX >> 30))
    for info in files:
        parts = info.filename.replace("\\", "/").split("/")
        # The upper four bits of the Unix mode tell the file type; 0o12 is a link.
        is_link = info.external_attr >> 28 == 0o12
        if ".." in parts or parts[0] == "" or ":" in parts[0] or is_link:
            raise Refused("%r would be written outside of its folder" % info.filename)
    return [info.filename for info in files]


def unpack(archive, names, inside, folder):
    """Unpacks a folder of the archive into another folder. Limits the size that is really unpacked."""
    left = BYTES_MAX
    for name in names:
        if not name.startswith(inside):
            continue
        target = os.path.join(folder, *name[len(inside) :].split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with archive.open(name) as source, open(target, "wb") as file:
            while chunk := source.read(1 << 20):
                left -= len(chunk)
                if left < 0:
                    raise Refused("it is larger than it says")
                file.write(chunk)


def unpack_extension(archive, names, manifest):
    text = archive.read(manifest).decode()
    found = re.search(r'^\s*id\s*=\s*["\']([A-Za-z0-9_]+)["\']', text, re.MULTILINE)
    if not found:
        raise Refused("its %s has no id" % MANIFEST)
    name = found.group(1)
    folder = bpy.utils.user_resource("EXTENSIONS", path=os.path.join("user_default", name), create=True)
    unpack(archive, names, manifest[: -len(MANIFEST)], folder)
    # This also makes its wheels available.
    addon_utils.extensions_refresh(ensure_wheels=True)
    return "bl_ext.user_default." + name


def unpack_legacy(archive, names):
    folder = bpy.utils.user_resource("SCRIPTS", path="addons", create=True)
    if folder not in sys.path:
        sys.path.append(folder)
    if "__init__.py" in names:
        # A package that is not in a folder is named after the archive, as in Blender.
        module = re.sub(r"\W", "_", os.path.splitext(os.path.basename(archive.filename))[0])
        unpack(archive, names, "", os.path.join(folder, module))
        return [module]
    packages = {name.split("/")[0] for name in names if name.count("/") == 1 and name.endswith("/__init__.py")}
    modules = {name[:-3] for name in names if "/" not in name and name.endswith(".py")}
    modules = sorted(packages) + sorted(name for name in modules if is_addon(archive.read(name + ".py")))
    if not modules:
        raise Refused("it holds neither an __init__.py nor a %s" % MANIFEST)
    unpack(archive, names, "", folder)
    return modules


def is_addon(source):
    try:
        tree = ast.parse(source)
    except SyntaxError:
        # Enabling it reports what is wrong.
        return True
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "bl_info" for target in targets)


def enable(module):
    errors = []
    # Its output goes to the log.
    enabled = addon_utils.enable(module, default_set=True, handle_error=errors.append)
    if not enabled:
        error = errors[-1] if errors else "Blender does not enable it; the log says why"
        name = type(error).__name__ + ": " if isinstance(error, Exception) else ""
        raise Refused((name + str(error)).strip().splitlines()[0][:500])


def missing_of(scene, read):
    """Describes what a scene needs of add-ons that are missing."""
    texts = {}
    for tree in bpy.data.node_groups:
        # Renderers read no others, such as an add-on's game logic.
        if tree in read and tree.bl_idname in OWN_TREES:
            undefined_in(tree, "the node group %r" % tree.name, texts)
    for block in read:
        tree = getattr(block, "node_tree", None)
        if tree and not isinstance(block, bpy.types.NodeTree) and getattr(block, "use_nodes", True):
            undefined_in(tree, "%r" % block.name, texts)
    return sorted(texts)


def undefined_in(tree, where, texts):
    for node in tree.nodes:
        is_used = any(socket.is_linked for socket in node.outputs)
        if node.bl_idname in ("", "NodeUndefined") and is_used and not node.mute:
            text = "%s has a node %r of a type that no enabled add-on has: it does nothing; --addon brings one"
            texts.setdefault(text % (where, node.name))
