"""The shipped generator: furniture from a depth picture, a rectified flow of our own, 4.3 million parameters (see training/README.md).

It stands where TRELLIS' first stage stands in DSO: a picture is looked at once, a flow makes a latent, a decoder makes occupancy of it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Flow
from tropism.errors import PolicyError
from tropism.policies.guidance import Guidance
from tropism.types import Item, Level, Tree
from tropism_3d import furniture
from tropism_3d.depth import SIZE, depth
from tropism_3d.fields import STEEP, occupancy
from tropism_3d.generators.codec import Codec
from tropism_3d.generators.network import LATENT, Eye, Velocity

WEIGHTS = Path(__file__).parent.parent / "weights" / "furniture-flow.safetensors"


class FurnitureFlow:
    """An item names an ``object`` of the shipped data and a ``view``, or has a ``depth`` picture of its own ([2][32][32], see depth.py).

    guidance: of the picture, 1 for none; more looks more like it and varies less. weights: another file of ``training/flow.py``.
    """

    emits = frozenset({"occupancy"})

    def __init__(self, guidance: float = 1.5, weights: str | None = None) -> None:
        self.eye, self.network, self.codec = Eye(), Velocity(), Codec()
        state = load_file(weights or WEIGHTS)
        for name, part in (("eye", self.eye), ("velocity", self.network), ("codec", self.codec)):
            part.load_state_dict(
                {key.removeprefix(f"{name}."): value.float() for key, value in state.items() if key.startswith(f"{name}.")}
            )
            part.requires_grad_(False)
        self.schedule = Flow(scale=1.0)
        self.guidance = None if guidance == 1.0 else Guidance(torch.tensor([guidance, 1 - guidance]))

    def to(self, device: torch.device) -> FurnitureFlow:
        """Move all of it."""
        for part in (self.eye, self.network, self.codec):
            part.to(device)
        return self

    @torch.no_grad()
    def encode(self, items: list[Item]) -> Tree:
        """``seen`` [B, 192]: what the eye, which does not learn any more, makes of the pictures."""
        device = self.eye.nothing.device
        pictures = torch.cat([_picture(item) for item in items])
        told: torch.Tensor = self.eye(pictures.to(device))
        return {"seen": told}

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        if self.guidance is None:
            made: torch.Tensor = self.network(x, level.sigma, cond["seen"])
            return made.float()
        both = torch.cat([cond["seen"], self.eye.nothing.expand(len(x), -1).to(cond["seen"])])
        seen, blind = self.network(torch.cat([x, x]), level.sigma.repeat(2), both).chunk(2)
        return self.guidance.combine([seen, blind], level.t)

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        return draw((LATENT,))

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Occupancy [B, 32, 32, 32] in [0, 1]; differentiable."""
        return {"occupancy": occupancy(self.codec.decode(x0.float()))}

    def embed(self, media: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of decode, as far as the codec's components reach: occupancy -> x0 [B, 512]."""
        logit = torch.logit(media["occupancy"].float().to(self.codec.get_buffer("scale").device), eps=1e-4)
        return self.codec.encode((logit / STEEP).clamp(-1, 1))

    def trainable(self) -> torch.nn.Module:
        return self.network


def _picture(item: Item) -> torch.Tensor:
    """The depth picture of an item, [1, 2, SIZE, SIZE]. Raises PolicyError for an item that has none, or one of another shape."""
    if "depth" in item:
        given = torch.as_tensor(item["depth"], dtype=torch.float32)
        if given.shape != (2, SIZE, SIZE) or not given.isfinite().all():
            raise PolicyError(
                f"an item's depth picture is {list(given.shape)}; expected finite numbers [2, {SIZE}, {SIZE}]: nearness, silhouette"
            )
        return given[None]
    if "object" not in item:
        raise PolicyError(f"item {item} has neither 'object' (and 'view') nor 'depth'; use data: {{use: 3d/furniture}}")
    return depth(furniture.field([item["object"]], int(item.get("view", 0))))
