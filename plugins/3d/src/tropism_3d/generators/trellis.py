"""TRELLIS' first stage (arXiv 2412.01506), the model that DSO tunes: a picture's tokens to a latent grid to occupancy, from a checkout.

TRELLIS is no package: its import pulls in CUDA kernels that its first stage does not need. So two of its modules are imported from the
folder that the user cloned, without the package's own ``__init__``, and nothing else of it runs. What is asked of them: a flow module
called as ``flow(x, 1000 t, tokens)`` that gives eps - x0 and has ``resolution`` and ``in_channels``, and a decoder that gives logits
[B, 1, N, N, N].
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Flow, like
from tropism.errors import PolicyError
from tropism.types import Item, Level, Tree

DRAWN = (1.0, 1.0)  # mean and deviation of the logit of sigma at which it was pretrained, and at which DSO learns
MODULES = {"sparse_structure_flow_model": "sparse_structure_flow", "sparse_structure_decoder": "sparse_structure_vae"}


@dataclass(frozen=True)
class LogitNormal(Flow):
    """A flow whose levels are drawn with logit sigma ~ N(*DRAWN) when finished samples are noised again."""

    def draw(self, u: torch.Tensor) -> Level:
        mean, deviation = DRAWN
        sigma = (mean + deviation * torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))).sigmoid().to(u.dtype)
        return Level(sigma * self.scale, 1 - sigma, sigma)


class TrellisStructure:
    """checkout: the cloned repository. weights: a folder with ``pipeline.json`` and ``ckpts``, as the authors publish it.

    guidance: w of (1 + w) with the picture - w without it, while sigma is at least ``until``; the authors take 7.5 and 0.5. It is for
    sampling: as in DSO, denoising errors are those with the picture alone. Steps are spread as ``pipeline.json`` says. An item's ``tokens``
    names an npz file with ``tokens`` [T, C]: DINOv2's for the picture, normalised, as TRELLIS' own ``encode_image`` gives them.
    """

    emits = frozenset({"occupancy"})

    def __init__(self, checkout: str, weights: str, guidance: float = 7.5, until: float = 0.5) -> None:
        self.network, self.decoder = (_loaded(Path(checkout), Path(weights), part) for part in MODULES)
        self.guidance, self.until = guidance, until
        self.schedule = LogitNormal(shift=_shift(Path(weights)), scale=1000.0)

    def to(self, device: torch.device) -> TrellisStructure:
        """Move both modules."""
        self.network.to(device)
        self.decoder.to(device)
        return self

    def encode(self, items: list[Item]) -> Tree:
        return {"tokens": torch.stack([_tokens(item) for item in items])}

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        seen = self.unguided(x, level, cond)
        if self.guidance == 0:
            return seen
        blind: torch.Tensor = self.network(x, level.t, torch.zeros_like(cond["tokens"])).float()
        weight = like(torch.where(level.sigma >= self.until, self.guidance, 0.0), x)
        return seen + weight * (seen - blind)

    def unguided(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        """With the picture alone."""
        said: torch.Tensor = self.network(x, level.t, cond["tokens"]).float()
        return said

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        side = int(self.network.resolution)  # type: ignore[arg-type]
        return draw((int(self.network.in_channels), side, side, side))  # type: ignore[arg-type]

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Occupancy [B, N, N, N] in [0, 1], z up; differentiable."""
        return {"occupancy": self.decoder(x0).float().sigmoid()[:, 0]}

    def trainable(self) -> torch.nn.Module:
        return self.network


def _tokens(item: Item) -> torch.Tensor:
    path = Path(str(item.get("tokens", "")))
    if not path.is_file():
        raise PolicyError(f"item {item} names no file of picture tokens; expected 'tokens': an npz file with 'tokens' [T, C]")
    with np.load(path, allow_pickle=False) as data:
        found = torch.from_numpy(np.asarray(data["tokens"])).float() if "tokens" in data else torch.empty(0)
    if found.ndim != 2 or not found.isfinite().all():
        raise PolicyError(f"{path}: 'tokens' is {list(found.shape)}; expected finite numbers [T, C]")
    return found


def _shift(weights: Path) -> float:
    """``rescale_t``, by which the authors' sampler spreads its steps: sigma = s u / (1 + (s - 1) u) for even u; 1 where none is given."""
    params = json.loads((weights / "pipeline.json").read_text())["args"].get("sparse_structure_sampler", {}).get("params", {})
    shift = float(params.get("rescale_t", 1.0))
    if not 0.01 <= shift <= 100:
        raise PolicyError(f"{weights / 'pipeline.json'}: rescale_t of sparse_structure_sampler is {shift}; expected 0.01 to 100")
    return shift


def _loaded(checkout: Path, weights: Path, part: str) -> torch.nn.Module:
    """A part with its weights in float32. Raises PolicyError that says which file is missing."""
    try:
        stem = weights / json.loads((weights / "pipeline.json").read_text())["args"]["models"][part]
        config = json.loads(stem.with_name(f"{stem.name}.json").read_text())
        state = load_file(stem.with_name(f"{stem.name}.safetensors"))
    except (OSError, KeyError, ValueError) as error:
        raise PolicyError(
            f"{weights}: no TRELLIS weights of '{part}' there: {error}; expected pipeline.json and the files it names"
        ) from error
    made: torch.nn.Module = getattr(_module(checkout, MODULES[part]), config["name"])(**{**config["args"], "use_fp16": False})
    made.load_state_dict({name: value.float() for name, value in state.items()})
    return made.requires_grad_(False).eval()


def _module(checkout: Path, name: str) -> Any:
    """``trellis.models.<name>`` of a checkout, with empty packages in place of those whose ``__init__`` would load all of TRELLIS."""
    root = (checkout / "trellis").resolve()
    if not (root / "models" / f"{name}.py").is_file():
        raise PolicyError(f"{checkout} is no checkout of TRELLIS: there is no trellis/models/{name}.py in it")
    os.environ.setdefault("ATTN_BACKEND", "sdpa")  # read when its attention is imported; the others need kernels of their own
    for package, folder in (("trellis", root), ("trellis.models", root / "models"), ("trellis.modules", root / "modules")):
        here = getattr(sys.modules.get(package), "__path__", None)
        if here is not None and [str(path) for path in here] != [str(folder)]:
            raise PolicyError(f"another '{package}' is loaded already, from {list(here)}; one process can have one TRELLIS")
        if here is None:
            made = types.ModuleType(package)
            made.__path__ = [str(folder)]
            sys.modules[package] = made
    return importlib.import_module(f"trellis.models.{name}")
