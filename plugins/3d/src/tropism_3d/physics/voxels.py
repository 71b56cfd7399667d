"""Voxels of a surface: what it touches and what it encloses, for surfaces that are not closed."""

from __future__ import annotations

import numpy as np

from tropism_3d.physics.surface import Surface

DENSITY = 8  # points a cell that the surface passes through, on average
MOST = 2_000_000  # points


def cells(points: np.ndarray, origin: np.ndarray, side: float) -> np.ndarray:
    """The cell [M, 3] that each point [M, 3] is in."""
    found: np.ndarray = np.floor((points - origin) / side).astype(np.int64)
    return found


def occupied(surface: Surface, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells of edge ``side`` that the surface passes through, bool [X, Y, Z] with an empty border, and the corner of the first.

    Found by its vertices and by points spread evenly over its area, always the same ones.
    """
    points = np.concatenate([_spread(surface, side), surface.vertices])
    origin = points.min(0) - 1.5 * side
    where = cells(points, origin, side)
    grid = np.zeros(where.max(0) + 2, dtype=bool)
    grid[tuple(where.T)] = True
    return grid, origin


def _spread(surface: Surface, side: float) -> np.ndarray:
    """Points [M, 3] on the faces, as many on each as its area asks for."""
    area = np.cumsum(surface.areas())
    count = int(min(DENSITY * area[-1] / side**2 + 1000, MOST))
    random = np.random.default_rng(0)
    face = np.searchsorted(area, (np.arange(count) + 0.5) / count * area[-1]).clip(max=len(area) - 1)
    u, v = random.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = (corner[face] for corner in surface.corners())
    points: np.ndarray = a + u * (b - a) + v * (c - a)
    return points


def enclosed(grid: np.ndarray) -> np.ndarray:
    """Cells [X, Y, Z] that are occupied, or have an occupied one on each of their six sides, however far.

    Unlike a flood from outside this does not run dry through a missing triangle.
    """
    inner = np.ones_like(grid)
    for axis in range(3):
        inner &= np.logical_or.accumulate(grid, axis) & np.flip(np.logical_or.accumulate(np.flip(grid, axis), axis), axis)
    inner |= grid
    return inner


def mass_properties(surface: Surface, side: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Volume, centre of mass [3] and inertia about it [3, 3], at density 1, of what a surface encloses.

    A cell counts by the share of its corners that lie wholly inside, since the surface passes somewhere through those at the border: a half
    at a face, a quarter at an edge. A shell has no inside, and its cells count an eighth.
    """
    grid, origin = occupied(surface, side)
    inner = enclosed(grid)
    deep = inner.astype(np.float64)
    for axis in range(3):  # at each cell's upper corner: whether all eight cells around it are inside
        deep = np.minimum(deep, np.roll(deep, -1, axis))
    share = deep
    for axis in range(3):  # of each cell: the mean of its eight corners
        share = (share + np.roll(share, 1, axis)) / 2
    where = np.argwhere(inner)
    mass = np.maximum(share[inner], 1 / 8) * side**3
    at = origin + (where + 0.5) * side
    total = mass.sum()
    centre = (mass[:, None] * at).sum(0) / total
    r = at - centre
    second = (mass[:, None] * r).T @ r + np.eye(3) * total * side**2 / 12  # a cell has an extent of its own
    return float(total), centre, np.eye(3) * np.trace(second) - second
