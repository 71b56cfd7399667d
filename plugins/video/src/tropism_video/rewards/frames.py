"""Rewards of pictures on clips: some frames are scored as pictures."""

from __future__ import annotations

from typing import Any

import torch

from tropism import assemble, plugins
from tropism.errors import RewardError
from tropism.recipe import Part
from tropism.rewards.base import needs

KNOWN = {"image", "prompt"}


def spread(frames: int, count: int) -> torch.Tensor:
    """Places of ``count`` frames spread evenly over a clip, first and last among them (the middle one where one is wanted): int64 [n]."""
    if count == 1:
        return torch.tensor([(frames - 1) // 2])
    return torch.linspace(0, frames - 1, min(count, frames), dtype=torch.float64).round().long()


class Frames:
    """The score of a clip by a reward of pictures: [B] float32 in that reward's own units.

    reward: the inner reward as in a recipe, e.g. ``{use: image/pickscore, dtype: float16}``. frames: how many are scored, evenly spread.
    reduce: ``mean``, or ``min`` for the worst frame, which a clip cannot make up for by others. A reward of frames says nothing about
    motion: a clip that stands still may score best, so watch ``video/motion``.
    """

    def __init__(self, reward: dict[str, Any], frames: int = 4, reduce: str = "mean") -> None:
        if not 1 <= frames <= 1024:
            raise RewardError(f"video/frames: {frames} frames; expected 1 to 1024")
        if reduce not in ("mean", "min"):
            raise RewardError(f"video/frames: reduce '{reduce}'; expected mean or min")
        part = Part.model_validate(reward)
        self.name, self.frames, self.reduce = part.use, frames, reduce
        self.inner = assemble.make(plugins.manager()[1], "rewards", part)
        self.wanted = needs(self.inner)
        if "image" not in self.wanted or not set(self.wanted) <= KNOWN:
            raise RewardError(f"video/frames: '{part.use}' needs {', '.join(self.wanted)}; expected a reward of image, or image and prompt")

    @property
    def differentiable(self) -> bool:
        return bool(getattr(self.inner, "differentiable", False))

    def to(self, device: torch.device | str) -> Frames:
        """Move the inner reward."""
        if hasattr(self.inner, "to"):
            self.inner.to(device)
        return self

    def __call__(self, video: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        if video.ndim != 5 or video.shape[2] != 3:
            raise RewardError(f"video/frames: found shape {list(video.shape)}; expected [B, frames, 3, height, width]")
        chosen = video[:, spread(video.shape[1], self.frames).to(video.device)]
        count = chosen.shape[1]
        given = {"image": chosen.flatten(0, 1), "prompt": [text for text in prompt for _ in range(count)]}
        scores = torch.as_tensor(self.inner(**{name: given[name] for name in self.wanted})).float().reshape(len(video), count)
        return scores.mean(1) if self.reduce == "mean" else scores.min(1).values


class ClipScore(Frames):
    """:class:`Frames` with ``image/clip-score``. model: transformers folder or model name. dtype: of the weights."""

    def __init__(self, model: str = "openai/clip-vit-large-patch14", dtype: str = "float32", frames: int = 4) -> None:
        super().__init__({"use": "image/clip-score", "model": model, "dtype": dtype}, frames)
