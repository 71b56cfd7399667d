"""``torch.compile`` for a denoiser, with one graph for sampling and for learning.

A graph that keeps activations and one that does not are fused differently, and the first ratio would not be 1. So the network always runs
as it does in training, and without gradient its output is let go at once: the activations of one forward, no more than training needs.
Switching a LoRA off for the reference is a second graph, which torch keeps beside the first.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from tropism.errors import PolicyError
from tropism.policies.record import mapped

LIMIT = 64  # graphs of one forward: batch shapes, with and without adapter; beyond it torch would go on uncompiled without a word


def compile_network(network: torch.nn.Module, backend: str) -> None:
    """Compile the forward of a network, or of each network of a ModuleDict, in place. It is compiled when it first runs."""
    if backend == "inductor" and next(network.parameters()).device.type == "cpu" and not _compiler():
        raise PolicyError("train.compile=inductor needs a C++ compiler on the CPU, and neither g++ nor clang++ is here; install one")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
    for part in network.values() if isinstance(network, torch.nn.ModuleDict) else (network,):
        part.forward = _as_in_training(part.forward, backend)


def _as_in_training(forward: Any, backend: str) -> Any:
    compiled: Callable[..., Any] = torch.compile(forward, backend=backend)

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return compiled(*args, **kwargs)
        with torch.enable_grad():
            found = compiled(*args, **kwargs)
        return mapped(torch.Tensor.detach, found)

    return run


def _compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
