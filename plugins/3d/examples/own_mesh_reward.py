"""A reward of your own on meshes, in one file: furniture that takes little material for the room that it takes.

    tropism run 3d/dso-dro 'rewards=[{use: 3d/airy}]' name=3d/airy --plugin plugins/3d/examples/own_mesh_reward.py

Every generator of 3D gives ``occupancy`` [B, N, N, N], z up; ``from_occupancy`` makes a closed mesh of each, or says why there is none, and
what has no mesh gets a score too: the worst. Watch what the reward does not ask for: the recipe's guard stops where shapes are no longer
those of the pictures.
"""

from __future__ import annotations

import torch

from tropism import Entry, hookimpl
from tropism_3d.shapes import Shape, from_occupancy


@hookimpl
def register_rewards() -> list[Entry]:
    return [Entry("3d/airy", "own_mesh_reward:airy", "share of an object's convex hull that is left empty, 0 to 1; -1 where there is none")]


def airy(occupancy: torch.Tensor) -> torch.Tensor:
    """occupancy: [B, N, N, N] in [0, 1]. Returns [B]."""
    return torch.tensor([_empty(shape) for shape in from_occupancy(occupancy)])


def _empty(shape: Shape) -> float:
    return -1.0 if shape.mesh is None else 1 - float(shape.mesh.volume / shape.mesh.convex_hull.volume)
