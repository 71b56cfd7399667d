"""Shapes whose fate is known: the calibration set of the simulator. Each is a mesh with z up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import trimesh

from tropism_3d.shapes import Shape

Boxes = Sequence[tuple[Sequence[float], Sequence[float]]]  # (low corner, high corner)
LEGS = ((0, 0), (0.9, 0), (0, 0.9), (0.9, 0.9))


def union(boxes: Boxes, cell: float = 0.05) -> trimesh.Trimesh:
    """One closed surface around boxes whose corners are on a grid of ``cell``: the sides of cells that border on nothing, exactly."""
    corners = np.rint(np.array(boxes, dtype=float) / cell).astype(int)
    first = corners.min((0, 1)) - 1
    grid = np.zeros(corners.max((0, 1)) - first + 1, dtype=bool)
    for low, high in corners - first:
        grid[tuple(slice(*pair) for pair in zip(low, high))] = True
    quads = []
    for axis in range(3):
        u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        for side in (0, 1):
            bare = np.argwhere(grid & ~np.roll(grid, 1 - 2 * side, axis)) + side * np.eye(3, dtype=int)[axis]
            ring = np.stack([bare, bare + u, bare + u + v, bare + v], 1)
            quads.append(ring if side else ring[:, ::-1])
    points, index = np.unique(np.concatenate(quads).reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(-1, 4)
    faces = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]])
    return trimesh.Trimesh((points + first) * cell, faces, process=False)


def table(legs: Sequence[tuple[float, float]] = LEGS, extra: Boxes = ()) -> trimesh.Trimesh:
    """A top of 1 x 1 x 0.1 at height 0.7 on legs of 0.1 x 0.1 at the corners given."""
    return union([([0, 0, 0.7], [1, 1, 0.8]), *(([x, y, 0], [x + 0.1, y + 0.1, 0.7]) for x, y in legs), *extra])


def turned(mesh: trimesh.Trimesh, angle: float, axis: Sequence[float] = (1, 0, 0)) -> trimesh.Trimesh:
    """Turned by ``angle`` radians."""
    made = mesh.copy()
    made.apply_transform(trimesh.transformations.rotation_matrix(angle, axis))
    return made


def cone() -> trimesh.Trimesh:
    return trimesh.creation.cone(radius=0.4, height=1.0, sections=48)


def crumbed() -> trimesh.Trimesh:
    """A table with a crumb 0.2 below its feet, under its middle."""
    crumb = trimesh.creation.box(bounds=[[0.495, 0.495, -0.21], [0.505, 0.505, -0.2]])
    return trimesh.util.concatenate([table(), crumb])


BODIES = {
    "box": lambda: trimesh.creation.box(bounds=[[0, 0, 0], [0.5, 0.6, 1]]),
    "cone": cone,
    "cone on its tip": lambda: turned(cone(), np.pi),
    "table": table,
    "table of three legs": lambda: table([(0, 0), (0.9, 0), (0.45, 0.9)]),
    "table of two legs": lambda: table([(0, 0), (0, 0.9)]),
    "L with an overhang": lambda: union([([0, 0, 0], [0.2, 0.2, 1]), ([0, 0, 0.8], [1, 0.2, 1])]),
    "pole": lambda: trimesh.creation.cylinder(radius=0.03, height=1.0, sections=32),
    "sphere": lambda: trimesh.creation.icosphere(subdivisions=3, radius=0.5),
    "table over a crumb": crumbed,
}


def shape(name: str) -> Shape:
    return Shape(BODIES[name](), "ok")
