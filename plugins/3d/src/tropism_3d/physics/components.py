"""Which triangles are one object: connected surfaces, the cavities inside them, and parts that touch."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tropism_3d.physics.surface import NOTHING, Surface
from tropism_3d.physics.voxels import cells, occupied


def parts(surface: Surface) -> np.ndarray:
    """The number of its connected part for every face: [F] in 0..P-1. Faces that share a vertex are connected."""
    faces, count = surface.faces, len(surface.vertices)
    begin, end = faces[:, :2].reshape(-1), faces[:, 1:].reshape(-1)
    graph = coo_array((np.ones(len(begin), dtype=bool), (begin, end)), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    part: np.ndarray = numbers[faces[:, 0]]  # all vertices are used, so no number is left out
    return part


def largest(surface: Surface, gap: float) -> tuple[np.ndarray, int]:
    """The faces [F] bool of the largest object, its cavities included, and how many objects there are.

    surface: of longest side about 1. gap: see :class:`tropism_3d.shapes.Shape`. The size of an object is the volume it encloses where all
    surfaces are closed, else its area.
    """
    part = parts(surface)
    if part.max() == 0:
        return np.ones(len(part), dtype=bool), 1
    if gap:
        part = _touching(surface, part, gap)
    size = np.bincount(part, surface.volumes())
    if not surface.closed() or np.abs(size).max() < NOTHING:
        size = np.bincount(part, surface.areas())
    main = int(np.abs(size).argmax())
    hollow = size < 0 if size[main] > 0 else size > 0  # faces the other way: a cavity, if it is inside
    body = surface.part(part == main)
    first = np.unique(part, return_index=True)[1]
    inside = [p for p in np.flatnonzero(hollow) if _encloses(body, surface.vertices[surface.faces[first[p], 0]])]
    return np.isin(part, np.array([main, *inside])), len(size) - len(inside)


def _encloses(body: Surface, point: np.ndarray) -> bool:
    """Whether a closed surface winds around a point: the sum of solid angles (Van Oosterom and Strackee 1983)."""
    if (point < body.vertices.min(0)).any() or (point > body.vertices.max(0)).any():
        return False
    a, b, c = (corner - point for corner in body.corners())
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    above = np.einsum("ij,ij->i", a, np.cross(b, c))
    below = la * lb * lc + np.einsum("ij,ij->i", a, b) * lc + np.einsum("ij,ij->i", b, c) * la + np.einsum("ij,ij->i", c, a) * lb
    return bool(abs(np.arctan2(above, below).sum() / (2 * np.pi)) > 0.5)


def _touching(surface: Surface, part: np.ndarray, gap: float) -> np.ndarray:
    """Parts renumbered so that those which meet in cells of side ``gap`` are one."""
    grid, origin = occupied(surface, gap)
    blobs, _ = label(grid, np.ones((3, 3, 3)))
    first = np.unique(part, return_index=True)[1]  # a part is connected, so any of its vertices tells which blob it is in
    corner = cells(surface.vertices[surface.faces[first, 0]], origin, gap)
    blob = blobs[tuple(corner.T)]
    return np.unique(blob[part], return_inverse=True)[1].reshape(-1)
