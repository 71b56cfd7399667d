"""Depth pictures: what a shape looks like to a camera, and the condition of the shipped generator (as DSO's is a photograph).

The camera is orthographic and stands still: ``AZIMUTH`` beside the front (minus y) and ``ELEVATION`` above the floor; objects turn.
"""

from __future__ import annotations

import functools
import math

import torch

SIZE = 32  # pixels of a side
AZIMUTH, ELEVATION = math.radians(30), math.radians(25)
REACH = 0.72  # half the width of the picture, and half the depth that rays go through, in units of the cube's side
STEPS = 72  # along a ray


@functools.cache
def rays(size: int) -> torch.Tensor:
    """Flat indices [SIZE^2, STEPS] into a grid of ``size`` voxels a side, padded by one empty voxel; nearest first."""
    toward = torch.tensor([-math.sin(AZIMUTH) * math.cos(ELEVATION), -math.cos(AZIMUTH) * math.cos(ELEVATION), math.sin(ELEVATION)])
    right = torch.tensor([math.cos(AZIMUTH), -math.sin(AZIMUTH), 0.0])
    up = torch.linalg.cross(toward, right)
    pixel = ((torch.arange(SIZE) + 0.5) / SIZE * 2 - 1) * REACH
    along = ((torch.arange(STEPS) + 0.5) / STEPS * 2 - 1) * REACH
    point = 0.5 + pixel.flip(0)[:, None, None, None] * up + pixel[None, :, None, None] * right - along[None, None, :, None] * toward
    index = (point * size).floor().long().clamp(-1, size) + 1
    flat: torch.Tensor = (index[..., 0] * (size + 2) + index[..., 1]) * (size + 2) + index[..., 2]
    return flat.reshape(SIZE * SIZE, STEPS)


def depth(inside: torch.Tensor) -> torch.Tensor:
    """Fields that are positive inside [B, N, N, N] -> [B, 2, SIZE, SIZE] in [0, 1]: nearness (1 at the near end, 0 where there is nothing)
    and silhouette."""
    padded = torch.nn.functional.pad(inside, (1,) * 6, value=-1.0).flatten(1)
    hit = padded[:, rays(inside.shape[-1]).to(inside.device)] > 0  # [B, SIZE^2, STEPS]
    seen = hit.any(-1)
    first = hit.to(torch.uint8).argmax(-1)
    near = torch.where(seen, 1 - first.float() / STEPS, 0.0)
    return torch.stack([near, seen.float()], 1).reshape(len(inside), 2, SIZE, SIZE)
