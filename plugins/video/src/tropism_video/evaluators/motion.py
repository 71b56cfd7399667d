"""How much a clip moves: rewards of frames can be raised by clips that stand still."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tropism.errors import TropismError
from tropism.evaluate import Estimate
from tropism.types import Rollout


def motion(video: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference of neighbouring frames of clips [B, F, C, H, W] in [0, 1]: [B] float32, 0 for a still."""
    if video.ndim != 5 or video.shape[1] < 2:
        raise TropismError(f"motion needs clips [B, frames, channels, height, width] of at least two frames; found {list(video.shape)}")
    return (video[:, 1:].float() - video[:, :-1].float()).abs().flatten(1).mean(1)


class Motion:
    """``video/motion``: mean absolute difference of neighbouring frames, in [0, 1]; ``video/motion-ratio``: that to the base model's."""

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        now = motion(samples.media["video"])
        yield "video/motion", now
        before = motion(base.media["video"]).mean()
        yield "video/motion-ratio", now / before.clamp(min=1e-6)
