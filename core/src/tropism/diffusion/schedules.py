"""Noise levels and what a network's output means.

A noised sample is ``x = alpha x0 + sigma eps``. A :class:`tropism.types.Level` holds the exact ``alpha`` and ``sigma`` with the time ``t``
that the network is told, so nothing is ever reconstructed from a rounded time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tropism.errors import PolicyError
from tropism.types import Level

PARAMETRIZATIONS = ("epsilon", "v_prediction", "sample", "flow", "edm")


def like(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Shape [B] -> [B, 1, ...] with as many axes as ``x``."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def split(prediction: torch.Tensor, x: torch.Tensor, level: Level, parametrization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The clean sample and the noise that a prediction implies: (x0, eps), float32.

    epsilon: the noise. sample: x0. v_prediction: alpha eps - sigma x0 (Salimans and Ho 2022). flow: eps - x0.
    edm: minus v, what the network of arXiv 2206.00364 gives inside its preconditioning.
    """
    alpha, sigma, x, out = like(level.alpha, x), like(level.sigma, x), x.float(), prediction.float()
    if parametrization == "epsilon":
        return (x - sigma * out) / alpha, out
    if parametrization == "sample":
        return out, (x - alpha * out) / sigma
    if parametrization == "edm":
        out, parametrization = -out, "v_prediction"
    if parametrization == "v_prediction":
        return alpha * x - sigma * out, alpha * out + sigma * x
    if parametrization == "flow":
        return (x - sigma * out) / (alpha + sigma), (x + alpha * out) / (alpha + sigma)
    raise PolicyError(f"unknown parametrization '{parametrization}'; expected one of {', '.join(PARAMETRIZATIONS)}")


