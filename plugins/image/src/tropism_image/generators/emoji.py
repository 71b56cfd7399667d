"""The shipped text-to-emoji models, genuine diffusers folders taken through the same capture as any other pipeline."""

from __future__ import annotations

from tropism.policies.pipeline import PipelinePolicy, from_folder
from tropism_image.shipped import FLOW, STUDENT, TEACHER


def consistency(guidance: float = 3.0) -> PipelinePolicy:
    """The ``LatentConsistencyModelPipeline`` student: 64x64 pictures in 1 to 8 steps, guidance 1 to 5 by embedding (no second forward)."""
    return from_folder(str(STUDENT), {"guidance_scale": guidance, "height": 64, "width": 64})


def diffusion(guidance: float = 3.0) -> PipelinePolicy:
    """The ``StableDiffusionPipeline`` teacher: 64x64 pictures in 20 to 50 steps, classifier-free guidance."""
    return from_folder(str(TEACHER), {"guidance_scale": guidance, "height": 64, "width": 64})


def flow(guidance: float = 3.0) -> PipelinePolicy:
    """The ``StableDiffusion3Pipeline``, a rectified flow: 64x64 pictures in 8 to 28 steps, classifier-free guidance."""
    return from_folder(str(FLOW), {"guidance_scale": guidance, "height": 64, "width": 64, "max_sequence_length": 1})
