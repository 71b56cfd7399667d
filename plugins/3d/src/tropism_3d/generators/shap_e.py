"""Shap-E (arXiv 2305.02463) through the capture of any pipeline: its prior learns, its renderer decodes to occupancy.

A latent is the weights of a small network that gives a signed distance at a point. ``decode_to_mesh`` of diffusers asks it at a grid and
marches cubes; here the same values are the media, for a batch at once, with gradient and without writing into the renderer. An empty
surface, on which ``decode_to_mesh`` fails, is a sample like any other: its shape has the status ``empty``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.shap_e.renderer import volume_query_points

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Schedule
from tropism.errors import PolicyError
from tropism.policies.pipeline import PipelinePolicy, from_folder
from tropism.types import Item, Level, Tree

SHARP = 20.0  # occupancy = sigmoid(SHARP d); the network's d is in [-1, 1]
AT_ONCE = 2**18  # points of all samples together that the network is asked about at once


def from_source(source: str, grid: int = 64, guidance: float = 15.0, dtype: str = "float32") -> ShapE:
    """source: a folder or hub name of a ``ShapEPipeline`` or ``ShapEImg2ImgPipeline`` (items have a ``prompt`` or an ``image``).

    grid: points along an edge; diffusers takes 128. guidance: classifier-free.
    """
    return ShapE(from_folder(source, {"guidance_scale": guidance, "frame_size": 32}, dtype), grid)


class ShapE:
    """A captured pipeline that decodes to occupancy. Objects are z up."""

    emits = frozenset({"occupancy"})

    def __init__(self, policy: PipelinePolicy, grid: int = 64) -> None:
        if not 8 <= grid <= 256:
            raise PolicyError(f"grid: {grid}; expected 8 to 256 points along an edge")
        if not hasattr(policy.pipe, "shap_e_renderer"):
            raise PolicyError(f"{type(policy.pipe).__name__} has no shap_e_renderer; expected a ShapEPipeline or ShapEImg2ImgPipeline")
        self.policy, self.grid = policy, grid

    @property
    def schedule(self) -> Schedule:
        return self.policy.schedule

    def to(self, device: torch.device) -> ShapE:
        """Move the whole pipeline."""
        self.policy.to(device)
        return self

    def encode(self, items: list[Item]) -> Tree:
        return self.policy.encode(items)

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        return self.policy.predict(x, level, cond)

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        return self.policy.noise(draw, level, cond)

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Occupancy [B, grid, grid, grid] in [0, 1]."""
        return {"occupancy": torch.sigmoid(SHARP * self.distance(x0))}

    def distance(self, x0: torch.Tensor) -> torch.Tensor:
        """What the latents say of the grid's points, [B, grid, grid, grid] float32: positive inside. Differentiable."""
        renderer: Any = self.policy.pipe.shap_e_renderer
        projected = renderer.params_proj(x0.to(renderer.params_proj.dtype))
        weights = {name.removeprefix("nerstf."): value for name, value in projected.items()}
        points = volume_query_points(renderer.volume, self.grid)[None].to(x0.device, renderer.mlp.dtype)

        def ask(own: dict[str, torch.Tensor], some: torch.Tensor) -> torch.Tensor:
            given = {"position": some, "direction": None, "ts": None, "nerf_level": "fine", "rendering_mode": "stf"}
            told: torch.Tensor = torch.func.functional_call(renderer.mlp, own, kwargs=given).signed_distance
            return told[0, :, 0]

        parts = points.split(max(AT_ONCE // len(x0), 1), 1)
        found = torch.cat([torch.func.vmap(ask, in_dims=(0, None))(weights, part) for part in parts], 1)
        return found.float().reshape(len(x0), self.grid, self.grid, self.grid)

    def trainable(self) -> torch.nn.Module:
        return self.policy.trainable()
