"""A sheet of samples: ``python sheet.py OUT.png [--weights FILE] [--guidance 1.5]``; columns are held-out objects.

Rows: the depth picture, the real object, three samples. What fell in the simulator has a red edge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.rollout import collect
from tropism.testing import condition
from tropism_3d import furniture, render
from tropism_3d.depth import SIZE, depth
from tropism_3d.fields import occupancy
from tropism_3d.generators.furniture_flow import FurnitureFlow
from tropism_3d.rewards.stability import Stands
from tropism_3d.shapes import from_occupancy

TILE, STEPS = 128, 16
SHOWN = (  # held-out objects
    "BlendSwap-CC-BY/plaidChair",
    "BlendSwap-CC-BY/childChair",
    "Scopia/modern_armchair",
    "BlendSwap-CC-0/stool2",
    "Scopia/wooden_office_pear_table_rect",
    "BlendSwap-CC-BY/officeTable",
    "Scopia/little_lamp2",
    "BlendSwap-CC-0/winchesterSofa",
    "BlendSwap-CC-0/bedWithTexture",
    "Scopia/plastic_chair",
    "Scopia/smart-car",
    "BlendSwap-CC-0/highCabinet",
)
FALLEN = np.array([235, 120, 100])


def tiles(solid: torch.Tensor) -> np.ndarray:
    """A row of pictures [TILE, B * TILE, 3]; a red edge below what fell."""
    made = []
    for shape, stands in zip(from_occupancy(solid), Stands()(solid).tolist(), strict=True):
        picture = render.picture(shape.mesh, TILE)
        if not stands:
            picture[-5:] = FALLEN
        made.append(picture)
    return np.concatenate(made, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--guidance", type=float, default=1.5)
    args = parser.parse_args()
    policy, items = FurnitureFlow(args.guidance, args.weights), [furniture.item(name, 0) for name in SHOWN]
    real = torch.cat([furniture.field([item["object"]], item["view"]) for item in items])
    near = depth(real)[:, 0].permute(1, 0, 2).reshape(SIZE, -1).numpy()
    grey = (np.kron(near, np.ones((TILE // SIZE, TILE // SIZE)))[..., None] * [255, 255, 255]).astype(np.uint8)
    rows = [grey, tiles(occupancy(real))]
    for seed in range(3):
        with torch.no_grad():
            rows.append(tiles(policy.decode(collect(policy, condition(policy, items, seed=1000 * seed), Ode(), STEPS).x0)["occupancy"]))
    Image.fromarray(np.concatenate(rows, 0)).save(args.out)


if __name__ == "__main__":
    main()
