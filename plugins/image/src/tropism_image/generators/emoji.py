"""The shipped text-to-emoji models, genuine diffusers folders taken through the same capture as any other pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tropism.policies.pipeline import PipelinePolicy, from_folder
from tropism_image.shipped import FLOW, STUDENT, TEACHER


def consistency(guidance: float = 3.0) -> PipelinePolicy:
    """The ``LatentConsistencyModelPipeline`` student: 64x64 pictures in 1 to 8 steps, guidance 1 to 5 by embedding (no second forward)."""
    return _shipped(STUDENT, guidance)


def diffusion(guidance: float = 3.0) -> PipelinePolicy:
    """The ``StableDiffusionPipeline`` teacher: 64x64 pictures in 20 to 50 steps, classifier-free guidance."""
    return _shipped(TEACHER, guidance)


def flow(guidance: float = 3.0) -> PipelinePolicy:
    """The ``StableDiffusion3Pipeline``, a rectified flow: 64x64 pictures in 8 to 28 steps, classifier-free guidance."""
    return _shipped(FLOW, guidance, max_sequence_length=1)


def _shipped(folder: Path, guidance: float, **call: Any) -> PipelinePolicy:
    policy = from_folder(str(folder), {"guidance_scale": guidance, "height": 64, "width": 64, **call})
    policy.pipe.vae.to(memory_format=torch.channels_last)  # its convolutions take two thirds of the time
    return policy
