"""Finds simulations that depend on earlier frames because they are not baked."""

import glob
import gzip
import os
import struct

import bpy

from framecrew_files import absolute, laid_out, scenes_at

# Maximum number of bytes of a .blend that are searched for packed bakes. In a larger one they are assumed to
# exist.
BYTES_MAX = 4 << 30

# Number of bytes that are read at once.
CHUNK_BYTES = 1 << 20


# Why a frame differs from the simulation.
APART = "is not baked: a frame drawn by itself differs from one drawn in sequence"
NOT_IN_A_RENDER = "is not baked, and a render does not simulate it"


class Unbaked:
    """A simulation that is not baked: the frame at which it begins, its name, and why a frame differs."""

    def __init__(self, begins, what, why, is_kept=None):
        self.begins = begins
        self.what = what
        self.why = why
        # Whether the file of a frame was kept when the simulation was played. Without it even the first is empty.
        self.is_kept = is_kept

    def warning(self, frame, in_sequence):
        """Returns what to say of a frame, if anything."""
        is_kept = self.is_kept(frame) if self.is_kept else frame <= self.begins
        is_right = is_kept or in_sequence and self.why == APART
        return None if is_right else "%s %s" % (self.what, self.why)


def unbaked_simulations(scene):
    """Returns the simulations that are not baked."""
    found = {}
    for shown, _ in scenes_at(scene, None):
        for unbaked in unbaked_in(shown):
            found.setdefault(unbaked.what, unbaked)
    return list(found.values())


def unbaked_in(scene):
    world = scene.rigidbody_world
    if world and world.enabled and world.point_cache and world.collection and world.collection.objects:
        if not world.point_cache.is_baked:
            yield Unbaked(world.point_cache.frame_start, "the rigid body simulation of %r" % scene.name, APART)
    for thing in laid_out(scene):
        # Animated visibility counts as visible.
        if thing.hide_render and not thing.animation_data:
            continue
        for number, modifier in enumerate(thing.modifiers):
            if modifier.show_render:
                yield from unbaked_by(scene, thing, modifier, number)


def unbaked_by(scene, thing, modifier, number):
    def unless_baked(what, cache):
        if not cache.is_baked:
            yield Unbaked(cache.frame_start, "the %s of %r" % (what, thing.name), APART)

    if modifier.type in ("CLOTH", "SOFT_BODY"):
        what = modifier.type.lower().replace("_", " ")
        yield from unless_baked(what + " simulation", modifier.point_cache)
    elif modifier.type == "PARTICLE_SYSTEM":
        particles = modifier.particle_system
        moves = particles.settings.type == "EMITTER" and particles.settings.physics_type not in ("NO", "KEYED")
        if moves or particles.use_hair_dynamics:
            yield from unless_baked("particle system %r" % particles.name, particles.point_cache)
    elif modifier.type == "DYNAMIC_PAINT" and modifier.canvas_settings:
        for surface in modifier.canvas_settings.canvas_surfaces:
            if surface.is_active:
                yield from unless_baked("dynamic paint", surface.point_cache)
    elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
        domain = modifier.domain_settings
        if not is_baked_fluid(domain):
            data = data_of_fluid(thing, domain)
            name = "the fluid simulation of %r" % thing.name
            yield Unbaked(domain.cache_frame_start, name, NOT_IN_A_RENDER, lambda frame: has_frame(data, frame))
    elif modifier.type == "NODES" and simulates(modifier.node_group) and not has_bakes(thing, modifier, number):
        name = "the simulation in %r of %r" % (modifier.name, thing.name)
        yield Unbaked(scene.frame_start, name, NOT_IN_A_RENDER)


def is_baked_fluid(domain):
    return domain.has_cache_baked_data or domain.has_cache_baked_any


def data_of_fluid(thing, domain):
    return os.path.join(absolute(domain.cache_directory, thing.library), "data")


def has_frame(data, frame):
    return next(glob.iglob(os.path.join(glob.escape(data), "*_%04d.*" % frame)), None) is not None


def simulates(tree, seen=None):
    seen = set() if seen is None else seen
    if tree is None or tree in seen:
        return False
    seen.add(tree)
    return any(
        node.bl_idname == "GeometryNodeSimulationOutput" or simulates(getattr(node, "node_tree", None), seen)
        for node in tree.nodes
        if not node.mute
    )


