"""The solid body that a shape stands for: its largest object at unit size, with mass, centre and inertia of what it encloses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tropism_3d.physics import surface as closed_surfaces
from tropism_3d.physics import voxels
from tropism_3d.physics.components import largest, parts
from tropism_3d.physics.surface import NOTHING, Surface
from tropism_3d.shapes import Shape
from tropism_3d.statuses import Status

SIDE = 1 / 64  # of the voxels where a surface is not closed
FLAT = 1e-4  # an object that spreads less than this share of its longest side in some direction is flat
Method = Literal["exact", "voxels"]


@dataclass(frozen=True)
class Solid:
    """A body: longest side 1, lowest point at z = 0, its box centred over the origin, faces outward.

    volume, centre [3], inertia [3, 3] about the centre: at density 1. method: ``exact`` integrals over a closed surface, or ``voxels``.
    objects: how many the shape had, of which this is the largest.
    """

    surface: Surface
    volume: float
    centre: np.ndarray
    inertia: np.ndarray
    method: Method
    objects: int


def solid(shape: Shape, every: bool = False) -> Solid | Status:
    """The body of a shape, or the status that says why it has none. every: keep all objects, not the largest alone."""
    if shape.mesh is None:
        return shape.status
    faces = np.asarray(shape.mesh.faces, dtype=np.int64)
    if len(faces) == 0:
        return "empty"
    body = Surface(np.asarray(shape.mesh.vertices, dtype=np.float64), faces).part(np.ones(len(faces), dtype=bool))
    if not np.isfinite(body.vertices).all():
        return "non-finite"
    unit = _unit(body)
    if unit is None:
        return "flat"
    keep, objects = largest(unit, shape.gap)
    if not every and not keep.all():
        unit = _unit(unit.part(keep))
        if unit is None:
            return "flat"
    # Parts that touch may overlap, and integrals over their surfaces would count that twice; the two sides of a sheet enclose nothing.
    volume = unit.volumes().sum()
    if unit.closed() and abs(volume) > NOTHING and not (shape.gap and parts(unit).max()):
        unit = unit if volume > 0 else unit.flipped()
        return Solid(unit, *closed_surfaces.mass_properties(unit), "exact", objects)
    return Solid(unit, *voxels.mass_properties(unit, SIDE), "voxels", objects)


def _unit(body: Surface) -> Surface | None:
    """Scaled and placed; None where its vertices lie in a plane, on a line or in a point."""
    scale = np.abs(body.vertices).max()
    if scale == 0:
        return None
    points = body.vertices / scale  # so that differences of huge numbers stay finite
    low, high = points.min(0), points.max(0)
    side = (high - low).max()
    if side == 0:
        return None
    points = (points - [*(low + high)[:2] / 2, low[2]]) / side
    spread = np.linalg.eigvalsh(np.cov(points.T))[0]
    return None if spread < FLAT**2 else Surface(points, body.faces)
