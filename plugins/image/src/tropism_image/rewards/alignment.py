"""Prompt alignment by the shipped scorers."""

from __future__ import annotations

import torch

from tropism_image.scorers import Scorer
from tropism_image.shipped import SCORER_A, SCORER_B


class Alignment:
    """Cosine of picture and prompt, in [-1, 1], by the convolutional scorer."""

    differentiable = True
    folder = SCORER_A

    def __init__(self) -> None:
        self.scorer = Scorer.from_pretrained(self.folder)

    def to(self, device: torch.device) -> Alignment:
        self.scorer.to(device)
        return self

    def __call__(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        scores: torch.Tensor = self.scorer(image, prompt)
        return scores


class AlignmentB(Alignment):
    """The same by the patch scorer, of another architecture, tokens and seed: never train on it, so that it can tell."""

    folder = SCORER_B
