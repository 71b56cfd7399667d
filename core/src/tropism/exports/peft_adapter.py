"""The adapter as peft writes it: ``adapter_config.json`` and ``adapter_model.safetensors``, for networks into which diffusers loads none.

``PeftModel.from_pretrained(pipe.transformer, folder)`` puts it into the network in place (PixArt, HunyuanDiT, DiT, unconditional U-Nets).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from tropism.exports.learned import Learned, denoisers, factors, not_a_pipeline, without_adapter
from tropism.exports.lora import metadata

FILE = "adapter_model.safetensors"


class PeftAdapter:
    """One folder for each denoiser: the export itself where there is one, else a folder inside it with the denoiser's name."""

    relation, exact = "adapter", True

    def refusal(self, learned: Learned) -> str:
        return not_a_pipeline(learned) or without_adapter(learned)

    def write(self, learned: Learned, base: Any, out: Path, dtype: torch.dtype | None) -> None:
        assert learned.lora is not None
        for name, network in denoisers(learned.policy).items():
            folder = out / _inside(base, name)
            LoraConfig(**metadata(learned.lora), inference_mode=True).save_pretrained(str(folder))
            weights = {f"base_model.model.{key}": value for key, value in factors(network, dtype).items()}
            save_file(weights, folder / FILE, metadata={"format": "pt"})

    def load(self, base: Any, out: Path) -> None:
        for name, network in denoisers(base).items():
            # Not frozen, as in the trained policy: on a CPU a frozen weight may be multiplied by another kernel, which rounds differently.
            PeftModel.from_pretrained(network, str(out / _inside(base, name)), is_trainable=True)

    def usage(self, base: Any) -> list[str]:
        folders = {name: "/".join(["FOLDER", *filter(None, [_inside(base, name)])]) for name in denoisers(base)}
        loads = [f'peft.PeftModel.from_pretrained(pipe.{name}, "{folder}")  # in place' for name, folder in folders.items()]
        return ["import peft", *loads]


def _inside(policy: Any, name: str) -> str:
    return "" if len(denoisers(policy)) == 1 else name
