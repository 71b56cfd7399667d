"""Finding and reading the weight files of rewards. Nothing is unpickled: safetensors, or tensors alone out of a torch file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tropism.errors import RewardError

# A folder in which files given by a bare name are looked for, after the working directory.
WEIGHTS_FOLDER = "TROPISM_WEIGHTS"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def find_weights(name: str, remedy: str) -> Path:
    """The file or folder ``name``: as it stands (``~`` expanded), else inside the folder named by the variable TROPISM_WEIGHTS.

    Raises RewardError that lists the places looked at, followed by ``remedy``: where the weights come from.
    """
    places = [Path(name).expanduser()]
    if folder := os.environ.get(WEIGHTS_FOLDER):
        places.append(Path(folder).expanduser() / name)
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    raise RewardError(f"no weights '{name}': looked for {looked}\n  {remedy}\n  or set {WEIGHTS_FOLDER} to the folder that holds them")


def read_safetensors(path: Path, remedy: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU. A torch file is refused, with the command that converts it."""
    if path.suffix in TORCH_SUFFIXES:
        command = f"python -m tropism_image.rewards.convert {path.name} {path.stem}.safetensors"
        raise RewardError(f"{path} is a pickled torch file, expected safetensors; convert it once:\n  {command}")
    if not path.is_file():
        raise RewardError(f"{path} is not a file, expected a .safetensors file\n  {remedy}")
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise RewardError(f"{path} cannot be read as safetensors: {error}\n  {remedy}") from error
    return tensors


def read_torch_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch checkpoint, on the CPU, read with ``weights_only=True``, so that no code in the file runs.

    Unwraps ``{"state_dict": ...}`` and drops what is not a tensor (epoch counters). Raises RewardError where nothing is left or the file
    asks for more than tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise RewardError(f"{path} cannot be read as a file of tensors alone: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value for key, value in entries if isinstance(value, torch.Tensor)}
    if not tensors:
        raise RewardError(f"{path} holds no tensors by name (found {type(content).__name__}), expected a state dict")
    return tensors


def whole(loaded: Any, source: str, extra_allowed: bool = False) -> Any:
    """The model of transformers' ``from_pretrained(..., output_loading_info=True)``, frozen and in evaluation mode.

    Raises RewardError that names ``source`` where weights are missing (transformers would fill them with noise), of another shape or,
    unless allowed, too many.
    """
    model, info = loaded
    kinds = ("missing_keys", "mismatched_keys") + (() if extra_allowed else ("unexpected_keys",))
    wrong = sorted(str(key) for kind in kinds for key in info[kind])
    if wrong:
        name = type(model).__name__
        raise RewardError(f"{source} does not fill a {name}: {len(wrong)} weights are missing, misshapen or unknown, the first {wrong[:3]}")
    return model.eval().requires_grad_(False)


def dtype_of(name: str) -> torch.dtype:
    """``float32``, ``bfloat16`` or ``float16`` as written in a recipe; RewardError for anything else."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise RewardError(f"unknown dtype '{name}' for a reward's weights, expected one of {', '.join(known)}")
    return known[name]
