"""The whole pipeline as a diffusers folder: an adapter is added to the weights, full training replaces them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from tropism.exports import ExportError
from tropism.exports.learned import Learned, denoisers, merged, not_a_pipeline


class MergedPipeline:
    """``DiffusionPipeline.from_pretrained(folder)`` loads it; no adapter, no peft and no base model needed."""

    relation, exact = "finetune", False

    def refusal(self, learned: Learned) -> str:
        return not_a_pipeline(learned)

    def write(self, learned: Learned, base: Any, out: Path, dtype: torch.dtype | None) -> None:
        for name, network in denoisers(learned.policy).items():
            denoisers(base)[name].load_state_dict(merged(network))
        if dtype is not None:
            base.pipe.to(dtype=dtype)
        base.pipe.save_pretrained(out, safe_serialization=True)
        _forget_origin(out)

    def load(self, base: Any, out: Path) -> None:
        networks = denoisers(base)
        first = next(next(iter(networks.values())).parameters())
        logging.disable_progress_bar()
        try:
            pipe = DiffusionPipeline.from_pretrained(str(out), dtype=first.dtype, use_safetensors=True).to(first.device)
        finally:
            logging.enable_progress_bar()
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        base.pipe.register_modules(**pipe.components)
        if any(denoisers(base)[name] is network for name, network in networks.items()):
            raise ExportError(f"the parts of {type(base.pipe).__name__} cannot be replaced, so the export cannot be checked")

    def usage(self, base: Any) -> list[str]:
        return []


def _forget_origin(folder: Path) -> None:
    """A part's configuration may say where it was loaded from; where that is a folder, it tells of a machine and not of the model."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        told = {"_name_or_path", "name_or_path"} & content.keys() if isinstance(content, dict) else set()
        if local := {key for key in told if Path(str(content[key])).is_absolute()}:
            kept = {key: value for key, value in content.items() if key not in local}
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
