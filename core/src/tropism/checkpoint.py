"""Checkpoints: one folder, written whole or not at all, nothing unpickled.

A state is a tree of dicts and lists whose leaves are tensors, numbers, strings, booleans and None. The tensors go to
``state.safetensors``, all else (and the tensors' places) to ``state.json``, whose digest of both is what tells a truncated or
altered checkpoint from a whole one.

The folder is filled under a temporary name, synced, and then renamed: on every POSIX file system the rename is the moment
at which the checkpoint exists. A crash before it leaves a ``.tmp-*`` folder, which the next save sweeps away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tropism.errors import CheckpointError

State = dict[str, Any]
TENSORS, META = "state.safetensors", "state.json"
VERSION = 1  # of this file format; another one is refused
_STEP = re.compile(r"step-(\d{8})")


def save(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write ``state`` as ``folder``, atomically. Raises CheckpointError (disk full, no permission) and leaves no debris."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(dict(state), "", tensors)
    temporary, replaced = (folder.with_name(f".tmp-{folder.name}-{os.getpid()}{end}") for end in ("", "-replaced"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        temporary.mkdir()
        save_file(tensors, temporary / TENSORS)
        meta = {"version": VERSION, "digest": _digest(temporary / TENSORS, tree), "tree": tree}
        (temporary / META).write_text(json.dumps(meta))
        for name in (TENSORS, META):
            _sync(temporary / name)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:  # safetensors reports a full disk as its own error class, not as OSError
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise CheckpointError(
            f"checkpoint {folder} could not be written: {error}\n"
            f"  earlier checkpoints in {folder.parent} are untouched; free some space and run 'tropism resume' on the run folder"
        ) from error
    return folder


def load(folder: Path) -> State:
    """Read a state back, bit for bit. Raises CheckpointError that names the folder and what is wrong with it."""
    try:
        meta = json.loads((folder / META).read_text())
        if (version := meta["version"]) != VERSION:
            raise ValueError(
                f"{META} is of format version {version!r}, and this tropism reads version {VERSION}; use the tropism that wrote it"
            )
        if _digest(folder / TENSORS, meta["tree"]) != meta["digest"]:
            raise ValueError(f"{TENSORS} or {META} does not match the digest (truncated or altered)")
        tensors = load_file(folder / TENSORS)
        state: State = _unpack(meta["tree"], tensors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {folder} cannot be read: {error}\n"
            f"  found: {sorted(p.name for p in folder.glob('*')) if folder.is_dir() else 'no such folder'}; "
            f"expected: {TENSORS} and {META}, as 'tropism run' writes them\n"
            f"  remove that folder to fall back on the checkpoint before it"
        ) from error
    return state


def step_folder(root: Path, step: int) -> Path:
    """The checkpoint folder of an update number."""
    return root / f"step-{step:08d}"


def steps(root: Path) -> list[Path]:
    """All whole checkpoints under ``root``, oldest first."""
    return sorted(p for p in root.glob("step-*") if _STEP.fullmatch(p.name) and (p / META).exists())


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = steps(root)
    return found[-1] if found else None


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for folder in steps(root)[:-keep]:
        # Renamed first: a removal that is killed half-way must not leave a folder that looks whole.
        shutil.rmtree(folder.rename(folder.with_name(f".tmp-{folder.name}")))


def sweep(root: Path) -> None:
    """Remove what a killed save left behind."""
    for debris in root.glob(".tmp-*"):
        shutil.rmtree(debris, ignore_errors=True)


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = path if path not in tensors else f"{path}#{len(tensors)}"  # {"a/b": ...} and {"a": {"b": ...}} have one path
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if isinstance(value, Mapping):
        # JSON keys are strings; torch optimizers key their state by integers, so the key's type is kept beside it.
        return {"$dict": [[key, _pack(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path or 'state'}: a {type(value).__name__} cannot be stored; expected tensors, numbers, text, dicts or lists")


def _unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        return {key: _unpack(item, tensors) for key, item in tree["$dict"]}
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    return tree


def _digest(path: Path, tree: Any) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(tree).encode())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
