"""Tensors by name, within a limit of bytes; those that were asked for longest ago are forgotten first."""

from __future__ import annotations

from collections import OrderedDict

import torch


class Kept:
    """At most ``limit`` bytes of tensors, on the devices that they came from."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.held: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def get(self, name: bytes) -> torch.Tensor | None:
        """The tensor of that name, if it is still here."""
        if name in self.held:
            self.held.move_to_end(name)
        return self.held.get(name)

    def put(self, name: bytes, tensor: torch.Tensor) -> None:
        """Keep a new tensor, unless it is larger than all that may be kept."""
        if tensor.nbytes > self.limit or name in self.held:
            return
        self.held[name] = tensor
        self.size += tensor.nbytes
        while self.size > self.limit:
            self.size -= self.held.popitem(last=False)[1].nbytes
