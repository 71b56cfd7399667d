"""A mesh file as a shape: glb, obj, ply or stl, from anyone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh

from tropism_3d.meshes.glb import refusal
from tropism_3d.meshes.repair import repaired
from tropism_3d.shapes import Shape

Up = Literal["y", "z"]
UP: dict[str, Up] = {"glb": "y", "obj": "y", "ply": "z", "stl": "z"}  # glb by its standard, the others by custom
BYTES = 256 * 2**20
FACES = 2_000_000
GAP = 1 / 64  # of the longest side: furniture in files is made of parts that touch
OPTIONS: dict[str, dict[str, bool]] = {"glb": {"skip_materials": True}, "obj": {"skip_materials": True}, "ply": {}, "stl": {}}
UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) with y up -> (x, -z, y): a turn, where a swap of columns would mirror


def load(
    file: Path | str | bytes, kind: str | None = None, up: Up | None = None, most_bytes: int = BYTES, most_faces: int = FACES
) -> Shape:
    """A file, or its bytes, as one shape with z up and all transforms of its scene applied; or a shape whose status says why not.

    kind: ``glb``, ``obj``, ``ply`` or ``stl``; by default the file's ending. up: which axis of the file points up; by default y for glb and
    obj, z for ply and stl. Materials and textures are not read, and no other file is. Nothing that a file holds is raised; a file that
    is not there is (OSError).
    """
    if isinstance(file, bytes):
        data = file
    else:
        path = Path(file)
        kind = kind or path.suffix.lower().removeprefix(".")
        if (size := path.stat().st_size) > most_bytes:
            return Shape(None, "too-large", detail=f"{size} bytes; at most {most_bytes}")
        data = path.read_bytes()
    if kind not in UP:
        return Shape(None, "unreadable", detail=f"a file of kind '{kind}'; expected one of {', '.join(UP)}")
    if len(data) > most_bytes:
        return Shape(None, "too-large", detail=f"{len(data)} bytes; at most {most_bytes}")
    if kind == "glb" and (fault := refusal(data, most_faces)):
        return Shape(None, fault[0], detail=fault[1])
    try:
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=kind, process=False, **({} if kind in ("stl", "ply") else {"skip_materials": True})
        )
        meshes = {name: mesh for name, mesh in scene.geometry.items() if isinstance(mesh, trimesh.Trimesh)}
        places = [scene.graph[node] for node in scene.graph.nodes_geometry]
        parts = [(meshes[name], place) for place, name in places if name in meshes]
        if (total := sum(len(mesh.faces) for mesh, _ in parts)) > most_faces:
            return Shape(None, "too-large", detail=f"{total} faces; at most {most_faces}")
        vertices, faces = _joined(parts)
    except Exception as error:  # a parser of someone else's data can raise anything; the caller's other files go on
        return Shape(None, "unreadable", detail=f"{type(error).__name__}: {error}"[:200])
    return repaired(vertices @ UPRIGHT.T if (up or UP[kind]) == "y" else vertices, faces, GAP)


def _joined(parts: list[tuple[trimesh.Trimesh, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All meshes in one list, each at its place [4, 4]; a place that mirrors turns the faces round, so that the same side stays out."""
    vertices, faces, count = [np.empty((0, 3))], [np.empty((0, 3), dtype=np.int64)], 0
    for mesh, place in parts:
        vertices.append(mesh.vertices @ place[:3, :3].T + place[:3, 3])
        faces.append((mesh.faces if np.linalg.det(place[:3, :3]) >= 0 else mesh.faces[:, ::-1]) + count)
        count += len(mesh.vertices)
    return np.concatenate(vertices), np.concatenate(faces)
