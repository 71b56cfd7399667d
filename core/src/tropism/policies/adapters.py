"""What learns: LoRA or all weights; the frozen reference; the average of the weights.

The reference is the same network with its adapter switched off, never a second copy. Only full fine-tuning has to keep the base weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from tropism.errors import PolicyError
from tropism.scale.shards import is_shard, like, local

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on the modules whose names end with one of ``targets``."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ATTENTION


class Trainable:
    """The learning parameters of a network, float32, by name; ``reference()`` gives the base model, ``averaged()`` the EMA weights."""

    def __init__(self, module: torch.nn.Module, lora: Lora | None, ema: float | None = None) -> None:
        self.module, self.lora = module, lora
        module.requires_grad_(lora is None)
        if lora is not None:
            _inject(module, lora)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.decay = ema
        self.hold()

    def hold(self) -> None:
        """Take the module's parameters, as they now are, for those that learn; again after they have been replaced by shards."""
        self.parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.base = {} if self.lora is not None else {name: p.detach().clone() for name, p in self.parameters.items()}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if self.decay is not None else {}

    def update_average(self) -> None:
        """Move the average toward the present weights; a no-op without EMA."""
        if self.decay is not None:
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - self.decay)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside the block the network is the base model."""
        if self.lora is None:
            with self.holding(self.base):
                yield
            return
        layers = [m for m in self.module.modules() if isinstance(m, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the network has the averaged weights, if there are any."""
        with self.holding(self.average):
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"weights": {name: p.detach() for name, p in self.parameters.items()}, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put weights back. Raises PolicyError where they are of another adapter or network."""
        if state["weights"].keys() != self.parameters.keys():
            odd = sorted(state["weights"].keys() ^ self.parameters.keys())
            raise PolicyError(f"the checkpoint's weights are of another adapter or network: {len(odd)} names differ, such as '{odd[0]}'")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(like(state["weights"][name], parameter))
            for name, value in self.average.items():
                value.copy_(like(state["average"][name], value))

    @contextmanager
    def holding(self, weights: dict[str, torch.Tensor]) -> Iterator[None]:
        """Inside the block the network has other weights, by name; only those named are exchanged."""
        if any(is_shard(value) for value in weights.values()):
            with self._exchanged(weights):
                yield
            return
        kept = {name: self.parameters[name].data for name in weights}
        for name, value in weights.items():
            self.parameters[name].data = value
        try:
            yield
        finally:
            for name, value in kept.items():
                self.parameters[name].data = value

    @contextmanager
    def _exchanged(self, weights: dict[str, torch.Tensor]) -> Iterator[None]:
        """The same for shards, by copies: it is into their memory that FSDP looks."""
        own = local(self.parameters[name].detach() for name in weights)
        kept = [value.clone() for value in own]
        torch._foreach_copy_(own, local(weights.values()))
        try:
            yield
        finally:
            torch._foreach_copy_(own, kept)


def _inject(module: torch.nn.Module, lora: Lora) -> None:
    names = [name for name, _ in module.named_modules()]
    if unmatched := [t for t in lora.targets if not any(name == t or name.endswith(f".{t}") for name in names)]:
        ends = sorted({name.rsplit(".", 1)[-1] for name, m in module.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)})
        raise PolicyError(
            f"LoRA targets {unmatched} match no module of {type(module).__name__}; "
            f"its linear and convolution layers end in: {', '.join(ends)}"
        )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0)
    inject_adapter_in_model(config, module, adapter_name="tropism")
