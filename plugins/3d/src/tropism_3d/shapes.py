"""Shapes: meshes with a status, and how they come out of the occupancy that this modality's policies decode to.

The media of 3D is ``occupancy``: [B, N, N, N] float32 in [0, 1], axes x, y, z with z up, values at the centres of N^3 equal voxels, the
surface where it crosses 0.5, empty outside. A tensor, so that the core moves, joins and gathers it like any media; a network that gives a
signed distance d (negative inside) decodes to sigmoid(-d / s). What looks at surfaces makes :class:`Shape` records of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes

from tropism.errors import TropismError
from tropism_3d.statuses import Status

SURFACE = 0.5
LARGEST = 256  # voxels of a side


@dataclass(frozen=True)
class Shape:
    """A mesh, or why there is none.

    mesh: triangles, z up, units free; None unless status is ``ok``. status: of :mod:`tropism_3d.statuses`. gap: parts of the surface that
    are nearer than this share of the longest side belong to one object, as the parts of furniture in files do; with 0, as for what comes
    out of a field, only parts that are connected. detail: what was found, where the status alone does not say.
    """

    mesh: trimesh.Trimesh | None
    status: Status
    gap: float = 0.0
    detail: str = ""


def from_occupancy(occupancy: torch.Tensor) -> list[Shape]:
    """occupancy [B, N, N, N] in [0, 1] -> B shapes with closed surfaces in the unit cube [0, 1]^3.

    A field with NaN is ``non-finite``, one nowhere above 0.5 ``empty``. Raises TropismError where the tensor is no occupancy at all.
    """
    check(occupancy)
    return [surface(field) for field in occupancy.detach().float().cpu().numpy()]


def check(occupancy: torch.Tensor) -> None:
    """Raises TropismError where a tensor is not [B, N, N, N]."""
    if occupancy.ndim != 4 or len({*occupancy.shape[1:]}) != 1 or not 2 <= occupancy.shape[-1] <= LARGEST:
        raise TropismError(f"occupancy is {list(occupancy.shape)}; expected [B, N, N, N] with N of 2 to {LARGEST}")


def surface(field: np.ndarray) -> Shape:
    """One field [N, N, N] as a shape, by marching cubes (Lewiner et al. 2003) on the field with a border of zeros."""
    if not np.isfinite(field).all():
        return Shape(None, "non-finite")
    if field.max() <= SURFACE:
        return Shape(None, "empty")
    vertices, faces, _, _ = marching_cubes(np.pad(field, 1), SURFACE, gradient_direction="ascent", allow_degenerate=False)
    # The border and the centres: sample i of the padded field is at (i - 0.5) / N.
    return Shape(trimesh.Trimesh((vertices - 0.5) / len(field), faces, process=False), "ok")
