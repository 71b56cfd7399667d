"""A reward of your own in one file: pictures that are red.

    tropism run image/rlcm-align 'rewards=[{use: image/redness}]' name=image/rlcm-redness \\
        --plugin plugins/image/examples/own_reward.py

A reward is any callable. The names of its arguments say what it needs (``image``, ``prompt``, ``seed``, ``x0``), it returns one number for
each sample, and higher is better. Arguments with a default can be set in the recipe: ``{use: image/redness, share: 0.3}``.
"""

from __future__ import annotations

import torch

from tropism import Entry, hookimpl


@hookimpl
def register_rewards() -> list[Entry]:
    return [Entry("image/redness", "own_reward:redness", "mean red less the mean of green and blue, -1 to 1")]


def redness(image: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """image: [B, 3, H, W] in [0, 1]. share: of green in what is taken off, the rest is blue. Returns [B]."""
    red, green, blue = image.flatten(2).mean(2).unbind(1)
    return red - share * green - (1 - share) * blue
