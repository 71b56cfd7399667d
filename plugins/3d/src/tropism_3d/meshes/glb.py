"""What a glb file's own table of contents says, before anything of it is unpacked (glTF 2.0, sections 3 and 4.4)."""

from __future__ import annotations

import importlib.util
import json
import struct
from typing import Any

from tropism_3d.statuses import Status

COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
NODES = 100_000
JSON = 64 * 2**20  # bytes
Fault = tuple[Status, str]


def refusal(data: bytes, faces: int) -> Fault | None:
    """Why a glb must not be unpacked, or None. faces: the most it may have, each instance of a mesh counted."""
    try:
        contents = _contents(data)
        return _outside(contents) or _compressed(contents) or _too_large(contents, faces)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, struct.error) as error:
        return "unreadable", f"{type(error).__name__}: {error}"[:200]


def _contents(data: bytes) -> dict[str, Any]:
    magic, version, length, size, kind = struct.unpack_from("<4sII I4s", data)
    if magic != b"glTF" or version != 2 or kind != b"JSON":
        raise ValueError("not a binary glTF 2.0 file")
    if length > len(data) or not 2 <= size <= min(len(data) - 20, JSON):
        raise ValueError(f"cut short: {len(data)} bytes of {length}, of which {size} are its contents")
    contents = json.loads(data[20 : 20 + size])
    if not isinstance(contents, dict):
        raise ValueError("its contents are no JSON object")
    return contents


def _outside(contents: dict[str, Any]) -> Fault | None:
    for buffer in contents.get("buffers", []):
        if not buffer.get("uri", "data:").startswith("data:"):
            return "unsafe", f"it keeps its data in another file, {buffer['uri'][:80]!r}"
    return None


def _compressed(contents: dict[str, Any]) -> Fault | None:
    """trimesh has a Draco decoder only where DracoPy is installed; without it such meshes come out with all vertices zero."""
    used = {*contents.get("extensionsUsed", []), *contents.get("extensionsRequired", [])}
    for mesh in contents.get("meshes", []):
        for primitive in mesh["primitives"]:
            used |= set(primitive.get("extensions", {}))
    for name in COMPRESSED:
        if name in used and not (name == COMPRESSED[0] and importlib.util.find_spec("DracoPy")):
            remedy = "install DracoPy, or export it without compression" if name == COMPRESSED[0] else "export it without compression"
            return "undecoded", f"its meshes are compressed with {name}; {remedy}"
    return None


def _too_large(contents: dict[str, Any], faces: int) -> Fault | None:
    """Counts what would be unpacked: every accessor, every instance; refuses nodes that form no tree."""
    counts = [int(accessor["count"]) for accessor in contents.get("accessors", [])]
    if counts and (min(counts) < 0 or sum(counts) > 40 * faces):
        return "too-large", f"its tables claim {sum(counts)} entries"
    nodes = contents.get("nodes", [])
    if len(nodes) > NODES:
        return "too-large", f"{len(nodes)} nodes; at most {NODES}"
    children = [child for node in nodes for child in node.get("children", [])]
    if len(children) != len(set(children)):
        return "unreadable", "a node has two parents"
    reached = {child for child in range(len(nodes)) if child not in set(children)}
    waiting = list(reached)
    while waiting:
        below = nodes[waiting.pop()].get("children", [])
        reached.update(below)
        waiting.extend(below)
    if len(reached) != len(nodes):
        return "unreadable", "nodes are their own descendants"
    size = [
        sum(counts[p["indices"] if "indices" in p else p["attributes"]["POSITION"]] for p in m["primitives"]) // 3
        for m in contents["meshes"]
    ]
    total = sum(size[node["mesh"]] for node in nodes if "mesh" in node)
    return ("too-large", f"{total} faces with all instances; at most {faces}") if total > faces else None
