"""How alike two shapes are: Chamfer distance and F-score of their surfaces after alignment, for a whole batch at once.

The protocol of DSO (arXiv 2503.22677, section 5): both shapes are moved to the middle of their bounding boxes and scaled to a longest side
of 1, the first is aligned to the second by point-to-point ICP (Besl and McKay 1992), and then

    Chamfer = (mean distance of a's points to b + mean distance of b's points to a) / 2
    F-score = harmonic mean of the shares of a's and b's points within ``tau`` of the other

Distances are between points drawn from the surfaces, so that even a shape and itself are some 0.01 apart with 4096 points, F-score 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh

from tropism_3d.shapes import Shape

POINTS, COARSE = 4096, 1024  # of a surface; of those, the ones that are aligned
TAU = 0.05
LOST = 1.0  # the Chamfer distance of a shape that is not there: the longest side


@dataclass(frozen=True)
class Cloud:
    """Points [B, POINTS, 3] float32 of B surfaces, normalised as above; zeros where there is no surface, which ``there`` [B] tells."""

    points: torch.Tensor
    there: torch.Tensor

    @staticmethod
    def of(shapes: Sequence[Shape], seed: int = 0) -> Cloud:
        points = np.zeros((len(shapes), POINTS, 3), np.float32)
        for row, shape in enumerate(shapes):
            if shape.mesh is not None:
                low, high = shape.mesh.bounds
                drawn, _ = trimesh.sample.sample_surface(shape.mesh, POINTS, seed=seed)
                points[row] = (drawn - (low + high) / 2) / max((high - low).max(), 1e-12)
        return Cloud(torch.from_numpy(points), torch.tensor([shape.mesh is not None for shape in shapes]))

    def __getitem__(self, rows: slice | torch.Tensor) -> Cloud:
        return Cloud(self.points[rows], self.there[rows])

    def __len__(self) -> int:
        return len(self.points)


def compare(a: Cloud, b: Cloud, tau: float = TAU, chunk: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """(Chamfer [B], F-score [B]) of B pairs. Where one of the two is not there: ``LOST`` and 0."""
    parts = [_compare(a[i : i + chunk].points, b[i : i + chunk].points, tau) for i in range(0, len(a), chunk)]
    chamfer, score = (torch.cat(column) for column in zip(*parts, strict=True))
    both = a.there & b.there
    return torch.where(both, chamfer, LOST), torch.where(both, score, 0.0)


def _compare(a: torch.Tensor, b: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    turn, shift = align(a[:, :COARSE], b[:, :COARSE])
    gap = torch.cdist(a @ turn.mT + shift, b)
    there, back = gap.amin(2), gap.amin(1)
    precision, recall = (there < tau).float().mean(1), (back < tau).float().mean(1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return (there.mean(1) + back.mean(1)) / 2, score


def align(a: torch.Tensor, b: torch.Tensor, steps: int = 15) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation [B, 3, 3] and shift [B, 1, 3] that bring points a [B, P, 3] near b [B, Q, 3]: a @ rotation.mT + shift.

    Each step pairs every point of a with the nearest of b and solves for the rigid motion (Kabsch 1976); reflections are not allowed.
    """
    turn = torch.eye(3, dtype=a.dtype, device=a.device).expand(len(a), 3, 3)
    shift = torch.zeros_like(a[:, :1])
    for _ in range(steps):
        nearest = torch.cdist(a @ turn.mT + shift, b).argmin(2)
        goal = torch.gather(b, 1, nearest[..., None].expand(-1, -1, 3))
        turn, shift = rigid(a, goal)
    return turn, shift


def rigid(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation [B, 3, 3] and shift [B, 1, 3] that bring points a [B, P, 3] to b [B, P, 3] with the least sum of squares."""
    middle_a, middle_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
    u, _, vt = torch.linalg.svd((b - middle_b).mT @ (a - middle_a))
    sign = torch.ones_like(u[:, 0])
    sign[:, 2] = torch.linalg.det(u) * torch.linalg.det(vt)
    turn = (u * sign[:, None]) @ vt
    return turn, middle_b - middle_a @ turn.mT


def silhouette_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of silhouettes [B, H, W] of 0 and 1; 1 where both are empty."""
    a, b = a > 0.5, b > 0.5
    union = (a | b).flatten(1).sum(1)
    return torch.where(union > 0, (a & b).flatten(1).sum(1) / union.clamp(min=1), 1.0)


def footprint(solid: torch.Tensor) -> torch.Tensor:
    """The area on which solids [B, N, N, N] bool (z last) rest, as a share of the cube's floor: the union of their two lowest layers."""
    filled = solid.flatten(1, 2).any(1)  # [B, N]
    lowest = filled.to(torch.uint8).argmax(1)
    layers = torch.stack([lowest, (lowest + 1).clamp(max=solid.shape[-1] - 1)], 1)
    taken = torch.gather(solid, 3, layers[:, None, None].expand(-1, solid.shape[1], solid.shape[2], -1))
    return taken.any(-1).flatten(1).float().mean(1)
