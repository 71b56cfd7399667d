"""A Frechet distance to the emoji set, in the manner of FID (arXiv 1706.08500) with our own features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from safetensors.torch import load_file

from tropism.evaluate import Estimate
from tropism.types import Rollout
from tropism_image.scorers import Scorer
from tropism_image.shipped import SCORER_B, STATISTICS


def frechet(mean: torch.Tensor, cov: torch.Tensor, other_mean: torch.Tensor, other_cov: torch.Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64. The trace of the root is the sum of the roots of C1 C2's eigenvalues,
    which are those of the symmetric C1^(1/2) C2 C1^(1/2)."""
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    return float((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * cross)


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [D] and covariance [D, D] of features [N, D], float64."""
    return features.double().mean(0), torch.cov(features.double().T)


class Frechet:
    """Distance of the samples' features to those of all emoji that the generators learned from, times 1000.

    The interval is a bootstrap over samples. The number depends on how many samples there are; compare it only at equal numbers.
    """

    def __init__(self, resamples: int = 50) -> None:
        self.scorer, self.resamples = Scorer.from_pretrained(SCORER_B), resamples
        self.real = load_file(STATISTICS)

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        with torch.no_grad():
            features = self.scorer.to(samples.media["image"].device).features(samples.media["image"]).cpu().double()
        mean, cov = self.real["mean"].double(), self.real["cov"].double()
        value = 1000 * frechet(*moments(features), mean, cov)
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randint(len(features), (len(features),), generator=generator) for _ in range(self.resamples)]
        spread = torch.tensor([1000 * frechet(*moments(features[draw]), mean, cov) for draw in draws]).std().item()
        yield "image/frechet", Estimate(value, value - 1.96 * spread, value + 1.96 * spread)
