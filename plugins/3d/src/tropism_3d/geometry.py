"""How alike two shapes are: Chamfer distance and F-score of their surfaces after alignment.

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
from scipy.spatial import KDTree

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


def compare(a: Cloud, b: Cloud, tau: float = TAU) -> tuple[torch.Tensor, torch.Tensor]:
    """(Chamfer [B], F-score [B]) of B pairs. Where one of the two is not there: ``LOST`` and 0."""
    found = [
        likeness(one.astype(float), other.astype(float), tau) if both else (LOST, 0.0)
        for one, other, both in zip(a.points.numpy(), b.points.numpy(), (a.there & b.there).tolist(), strict=True)
    ]
    chamfer, score = torch.tensor(found, dtype=torch.float32).reshape(-1, 2).unbind(1)
    return chamfer, score


def likeness(a: np.ndarray, b: np.ndarray, tau: float = TAU) -> tuple[float, float]:
    """(Chamfer, F-score) of points [P, 3] and [Q, 3], the first aligned to the second."""
    turn, shift = align(a[:COARSE], b[:COARSE])
    moved = a @ turn.T + shift
    there, back = KDTree(b).query(moved)[0], KDTree(moved).query(b)[0]
    precision, recall = (there < tau).mean(), (back < tau).mean()
    return float(there.mean() + back.mean()) / 2, float(2 * precision * recall / max(precision + recall, 1e-12))


def align(a: np.ndarray, b: np.ndarray, steps: int = 20, enough: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and shift [3] that bring points a [P, 3] near b [Q, 3]: a @ rotation.T + shift.

    Each step pairs every point of a with the nearest of b and solves for the rigid motion; ends early where the mean square distance falls
    by less than ``enough`` of itself.
    """
    tree, turn, shift, last = KDTree(b), np.eye(3), np.zeros(3), np.inf
    for _ in range(steps):
        distance, nearest = tree.query(a @ turn.T + shift)
        now = float((distance**2).mean())
        if now == 0 or last - now < enough * last:
            break
        turn, shift = rigid(a, b[nearest])
        last = now
    return turn, shift


def rigid(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation [3, 3] and shift [3] that bring points a [P, 3] to b [P, 3] with the least sum of squares (Kabsch 1976), no mirror."""
    middle_a, middle_b = a.mean(0), b.mean(0)
    u, _, vt = np.linalg.svd((b - middle_b).T @ (a - middle_a))
    turn = (u * [1, 1, np.linalg.det(u) * np.linalg.det(vt)]) @ vt
    return turn, middle_b - turn @ middle_a


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