def boundary_weights(level: Level, boundary: tuple[float, float] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(c_skip, c_out) of the consistency boundary condition (arXiv 2303.01469, appendix C) for (sigma_data, time scale)."""
    if boundary is None:
        return torch.zeros_like(level.t), torch.ones_like(level.t)
    data, scale = boundary
    scaled = level.t * scale
    return data**2 / (scaled**2 + data**2), scaled / (scaled**2 + data**2).sqrt()


class Schedule(Protocol):
    """The noise levels of a model: which a sampler visits, which training draws, and what the network's output means there."""

    @property
    def parametrization(self) -> str:
        """What the network predicts, one of :data:`PARAMETRIZATIONS`."""

    def levels(self, steps: int) -> Level:
        """Levels [steps+1] of the model's own sampler, most noise first; the last one is where the sample is read."""

    def consistency_levels(self, steps: int) -> Level:
        """Levels [steps+1] for sampling that denoises in one go and noises again; the last one is clean."""

    def draw(self, u: torch.Tensor) -> Level:
        """Training levels [B] for uniform numbers u [B] in [0, 1): 0 is nearly clean, 1 nearly noise."""

    def boundary_weights(self, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        """(c_skip, c_out) of a consistency model at a level; (0, 1) where the model has none."""


@dataclass(frozen=True)
class Diffusion:
    """The variance-preserving discrete schedule of the Stable Diffusion family.

    bar: [T] cumulative products of 1 - beta, float32. spacing, offset, final: how diffusers' DDIM places its steps and what it takes for
    the level behind the last one (1, or the first entry of ``bar``). original_steps: the grid that a consistency model was distilled on.
    boundary: (sigma_data, time scale) of the consistency boundary condition, None for other models.
    """

    bar: torch.Tensor
    parametrization: str = "epsilon"
    spacing: str = "leading"
    offset: int = 0
    final: float = 1.0
    original_steps: int = 50
    boundary: tuple[float, float] | None = None

    def draw(self, u: torch.Tensor) -> Level:
        """Every integer time is equally likely."""
        return self.at((u * len(self.bar)).long())

    def at(self, t: torch.Tensor) -> Level:
        """The levels of integer times [B]."""
        bar = self.bar.to(t.device, non_blocking=True)[t]
        return Level(t.float(), bar.sqrt(), (1 - bar).sqrt())

    def levels(self, steps: int) -> Level:
        """Levels [steps+1] for DDIM, most noise first; the last one is where the sample is read."""
        total = len(self.bar)
        _in_range(steps, total)
        if self.spacing == "leading":
            t = torch.arange(steps).flip(0) * (total // steps) + self.offset
        elif self.spacing == "trailing":
            t = (torch.arange(steps, 0, -1, dtype=torch.float64) * total / steps).round().long() - 1
        else:
            t = torch.linspace(0, total - 1, steps, dtype=torch.float64).round().long().flip(0)
        if t[0] >= total:
            raise PolicyError(f"{steps} sampler steps with offset {self.offset} begin at time {int(t[0])}; the last one is {total - 1}")
        return self._ending(t, self.final)

    def consistency_levels(self, steps: int) -> Level:
        """Levels [steps+1] for multistep consistency sampling: an even choice from the distillation grid, then the clean end."""
        _in_range(steps, self.original_steps)
        stride = len(self.bar) // self.original_steps
        grid = torch.arange(self.original_steps, 0, -1) * stride - 1
        chosen = torch.arange(steps) * self.original_steps // steps
        return self._ending(grid[chosen], 1.0)

    def boundary_weights(self, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        """(c_skip, c_out) of a consistency model at a level; (0, 1) where the model has none."""
        return boundary_weights(level, self.boundary)

    def _ending(self, t: torch.Tensor, final: float) -> Level:
        bar = torch.cat([self.bar[t], torch.tensor([final])])
        return Level(torch.cat([t.float(), torch.zeros(1)]), bar.sqrt(), (1 - bar).sqrt())


@dataclass(frozen=True)
class Flow:
    """Rectified flow, x = (1 - sigma) x0 + sigma eps (arXiv 2209.03003), with the resolution shift of SD3 (arXiv 2403.03206, equation 23).

    shift: sigma = shift u / (1 + (shift - 1) u). scale: the network is told t = scale sigma.
    """

    shift: float = 1.0
    scale: float = 1000.0
    parametrization: str = "flow"

    def levels(self, steps: int) -> Level:
        _in_range(steps, 1000)
        return self._shifted(torch.linspace(1, 0, steps + 1))

    def consistency_levels(self, steps: int) -> Level:
        return self.levels(steps)

    def draw(self, u: torch.Tensor) -> Level:
        return self._shifted(u)

    def boundary_weights(self, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        return boundary_weights(level, None)

    def _shifted(self, u: torch.Tensor) -> Level:
        sigma = self.shift * u / (1 + (self.shift - 1) * u)
        return Level(sigma * self.scale, 1 - sigma, sigma)


def from_config(config: Mapping[str, Any]) -> Diffusion:
    """Read a diffusers scheduler's configuration. Raises PolicyError for a schedule that is not of this family."""
    betas = {
        "linear": lambda a, b, n: torch.linspace(a, b, n, dtype=torch.float32),
        "scaled_linear": lambda a, b, n: torch.linspace(a**0.5, b**0.5, n, dtype=torch.float32) ** 2,
    }
    name = config.get("beta_schedule", "")
    if name not in betas:
        raise PolicyError(f"noise schedule '{name}' is not supported; expected one of {', '.join(betas)}")
    if unread := [key for key in ("trained_betas", "rescale_betas_zero_snr", "clip_sample", "thresholding") if config.get(key)]:
        raise PolicyError(f"noise schedules with {', '.join(unread)} are not supported")
    beta = betas[name](config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    bar = torch.cumprod(1 - beta, 0)
    consistency = "original_inference_steps" in config
    return Diffusion(
        bar=bar,
        parametrization=config.get("prediction_type", "epsilon"),
        spacing=config.get("timestep_spacing", "leading"),
        offset=config.get("steps_offset", 0),
        final=1.0 if config.get("set_alpha_to_one", True) else bar[0].item(),
        original_steps=config.get("original_inference_steps", 50),
        boundary=(0.5, config.get("timestep_scaling", 10.0)) if consistency else None,
    )


def _in_range(steps: int, most: int) -> None:
    if not 1 <= steps <= most:
        raise PolicyError(f"{steps} sampler steps; expected 1 to {most}")
