"""Weights spread over the processes (FSDP2): each keeps a part of every weight, and a block is whole only while it works.

torch's ``fully_shard`` is used directly: under ``accelerate launch`` the same setting silently becomes plain data parallelism on the CPU.
Forwards are collective, so all processes must make the same number of them. Checkpoints hold whole tensors and know nothing of the shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tropism.errors import PolicyError


class Sharded:
    """A network whose blocks, and then itself, are sharded over ``size`` processes in place. Raises PolicyError where it cannot be."""

    def __init__(self, network: torch.nn.Module, device: torch.device, size: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        mesh = init_device_mesh(device.type, (size,))
        try:
            for part in (*blocks(network), network):
                # Always whole only while it works: weights that are exchanged between forwards must never be found stale.
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise PolicyError(f"train.shard: {type(network).__name__} cannot: {error}; leave it out for this policy") from error
        assert isinstance(network, FSDPModule)
        self.network: FSDPModule = network

    def meet(self, last: bool) -> None:
        """Whether the next backward pass is the one in which gradients are averaged and sharded: the last of an update."""
        self.network.set_requires_gradient_sync(last)


def blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a network that are sharded by themselves, inner before outer.

    Those that it says must stay together (``_no_split_modules``); else the items of its lists that have one class.
    """
    names = set(getattr(network, "_no_split_modules", None) or ())
    if not names:
        lists = [list(part) for part in network.modules() if isinstance(part, torch.nn.ModuleList) and len(part) > 1]
        names = {type(items[0]).__name__ for items in lists if len({type(item) for item in items}) == 1}
    found = [part for part in network.modules() if part is not network and type(part).__name__ in names]
    return [part for part in reversed(found) if any(True for _ in part.parameters())]


def is_shard(value: Any) -> bool:
    return hasattr(value, "full_tensor")


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor as all processes together have it; they all must ask."""
    return value.full_tensor() if is_shard(value) else value  # type: ignore[attr-defined]


def gathered(state: Any, keep: bool) -> Any:
    """A tree with whole tensors, on the CPU, in place of shards; without them where they are not to be kept. All processes must ask."""
    if isinstance(state, Mapping):
        return {key: gathered(value, keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [gathered(value, keep) for value in state]
    if not is_shard(state):
        return state
    full = whole(state.detach())
    return full.cpu() if keep else None


def like(value: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """The part of a whole tensor that a process has of another, without a word to the others; ``value`` itself where that is no shard."""
    if not is_shard(shard) or is_shard(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed = value.to(shard.device, shard.dtype)
    found: torch.Tensor = distribute_tensor(placed, shard.device_mesh, shard.placements, src_data_rank=None)  # type: ignore[attr-defined]
    return found


def like_all(state: Any, shards: Any) -> Any:
    """A tree of whole tensors as the tree ``shards``, which may lack some of it, has them."""
    if isinstance(state, Mapping) and isinstance(shards, Mapping):
        return {key: like_all(value, shards[key]) if key in shards else value for key, value in state.items()}
    if isinstance(state, torch.Tensor) and isinstance(shards, torch.Tensor):
        return like(state, shards)
    return state


def optimizer_state(state: dict[str, Any], parameters: list[torch.nn.Parameter]) -> dict[str, Any]:
    """A torch optimizer's state of whole tensors as shards, like those of its parameters; numbers (step counts) stay numbers."""
    numbered = {
        number: {
            name: like(value, parameters[number]) if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape else value
            for name, value in named.items()
        }
        for number, named in state["state"].items()
    }
    return {**state, "state": numbered}


def local(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The memory that each tensor has in this process."""
    return [tensor.to_local() if is_shard(tensor) else tensor for tensor in tensors]  # type: ignore[attr-defined]
