"""One family of pipelines: how to build a tiny one, how to call it, and which sampler its own scheduler should agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import DiffusionPipeline, SchedulerMixin


@dataclass(frozen=True)
class Family:
    """``build()`` gives the same pipeline at every call; ``pipe(**call, **items[0], num_inference_steps=4, generator=...)`` runs it.

    Attributes:
        call: arguments of the pipeline's call besides the item, ``num_inference_steps``, ``generator`` and ``output_type``
        items: two different items, e.g. ``{"prompt": "a red apple"}`` or ``{"class_labels": [3]}``; empty where the model is unconditional
        sampler: the deterministic sampler that equals its scheduler (that of ``parity`` where given): DDIM with eta 0 (also for Euler on
            sigmas, the same ODE in other coordinates), the ODE of a flow, or consistency multistep (LCM)
        parity: the scheduler to swap in before comparing with stock output where the real one (PNDM, DPM-Solver, UniPC, ancestral) is
            no deterministic one-step sampler; None if the pipeline's own scheduler can be compared as it is
        output: the ``output_type`` whose result is nearest to the final latents; "np" where the pipeline knows no other (clamped images)
    """

    name: str
    build: Callable[[], DiffusionPipeline]
    call: dict[str, Any]
    items: list[dict[str, Any]]
    sampler: Literal["ddim", "ode", "consistency"]
    parity: Callable[[], SchedulerMixin] | None = None
    note: str = ""
    output: str = "latent"
