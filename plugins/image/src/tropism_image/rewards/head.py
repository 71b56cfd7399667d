"""The score head shared by the LAION aesthetic predictor and ImageReward: linear layers in a row with nothing between them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from tropism.errors import RewardError


def linear_head(tensors: Mapping[str, torch.Tensor], source: str) -> nn.Sequential:
    """A frozen float32 head, features [B, D] -> [B, 1], from weights named ``layers.N.weight`` (published MLPs) or ``weight`` (one layer).

    The published MLPs, 768-1024-128-64-16-1, have dropout between their layers, which does nothing at evaluation, and no activation; the
    gaps in N (0, 2, 4, 6, 7) are those dropouts. Raises RewardError that names ``source`` where the layers do not fit one another.
    """
    numbers = sorted(int(match[1]) for key in tensors if (match := re.fullmatch(r"layers\.(\d+)\.weight", key)))
    names = [f"layers.{number}." for number in numbers] or [""]
    expected = {name + part for name in names for part in ("weight", "bias")}
    if expected != set(tensors):
        raise RewardError(f"{source} is no score head: expected layers.N.weight and .bias, or weight and bias, found {sorted(tensors)[:6]}")
    layers = []
    width = tensors[names[0] + "weight"].shape[-1]
    for name in names:
        weight, bias = tensors[name + "weight"].float(), tensors[name + "bias"].float()
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise RewardError(f"{source}: layer '{name}weight' has shape {list(weight.shape)}, expected [*, {width}] and a bias to match")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        width = weight.shape[0]
    if width != 1:
        raise RewardError(f"{source}: the last layer gives {width} numbers a picture, expected 1")
    return nn.Sequential(*layers).eval().requires_grad_(False)
