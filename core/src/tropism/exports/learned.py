"""A run at its newest checkpoint, as every format takes it: the trained policy, its adapter, and its base model loaded anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tropism import api, assemble, checkpoint, runfolder
from tropism.exports import ExportError
from tropism.loop import Run
from tropism.plugins import Catalog
from tropism.policies.adapters import Lora
from tropism.policy import Policy
from tropism.recipe import Recipe

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Learned:
    """weights: ``ema`` or ``last``; step: the checkpoint's number of iterations."""

    folder: Path
    job: Run
    catalog: Catalog
    weights: str
    step: int

    @staticmethod
    def open(folder: Path, weights: str | None) -> Learned:
        """Raises CheckpointError where there is no checkpoint, ExportError where the averaged weights are asked for and not kept."""
        job = api.trained(folder)
        kept = job.trainable.decay is not None
        if weights == "ema" and not kept:
            raise ExportError(f"{folder} keeps no averaged weights (its recipe has no adapter.ema); export with weights 'last'")
        newest = checkpoint.latest(folder / "checkpoints")
        assert newest is not None
        catalog = api.loaded(runfolder.open_run(folder)[1])[1]
        return Learned(folder, job, catalog, weights or ("ema" if kept else "last"), int(newest.name.removeprefix("step-")))

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    @property
    def policy(self) -> Any:
        return self.job.policy

    @property
    def lora(self) -> Lora | None:
        return self.job.trainable.lora

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Inside the block the policy has the weights that are exported."""
        if self.weights == "last":
            yield
            return
        with self.job.trainable.averaged():
            yield

    def fresh(self) -> Any:
        """The base policy loaded anew, on the same device, with nothing learned in it."""
        policy = assemble.make(self.catalog, "policies", self.recipe.policy)
        self.job.engine.place(policy)
        policy.trainable().to(self.job.engine.device)
        return policy


def is_pipeline(policy: Policy) -> bool:
    from diffusers import DiffusionPipeline

    return isinstance(getattr(policy, "pipe", None), DiffusionPipeline)


def not_a_pipeline(learned: Learned) -> str:
    """The refusal of a policy without a diffusers pipeline; empty for one with it."""
    if is_pipeline(learned.policy):
        return ""
    return (
        f"its policy '{learned.recipe.policy.use}' is a {type(learned.policy).__name__}, no diffusers pipeline; "
        "what can be exported of it is its network: --format weights"
    )


def without_adapter(learned: Learned) -> str:
    """The refusal of a run that trained all weights; empty for one with an adapter."""
    return "" if learned.lora else "it trained all weights (adapter.kind: full), so there is no adapter; export it with --format merged"


def denoisers(policy: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's components that learn, by name; most pipelines have one, some a second for low noise levels."""
    return {name: getattr(policy.pipe, name) for name in policy.modules}


def layers(network: torch.nn.Module) -> dict[str, Any]:
    """The layers with an adapter, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)}


def factors(network: torch.nn.Module, dtype: torch.dtype | None) -> Weights:
    """The factors on the CPU under peft's names: ``name.lora_A.weight`` [rank, in, ...] and ``name.lora_B.weight`` [out, rank, ...]."""
    found: Weights = {}
    for name, layer in layers(network).items():
        (adapter,) = layer.active_adapters
        for end in ("lora_A", "lora_B"):
            weight: torch.Tensor = getattr(layer, end)[adapter].weight
            found[f"{name}.{end}.weight"] = weight.detach().to("cpu", dtype, copy=True).contiguous()
    return found


def merged(network: torch.nn.Module) -> Weights:
    """All weights of the network under the base model's own names, the adapter added in float32; the network is left as it is."""
    adapted = layers(network)
    found: Weights = {}
    for key, value in network.state_dict().items():
        owner, _, rest = key.partition(".base_layer.")
        if rest == "":
            if not any(key.startswith(f"{name}.lora_") for name in adapted):
                found[key] = value.detach()
            continue
        (adapter,) = adapted[owner].active_adapters
        learned = value.detach()
        if rest == "weight":
            learned = (learned.float() + adapted[owner].get_delta_weight(adapter).float()).to(value.dtype)
        found[f"{owner}.{rest}"] = learned
    return found
