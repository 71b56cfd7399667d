"""The adapter as diffusers writes it: ``pytorch_lora_weights.safetensors`` with rank, alpha and targets in its metadata.

Where the pipeline class has a LoRA loader, ``pipe.load_lora_weights(folder)`` takes it; else the denoiser's own ``load_lora_adapter`` does.
Text encoders are untouched. The factors are stored as trained (float32), so a float32 pipeline is equal
to the bit; into a half-precision network diffusers loads them rounded.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE, LoraBaseMixin

from tropism.exports.learned import Learned, denoisers, factors, not_a_pipeline, without_adapter
from tropism.policies.adapters import Lora


class LoraFile:
    """One file for what the pipeline's loader takes, one more for each other denoiser."""

    relation, exact = "adapter", True

    def refusal(self, learned: Learned) -> str:
        return not_a_pipeline(learned) or without_adapter(learned) or _unloadable(learned.policy)

    def write(self, learned: Learned, base: Any, out: Path, dtype: torch.dtype | None) -> None:
        assert learned.lora is not None
        found = {name: factors(network, dtype) for name, network in denoisers(learned.policy).items()}
        own = loaded_by_pipeline(base)
        if own:
            layers = {f"{name}_lora_layers": found[name] for name in own}
            about = {f"{name}_lora_adapter_metadata": metadata(learned.lora) for name in own}
            base.pipe.save_lora_weights(out, weight_name=LORA_WEIGHT_NAME_SAFE, **layers, **about)
        for name, file in other_files(base).items():
            LoraBaseMixin.write_lora_layers(found[name], str(out), True, file, None, True, metadata(learned.lora))

    def load(self, base: Any, out: Path) -> None:
        if loaded_by_pipeline(base):
            base.pipe.load_lora_weights(str(out))
        for name, file in other_files(base).items():
            getattr(base.pipe, name).load_lora_adapter(str(out), weight_name=file, prefix=None)

    def usage(self, base: Any) -> list[str]:
        lines = ['pipe.load_lora_weights("FOLDER")'] if loaded_by_pipeline(base) else []
        others = other_files(base).items()
        return lines + [f'pipe.{part}.load_lora_adapter("FOLDER", weight_name="{file}", prefix=None)' for part, file in others]


def metadata(lora: Lora) -> dict[str, Any]:
    """What a loader needs to build the adapter. No more than that: a field unknown to an older peft would be refused there."""
    return {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(lora.targets)}


def loaded_by_pipeline(policy: Any) -> list[str]:
    """The denoisers that the pipeline's own ``save_lora_weights`` and ``load_lora_weights`` know."""
    if not isinstance(policy.pipe, LoraBaseMixin):
        return []
    known = inspect.signature(policy.pipe.save_lora_weights).parameters
    return [
        name
        for name, network in denoisers(policy).items()
        if {f"{name}_lora_layers", f"{name}_lora_adapter_metadata"} <= known.keys() and hasattr(network, "load_lora_adapter")
    ]


def other_files(policy: Any) -> dict[str, str]:
    """The denoisers that are loaded by themselves, and the file of each; the only one has diffusers' usual name."""
    names = [name for name in denoisers(policy) if name not in loaded_by_pipeline(policy)]
    return {name: LORA_WEIGHT_NAME_SAFE if len(denoisers(policy)) == 1 else f"{name}_lora_weights.safetensors" for name in names}


def _unloadable(policy: Any) -> str:
    without = [name for name in other_files(policy) if not hasattr(denoisers(policy)[name], "load_lora_adapter")]
    if not without:
        return ""
    kinds = ", ".join(type(denoisers(policy)[name]).__name__ for name in without)
    return f"diffusers loads no adapter into the {kinds} of a {type(policy.pipe).__name__}; export it with --format peft or merged"
