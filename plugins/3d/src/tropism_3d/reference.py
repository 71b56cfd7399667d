"""The real object behind a prompt: what a sample can be compared with."""

from __future__ import annotations

import functools

import torch

from tropism_3d import furniture, shapes
from tropism_3d.depth import depth
from tropism_3d.fields import occupancy
from tropism_3d.geometry import Cloud


@functools.cache
def real(name: str, view: int) -> tuple[Cloud, torch.Tensor]:
    """The surface of a piece of furniture and its silhouette [SIZE, SIZE], seen from one side. Kept: some 50 kB each."""
    field = furniture.field([name], view)
    return Cloud.of(shapes.from_occupancy(occupancy(field)), seed=1), depth(field)[0, 1]


def clouds(names: list[str], views: list[int]) -> tuple[Cloud, torch.Tensor]:
    """The surfaces and silhouettes [B, SIZE, SIZE] of B objects."""
    found = [real(name, view) for name, view in zip(names, views, strict=True)]
    cloud = Cloud(torch.cat([one.points for one, _ in found]), torch.cat([one.there for one, _ in found]))
    return cloud, torch.stack([picture for _, picture in found])
