"""Furniture that stands, from a picture of it: samples as they come, samples that were steered, and samples that were moved afterwards.

    python plugins/3d/examples/stand.py --object Scopia/office_chair --view 4 --samples 8

It prints how many of each stand in the simulator, and how like the real object they are. It saves every mesh as glb (y up), and
``stand.png``: independent samples, steered ones (Feynman-Kac, arXiv 2501.06848), and the independent ones after their latents were moved up
the energy barrier (``ascent``). No weight is changed. Objects are listed in ``src/tropism_3d/data/CREDITS.txt``; for a picture of your own
give the item a ``depth`` (see ``tropism_3d.depth``) in place of ``object`` and ``view``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import tropism
from tropism_3d import furniture
from tropism_3d.generators.furniture_flow import FurnitureFlow
from tropism_3d.render import picture
from tropism_3d.rewards.barrier import Barrier
from tropism_3d.rewards.likeness import Likeness
from tropism_3d.rewards.stability import Stability
from tropism_3d.shapes import from_occupancy
from tropism_3d.view import ShapeView

STEPS = 16


def main(name: str, view: int, samples: int, folder: Path) -> None:
    policy, item = FurnitureFlow(), furniture.item(name, view)
    plain = tropism.steer(policy, item, Barrier(), samples, "best-of-n", sampler="ode", steps=STEPS)
    steered = tropism.steer(policy, item, Barrier(), samples, steps=STEPS)
    moved = tropism.steer(policy, item, Barrier(), samples, "ascent", sampler="ode", steps=STEPS)
    rows = {"independent": plain, "steered": steered, "moved": moved}
    print(item["prompt"])
    for label, made in rows.items():
        occupancy = made.media["occupancy"]
        found, like = Stability().outcomes(occupancy), Likeness()(occupancy, [name] * samples, [view] * samples)
        angles = " ".join("none" if one.failed else f"{one.angle:.0f}°" for one in found)
        print(f"{label:12} {sum(one.stands() for one in found)} of {samples} stand; F-score {like.mean():.2f}; they tilt by {angles}")
        for number, one in enumerate(occupancy):
            ShapeView().save(one, folder, f"{label}-{number}")
    strips = [np.concatenate([picture(shape.mesh) for shape in from_occupancy(made.media["occupancy"])], 1) for made in rows.values()]
    Image.fromarray(np.concatenate(strips)).save(folder / "stand.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--object", default="Scopia/office_chair")
    parser.add_argument("--view", type=int, default=4, choices=range(furniture.VIEWS))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("stand"))
    given = parser.parse_args()
    main(given.object, given.view, given.samples, given.out)
