"""Before and after: what a run's base model and its trained model make of held-out pictures, as it ends in the simulation.

    tropism run 3d/dso-direct --out runs/stands
    python plugins/3d/examples/before_after.py runs/stands before-after.png

Columns are the first held-out pictures whose base sample falls, whatever becomes of them after training. Rows: the depth picture, the base
model's sample and the trained model's from the same noise, each as it lies after the simulation. It prints how many stand of all.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from tropism import api, sampling
from tropism.loop import Run
from tropism_3d import furniture, render
from tropism_3d.depth import SIZE, depth
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import Outcome, simulate
from tropism_3d.shapes import Shape, from_occupancy

TILE = 144
TO_THE_END = replace(PRESETS["robust"], fall=180.0)  # what falls is followed until it lies


@dataclass(frozen=True)
class Made:
    """Samples of some items, and what became of each."""

    shapes: list[Shape]
    outcomes: list[Outcome]

    @property
    def stands(self) -> list[bool]:
        return [outcome.stands() for outcome in self.outcomes]

    def tile(self, place: int) -> np.ndarray:
        """A sample as it lies in the end, [TILE, TILE, 3]."""
        mesh = self.shapes[place].mesh
        if mesh is None:
            return render.picture(None, TILE)
        turn = trimesh.transformations.quaternion_matrix(self.outcomes[place].pose)
        return render.picture(mesh.copy().apply_transform(turn), TILE)


def made(job: Run, count: int) -> Made:
    """One sample of each of the first ``count`` held-out items, with the noise of evaluations."""
    cond = sampling.condition(job.heldout_items[:count], sampling.EVALUATION_SEED, 0, 1)
    shapes = from_occupancy(sampling.scored(job, cond).media["occupancy"])
    return Made(shapes, simulate(shapes, TO_THE_END))


def asked(items: list[dict[str, object]]) -> np.ndarray:
    """The depth pictures of items in a row."""
    real = torch.cat([furniture.field([str(item["object"])], int(str(item["view"]))) for item in items])
    row = depth(real)[:, 0].permute(1, 0, 2).reshape(SIZE, -1).numpy()
    picture = Image.fromarray((row * 255).astype(np.uint8)).resize((len(items) * TILE, TILE), Image.Resampling.NEAREST)
    return np.asarray(picture.convert("RGB"))


def main(run: Path, out: Path, count: int, columns: int) -> None:
    job = api.trained(run)
    with job.trainable.averaged():  # as evaluations see it
        after = made(job, count)
    with job.trainable.reference():
        before = made(job, count)
    print(f"of {count} held-out pictures stand: before {sum(before.stands)}, after {sum(after.stands)}")
    fell = [place for place, stands in enumerate(before.stands) if not stands][:columns]
    if not fell:
        print("none of the base model's samples falls: no picture")
        return
    rows = [asked([job.heldout_items[place] for place in fell])]
    rows += [np.concatenate([one.tile(place) for place in fell], 1) for one in (before, after)]
    Image.fromarray(np.concatenate(rows)).save(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--columns", type=int, default=9)
    given = parser.parse_args()
    main(given.run, given.out, given.pictures, given.columns)