def has_bakes(thing, modifier, number):
    """Whether every simulation of a modifier is baked."""
    folder = getattr(modifier, "bake_directory", "") or getattr(modifier, "simulation_bake_directory", "")
    bakes = getattr(modifier, "bakes", None)
    if bakes is None:
        # Before 4.1 all simulations of a modifier share one folder.
        return is_baked_folder(absolute(folder, thing.library), "**")
    for bake in bakes:
        if not (bake.node and bake.node.bl_idname == "GeometryNodeSimulationOutput"):
            continue
        target = getattr(bake, "bake_target", "INHERIT")
        target = getattr(modifier, "bake_target", "DISK") if target == "INHERIT" else target
        if target == "PACKED":
            if not is_packed(thing, number):
                return False
        else:
            own = bake.use_custom_path and bake.directory
            own = absolute(bake.directory if own else folder, thing.library)
            if not is_baked_folder(own, "" if bake.use_custom_path and bake.directory else str(bake.bake_id)):
                return False
    return True


def is_baked_folder(folder, below):
    pattern = os.path.join(glob.escape(folder), below, "meta", "*.json")
    return bool(folder) and next(glob.iglob(pattern, recursive=True), None) is not None


# For each .blend that was read, the counts of packed bakes of each object's geometry nodes modifiers, in order.
packed = {}


def is_packed(thing, number):
    """Whether the modifier with this number has bakes in the file. Python has no access to them, so the file is
    read."""
    path = absolute(thing.library.filepath, thing.library.library) if thing.library else bpy.data.filepath
    if path not in packed:
        try:
            packed[path] = packed_bakes(path)
        except Exception:
            # A file that cannot be read must not cause a false alarm.
            packed[path] = None
    if packed[path] is None:
        return True
    numbers = [n for n, modifier in enumerate(thing.modifiers) if modifier.type == "NODES"]
    counts = packed[path].get(thing.name, ())
    ordinal = numbers.index(number)
    return ordinal < len(counts) and counts[ordinal] > 0


def packed_bakes(path):
    """Counts the packed bakes of each object's geometry nodes modifiers in the blocks of a .blend."""
    things, dna = [], None
    with opened(path) as file:
        head = file.read(12)
        large = head[7:9].isdigit()
        if large:
            file.read(int(head[7:9]) - 12)
        elif head[7:9] != b"-v":
            raise ValueError("a .blend of another kind of machine")
        read = 0
        while True:
            if large:
                code, kind, _, length, _ = struct.unpack("<4siQqq", file.read(32))
            else:
                code, length, _, kind, _ = struct.unpack("<4siQii", file.read(24))
            code = code.rstrip(b"\0")
            read += length
            if code == b"ENDB" or read > BYTES_MAX:
                break
            if code in (b"OB", b"DNA1"):
                data = file.read(length)
                if code == b"DNA1":
                    dna = data
                else:
                    things.append((data[:512], []))
                    continue
            else:
                skip(file, length)
            if code == b"DATA" and things:
                things[-1][1].append(kind)
            elif code != b"DATA":
                # The data blocks that follow do not belong to an object.
                things.append((None, []))
    kinds, name_at = read_dna(dna)
    found = {}
    for start, blocks in things:
        if start is None:
            continue
        name = start[name_at + 2 :].split(b"\0", 1)[0].decode(errors="surrogateescape")
        counts = found.setdefault(name, [])
        for kind in blocks:
            if kinds[kind] == b"NodesModifierData":
                counts.append(0)
            elif kinds[kind] == b"NodesModifierPackedBake" and counts:
                counts[-1] += 1
    return found


def opened(path):
    file = open(path, "rb")
    start = file.read(4)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return gzip.open(file)
    if start[:4] == b"BLEN":
        return file
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


def skip(file, length):
    while length:
        length -= len(file.read(min(length, CHUNK_BYTES))) or length


def read_dna(dna):
    """Returns the names of the structs, and the offset of the name in the header of every data-block."""
    at = 4

    def begin(what):
        nonlocal at
        at = (at + 3) & ~3
        assert dna[at : at + 4] == what
        (count,) = struct.unpack_from("<i", dna, at + 4)
        at += 8
        return count

    def texts(count):
        nonlocal at
        found = []
        for _ in range(count):
            end = dna.index(b"\0", at)
            found.append(dna[at:end])
            at = end + 1
        return found

    names = texts(begin(b"NAME"))
    types = texts(begin(b"TYPE"))
    at = (at + 3) & ~3
    assert dna[at : at + 4] == b"TLEN"
    sizes = struct.unpack_from("<%dH" % len(types), dna, at + 4)
    at += 4 + 2 * len(types)
    kinds, name_at = [], None
    for _ in range(begin(b"STRC")):
        kind, count = struct.unpack_from("<HH", dna, at)
        fields = struct.unpack_from("<%dH" % (2 * count), dna, at + 4)
        at += 4 + 4 * count
        kinds.append(types[kind])
        if types[kind] == b"ID":
            name_at = 0
            for field_type, field in zip(fields[::2], fields[1::2]):
                if names[field].startswith(b"name["):
                    break
                # Only pointers and plain numbers precede the name.
                name_at += 8 if names[field].startswith(b"*") else sizes[field_type]
    return kinds, name_at
