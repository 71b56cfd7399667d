"""A world with exact answers: a mixture of Gaussians in the plane, its exact denoiser, and a small correction that learns.

Tests, documentation and ``toy/ddpo`` run in it, in seconds and on any machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Diffusion, Flow, Schedule
from tropism.errors import PolicyError
from tropism.types import Item, Level, Tree

TOY_PARAMETRIZATIONS = ("epsilon", "v_prediction", "sample", "flow")


class Correction(torch.nn.Module):
    """The exact prediction of a mixture, in a parametrization, plus a perceptron that starts at zero."""

    def __init__(self, centres: torch.Tensor, width: float, parametrization: str = "epsilon") -> None:
        super().__init__()
        self.parametrization = parametrization
        self.register_buffer("centres", centres)
        self.spread = width
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
        )
        for parameter in self.layers[-1].parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        features = torch.cat([x, alpha[:, None], sigma[:, None]], 1)
        correction: torch.Tensor = self.layers(features)
        return self.exact(x, alpha, sigma) + correction

    def exact(self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        x0, noise = exact_ends(x, alpha, sigma, self.get_buffer("centres"), self.spread)
        if self.parametrization == "flow":
            return noise - x0
        if self.parametrization == "v_prediction":
            return alpha[:, None] * noise - sigma[:, None] * x0
        return x0 if self.parametrization == "sample" else noise


def exact_ends(
    x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, centres: torch.Tensor, width: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(E[x0 | x], E[eps | x]) for x = alpha x0 + sigma eps and x0 from an even mixture of N(centre, width^2 I).

    x: [B, 2], alpha and sigma [B], centres [K, 2]. Finite also where alpha or sigma is 0.
    """
    variance = (alpha * width) ** 2 + sigma**2
    gap = x[:, None] - alpha[:, None, None] * centres[None]
    weight = torch.softmax(-gap.square().sum(-1) / (2 * variance[:, None]), 1)
    pull = (weight[..., None] * gap).sum(1) / variance[:, None]
    return weight @ centres + (alpha * width**2)[:, None] * pull, sigma[:, None] * pull


def exact_noise(x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, centres: torch.Tensor, width: float) -> torch.Tensor:
    """E[eps | x]; see :func:`exact_ends`."""
    return exact_ends(x, alpha, sigma, centres, width)[1]


class ToyPolicy:
    """Eight modes on a circle of radius 2. The six methods of a policy, in the plane.

    parametrization: what the network says; ``flow`` walks the straight path of rectified flow, the others a variance-preserving one.
    """

    emits = frozenset({"points"})

    def __init__(self, modes: int = 8, radius: float = 2.0, width: float = 0.2, seed: int = 0, parametrization: str = "epsilon") -> None:
        if parametrization not in TOY_PARAMETRIZATIONS:
            raise PolicyError(f"parametrization '{parametrization}'; the toy has {', '.join(TOY_PARAMETRIZATIONS)}")
        angle = torch.arange(modes) * (2 * math.pi / modes)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = Correction(radius * torch.stack([angle.cos(), angle.sin()], 1), width, parametrization)
        bar = torch.cumprod(1 - torch.linspace(1e-3, 0.12, 100), 0)
        self.schedule: Schedule = Flow() if parametrization == "flow" else Diffusion(bar=bar, parametrization=parametrization)

    def encode(self, items: list[Item]) -> Tree:
        return {"none": torch.zeros(len(items), 1)}

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        prediction: torch.Tensor = self.network(x, level.alpha, level.sigma)
        return prediction.float()

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        return draw((2,))

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"points": x0}

    def embed(self, media: dict[str, torch.Tensor]) -> torch.Tensor:
        return media["points"].float()

    def trainable(self) -> torch.nn.Module:
        return self.network


class Near:
    """Minus the distance to a point: the mode there is what the policy should learn to choose."""

    differentiable = True

    def __init__(self, x: float = 2.0, y: float = 0.0) -> None:
        self.goal = torch.tensor([x, y])

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        distance: torch.Tensor = (points - self.goal.to(points)).square().sum(1).sqrt()
        return -distance


class PointView:
    """A point as a dot in a square that spans -4 to 4."""

    kind = "points"

    def save(self, media: torch.Tensor, folder: Path, stem: str) -> str:
        (folder / f"{stem}.json").write_text(json.dumps(media.tolist()))
        return f"{stem}.json"

    def load(self, parts: Sequence[bytes], shape: tuple[int, ...]) -> torch.Tensor:
        """A point as :meth:`save` wrote it. Raises ValueError for anything else."""
        found = torch.tensor(json.loads(parts[0]), dtype=torch.float32)
        if found.shape != shape or not found.isfinite().all():
            raise ValueError(f"found {found.tolist()}; expected the {shape[0]} coordinates of a point")
        return found

    def html(self, file: Path) -> str:
        x, y = (float(value) for value in json.loads(file.read_text()))
        return (
            '<svg viewBox="-4 -4 8 8" width="64" height="64" role="img" aria-label="a point">'
            f'<rect x="-4" y="-4" width="8" height="8" fill="#8881"/><circle cx="{x:.3f}" cy="{-y:.3f}" r=".25" fill="currentColor"/></svg>'
        )


def posterior_mean(x: torch.Tensor, level: Level, centres: torch.Tensor, width: float) -> torch.Tensor:
    """E[x0 | x], exact: what a denoiser of this world should give. x: [B, 2]."""
    return exact_ends(x, level.alpha, level.sigma, centres, width)[0]
