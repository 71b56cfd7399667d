"""How different the samples of one prompt are."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tropism.evaluate import Estimate
from tropism.types import Rollout
from tropism_image.scorers import Scorer
from tropism_image.shipped import SCORER_B


class Diversity:
    """Mean cosine distance of each sample's features to those of its siblings, in [0, 2]; 0 means that seeds no longer matter."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_pretrained(SCORER_B)

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        with torch.no_grad():
            features = self.scorer.to(samples.media["image"].device).features(samples.media["image"])
        group = samples.cond.group.to(features.device)
        sibling = (group[:, None] == group[None]).float().fill_diagonal_(0)
        distance = 1 - features @ features.T
        yield "image/diversity", (distance * sibling).sum(1) / sibling.sum(1).clamp(min=1)
