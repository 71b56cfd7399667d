"""What can be put right in a mesh without guessing, and names for the rest."""

from __future__ import annotations

import numpy as np
import trimesh

from tropism_3d.shapes import Shape

WELD = 2.0**-20  # of the longest side: vertices that agree to this are one


def repaired(vertices: np.ndarray, faces: np.ndarray, gap: float = 0.0) -> Shape:
    """Vertices [V, 3] and faces [F, 3] as a shape: equal vertices welded; unused ones, faces without an extent and faces that are there
    twice left out. Refused by name: indices out of range, coordinates that are not finite, and what has no face left.

    An inverted or mirrored mesh needs nothing: which side is out is told by the volume when it is simulated.
    """
    faces = np.asarray(faces, dtype=np.int64).reshape(-1, 3)
    vertices = np.asarray(vertices, dtype=np.float64).reshape(-1, 3)
    if len(faces) == 0:
        return Shape(None, "empty", detail="no faces")
    if faces.min() < 0 or faces.max() >= len(vertices):
        return Shape(None, "unreadable", detail=f"a face names vertex {faces.max()} of {len(vertices)}")
    used, faces = np.unique(faces, return_inverse=True)
    points, faces = vertices[used], faces.reshape(-1, 3)
    if not (finite := np.isfinite(points).all(1)).all():
        return Shape(None, "non-finite", detail=f"{int((~finite).sum())} of {len(points)} vertices are NaN or infinite")
    points, faces = _welded(points, faces)
    faces = _distinct(faces[(faces != np.roll(faces, 1, 1)).all(1)])
    if len(faces) == 0:
        return Shape(None, "empty", detail="no face has an extent")
    return Shape(trimesh.Trimesh(points, faces, process=False), "ok", gap)


def _welded(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points that fall into one cell of a fine grid become the first of them."""
    scale = np.abs(points).max() or 1.0
    near = points / scale  # so that differences of huge numbers stay finite
    low = near.min(0)
    cell = np.rint((near - low) / (((near - low).max() or 1.0) * WELD)).astype(np.int64)  # 0 to 2^20 on each axis
    _, first, number = np.unique((cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2], return_index=True, return_inverse=True)
    return points[first], number.reshape(-1)[faces]


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Faces without those that repeat another with the same side out; the two sides of a sheet both stay."""
    turn = faces.argmin(1, keepdims=True)
    begin = np.take_along_axis(faces, (turn + np.arange(3)) % 3, 1)
    order = np.lexsort((begin[:, 2], begin[:, 1], begin[:, 0]))
    new = np.ones(len(faces), dtype=bool)
    new[1:] = (begin[order][1:] != begin[order][:-1]).any(1)
    kept: np.ndarray = faces[np.sort(order[new])]
    return kept
