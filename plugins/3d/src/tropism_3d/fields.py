"""Smooth fields of solids: what the shipped generator learns and decodes to.

A field is [B, N, N, N] in [-1, 1], axes x, y, z with z up: the distance to the surface in units of ``BAND``, positive inside, cut off at 1.
Unlike booleans it says where between two voxels the surface is, so that marching cubes draws it smooth.
"""

from __future__ import annotations

import torch

N = 32  # of the generator's fields
SOLID = 48  # of the solids they come from
FLOOR = 2 / SOLID  # the height, in the unit cube, on which every solid stands
BAND = 3 / SOLID  # of the unit cube, at which the distance is cut off
THICKER = 0.4 / SOLID  # of the unit cube: a leg thinner than a voxel would be lost between samples
RADIUS = 5  # voxels up to which distances are exact; beyond it only their sign is
STEEP = 4.0  # occupancy = sigmoid(STEEP field)


def signed(solid: torch.Tensor) -> torch.Tensor:
    """Booleans [B, SOLID, SOLID, SOLID] -> distances of the same shape, float32 in units of BAND, positive inside, not cut off."""
    raw = _distance(~solid) - _distance(solid)
    return ((raw - 0.5 * raw.sign()) / SOLID + THICKER) / BAND  # centres of voxels are half a voxel from their faces


def _distance(to: torch.Tensor) -> torch.Tensor:
    """Voxels to the nearest True, up to RADIUS: the minimum of squared offsets, one axis at a time."""
    cost = torch.where(to, 0.0, float(RADIUS**2))
    for axis in (1, 2, 3):
        found = cost.clone()
        for step in range(1, RADIUS):
            near, far = found.narrow(axis, 0, found.shape[axis] - step), found.narrow(axis, step, found.shape[axis] - step)
            size = cost.shape[axis] - step
            torch.minimum(near, cost.narrow(axis, step, size) + step**2, out=near)
            torch.minimum(far, cost.narrow(axis, 0, size) + step**2, out=far)
        cost = found
    return cost.sqrt()


def resampled(distance: torch.Tensor, stretch: torch.Tensor, size: int = N) -> torch.Tensor:
    """Distances [B, M, M, M] -> fields [B, size, size, size], each stretched by ``stretch`` [B, 3] (x, y, z) about the middle of the floor.

    Stretches of 1 only change the resolution. By trilinear interpolation.
    """
    line = (torch.arange(size, device=distance.device) + 0.5) / size
    point = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    anchor = torch.tensor([0.5, 0.5, FLOOR], device=distance.device)
    source = (point - anchor) / stretch[:, None, None, None] + anchor
    grid = (2 * source - 1).flip(-1)  # grid_sample takes the last axis first
    # Outside the cube it is as empty as at its border.
    found = torch.nn.functional.grid_sample(distance[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return found.clamp(-1, 1)


def seen_from(field: torch.Tensor, view: int) -> torch.Tensor:
    """The field [B, N, N, N] of the same objects turned by ``view % 4`` quarters about z; views 4 to 7 are of their mirror images."""
    return torch.rot90(field.flip(1) if view >= 4 else field, view % 4, (1, 2))


def occupancy(field: torch.Tensor) -> torch.Tensor:
    """Fields -> the media of this modality, in [0, 1] with the surface at 0.5."""
    return torch.sigmoid(STEEP * field)
