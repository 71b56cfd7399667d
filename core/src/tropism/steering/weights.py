"""Log-weights of particles: float64 [P, K], P prompts of K particles; minus infinity is a particle without weight."""

from __future__ import annotations

import math

import torch


def normalised(logw: torch.Tensor) -> torch.Tensor:
    """Weights [P, K] that sum to 1 for each prompt."""
    return torch.softmax(logw, 1)


def effective(logw: torch.Tensor) -> torch.Tensor:
    """Effective sample size [P], 1 / sum of the squared normalised weights: K where all are equal, 1 where one has all the weight."""
    return torch.exp(2 * torch.logsumexp(logw, 1) - torch.logsumexp(2 * logw, 1))


def particles_of(part: float, count: torch.Tensor) -> torch.Tensor:
    """The effective size that is ``part`` of the way from one particle to all ``count``, 1 + part (count - 1).

    For many particles that is the customary part of them; of two or three, a half of them would be a size that cannot be reached.
    """
    return 1 + part * (count - 1)


def log_mean(logw: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Log of the mean weight; of [P, K] -> [P]."""
    return torch.logsumexp(logw, dim) - math.log(logw.shape[dim])
