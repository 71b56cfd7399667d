"""The network that learned, as one safetensors file under its own names, an adapter merged in: what can be exported of any policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tropism.exports.learned import Learned, merged

FILE = "model.safetensors"


class Weights:
    """``policy.trainable().load_state_dict(load_file(...))`` takes it, on a policy of the same recipe."""

    relation, exact = "finetune", False

    def refusal(self, learned: Learned) -> str:
        return ""

    def write(self, learned: Learned, base: Any, out: Path, dtype: torch.dtype | None) -> None:
        found = merged(learned.policy.trainable())
        cast = {name: value.to(dtype) if dtype and value.is_floating_point() else value for name, value in found.items()}
        # Copies: weights that share memory are refused by safetensors.
        save_file({name: value.to("cpu", copy=True).contiguous() for name, value in cast.items()}, out / FILE, metadata={"format": "pt"})

    def load(self, base: Any, out: Path) -> None:
        base.trainable().load_state_dict(load_file(out / FILE))

    def usage(self, base: Any) -> list[str]:
        return [f'policy.trainable().load_state_dict(safetensors.torch.load_file("FOLDER/{FILE}"))']
