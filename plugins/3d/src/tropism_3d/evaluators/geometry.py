"""Whether shapes are still those that were asked for: a stability that is bought with another geometry is no success.

Reward hacking looks like this in 3D: the volume fills up, a plate grows under the feet, the silhouette no longer fits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy import ndimage

from tropism.evaluate import Estimate
from tropism.types import Rollout
from tropism_3d import shapes
from tropism_3d.depth import depth
from tropism_3d.geometry import TAU, Cloud, compare, footprint, silhouette_iou
from tropism_3d.reference import clouds

Yield = tuple[str, torch.Tensor | Estimate]


class Geometry:
    """``3d/f-score`` and ``3d/chamfer`` to the real object (where items name one) and, as ``...-base``, to the base model's sample of the
    same seed; ``3d/silhouette``, the overlap with the picture that was asked for; ``3d/volume``, ``3d/footprint`` (shares of the cube, of
    its floor), ``3d/volume-ratio`` to the base's; ``3d/components``; ``3d/watertight`` and ``3d/meshless``, shares of the samples.

    tau: of the F-score.
    """

    def __init__(self, tau: float = TAU) -> None:
        self.tau = tau
        self.base: tuple[Rollout, Cloud] | None = None  # the base's samples stay the same through a run

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[Yield]:
        made = shapes.from_occupancy(samples.media["occupancy"])
        cloud = Cloud.of(made)
        if self.base is None or self.base[0] is not base:
            self.base = base, cloud if samples is base else Cloud.of(shapes.from_occupancy(base.media["occupancy"]), seed=1)
        chamfer, score = compare(cloud, self.base[1], self.tau)
        yield "3d/chamfer-base", chamfer
        yield "3d/f-score-base", score
        if all("object" in item for item in samples.cond.items):
            yield from self._against_real(samples, cloud)
        solid = samples.media["occupancy"].cpu() > shapes.SURFACE
        volume = solid.flatten(1).float().mean(1)
        before = (base.media["occupancy"].cpu() > shapes.SURFACE).flatten(1).float().mean(1)
        yield "3d/volume", volume
        yield "3d/volume-ratio", 1 + (volume - before) / before.mean().clamp(min=1e-9)  # by pairs, whose interval is the narrow one
        yield "3d/footprint", footprint(solid)
        yield "3d/components", torch.tensor([float(ndimage.label(one)[1]) for one in solid.numpy()])
        yield "3d/watertight", torch.tensor([shape.mesh is not None and bool(shape.mesh.is_watertight) for shape in made])
        yield "3d/meshless", ~cloud.there

    def _against_real(self, samples: Rollout, cloud: Cloud) -> Iterator[Yield]:
        items = samples.cond.items
        real, pictures = clouds([str(item["object"]) for item in items], [int(item.get("view", 0)) for item in items])
        chamfer, score = compare(cloud, real, self.tau)
        yield "3d/chamfer", chamfer
        yield "3d/f-score", score
        inside = samples.media["occupancy"].float().cpu() - shapes.SURFACE
        yield "3d/silhouette", silhouette_iou(depth(inside)[:, 1], pictures)
