"""From a policy to what learns: on its device, adapted, spread and compiled as the recipe says."""

from __future__ import annotations

from typing import Any

import torch

from tropism.errors import PolicyError
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.compiled import compile_network
from tropism.policy import Policy
from tropism.recipe import Recipe
from tropism.scale.engine import Engine
from tropism.scale.shards import Sharded


def prepared(recipe: Recipe, engine: Engine, policy: Policy) -> Trainable:
    """The learning weights of a policy, the same in all processes. Raises PolicyError for an option that it cannot have."""
    train, adapter = recipe.train, recipe.adapter
    engine.place(policy)
    if train.offload:
        _offload(policy, engine.device)
    network = policy.trainable().to(engine.device)
    if train.checkpointing:
        engine.checkpoint(network)
    trainable = Trainable(network, Lora(adapter.rank, adapter.alpha, adapter.targets) if adapter.kind == "lora" else None, adapter.ema)
    engine.processes.equalise(list(trainable.parameters.values()))
    if train.shard and engine.processes.size > 1:
        if getattr(policy, "uneven", False):
            raise PolicyError(
                "train.shard: this pipeline's samples differ in how many forwards they need (several networks, or texts of several "
                "lengths), and sharded processes must all make the same number; leave it out for this policy"
            )
        engine.sharded = Sharded(network, engine.device, engine.processes.size)
        trainable.hold()
    if train.compile:
        compile_network(network, train.compile)
    return trainable


def _offload(policy: Any, device: torch.device) -> None:
    offload = getattr(policy, "offload", None)
    if offload is None:
        raise PolicyError(f"train.offload: {type(policy).__name__} has no parts beside its network that could wait; leave it out")
    offload(device)
