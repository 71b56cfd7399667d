"""The adapter of a U-Net under the names of kohya-ss: ``lora_unet_<layer, _ for .>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``.

The common tongue of programs outside diffusers, which read no metadata: alpha stands beside every pair of factors. Checked by
loading it with diffusers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from safetensors.torch import save_file

from tropism.exports.learned import Learned, Weights, denoisers, factors, not_a_pipeline, without_adapter

FILE = "lora_kohya.safetensors"
READERS = (StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin)


class KohyaFile:
    """One file. alpha / rank is formed from a float32 alpha, which equals the trained scale for all alphas that float32 holds exactly."""

    relation, exact = "adapter", False

    def refusal(self, learned: Learned) -> str:
        if found := not_a_pipeline(learned) or without_adapter(learned):
            return found
        parts = list(denoisers(learned.policy))
        if parts == ["unet"] and isinstance(learned.policy.pipe, READERS):
            return ""
        return (
            f"kohya's names are for the U-Nets of Stable Diffusion 1, 2 and XL; this is the {', '.join(parts)} of a "
            f"{type(learned.policy.pipe).__name__}; export it with --format lora"
        )

    def write(self, learned: Learned, base: Any, out: Path, dtype: torch.dtype | None) -> None:
        assert learned.lora is not None
        found = renamed(factors(denoisers(learned.policy)["unet"], dtype), learned.lora.alpha)
        about = {"ss_network_dim": str(learned.lora.rank), "ss_network_alpha": str(learned.lora.alpha)}
        save_file(found, out / FILE, metadata={"format": "pt", "ss_network_module": "networks.lora", **about})

    def load(self, base: Any, out: Path) -> None:
        base.pipe.load_lora_weights(str(out), weight_name=FILE)

    def usage(self, base: Any) -> list[str]:
        return [f'pipe.load_lora_weights("FOLDER", weight_name="{FILE}")  # or put the file where your program keeps its LoRAs']


def renamed(found: Weights, alpha: float) -> Weights:
    """peft's names to kohya's, with an alpha for each layer."""
    ends = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    named: Weights = {}
    for key, value in found.items():
        end = next(end for end in ends if key.endswith(end))
        layer = "lora_unet_" + key.removesuffix(end).replace(".", "_")
        named[layer + ends[end]] = value
        named[f"{layer}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return named
