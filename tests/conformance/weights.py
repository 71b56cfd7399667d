"""What every tiny pipeline shares: random weights with which everything matters, the same at every build, and things to feed it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

PROMPTS: list[dict[str, Any]] = [{"prompt": "a red apple"}, {"prompt": "two blue boats at sea"}]
"""The two items of every family that takes a prompt and nothing else."""


def fill(network: torch.nn.Module, keep: tuple[str, ...] = ()) -> torch.nn.Module:
    """Random weights with which everything matters: the text, x, t, and the layers that training would start at zero.

    Matrices and convolutions are normal with deviation 1 / sqrt(fan_in), tables (embeddings, modulation tables, registers) with 1,
    biases with 0.1; the scales of norms stay. Parameters whose name contains one of ``keep`` are left alone.
    """
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(word in name for word in keep):
                continue
            if parameter.ndim > 1:
                table = id(parameter) in embeddings or not name.endswith("weight")
                parameter.normal_(0, 1.0 if table else parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return network


def built(make: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    """A builder whose random weights are the same at every call, with networks frozen in eval mode and no progress bar."""

    @functools.wraps(make)
    def build() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            pipe = make()
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


def picture(side: int = 16, seed: int = 0) -> Image.Image:
    """An RGB image of noise, ``side`` pixels square."""
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def hole(side: int = 16) -> Image.Image:
    """A mask whose right half is to be painted: 255 there and 0 elsewhere."""
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[:, side // 2 :] = 255
    return Image.fromarray(mask.numpy())
