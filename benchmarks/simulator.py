"""How many objects a second one core simulates, and how far labels depend on how it is done.

    python benchmarks/simulator.py                                # the solids of 3d/furniture, plain and with the bottom roughened
    python benchmarks/simulator.py --objects 60 --json simulator.json

Every figure is of processor time in one thread, so that a busy machine does not change it much. A roughened object stands for what a poor
generator makes: smooth noise is added to its field, and it may lose a leg or gain a crumb.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tropism_3d.fields import occupancy
from tropism_3d.furniture import field, names
from tropism_3d.physics.model import build
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import outcome, outcomes
from tropism_3d.physics.solid import Solid, solid
from tropism_3d.physics.support import margin_angle
from tropism_3d.physics.sweep import Sweep
from tropism_3d.shapes import from_occupancy

GOAL = 40.0  # objects a second a core, field to score
NOISE = 1.2  # in the field's units, of which its band is 1
DEGREES = (5, 10, 20)


def roughened(fields: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Fields [B, N, N, N] with noise of a wavelength of about a sixth of the cube."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(len(fields), 1, 7, 7, 7, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, fields.shape[1:], mode="trilinear", align_corners=True)[:, 0]
    return fields + NOISE * fine


def seconds(work: Callable[[], Any], count: int) -> tuple[float, Any]:
    """Processor time for each of ``count`` objects, and what came out."""
    begin = time.process_time()
    made = work()
    return (time.process_time() - begin) / count, made


def measured(samples: torch.Tensor) -> dict[str, Any]:
    """Of occupancy [B, N, N, N]: seconds an object by stage, objects a second, outcomes, and how many labels other settings leave."""
    robust, count = PRESETS["robust"], len(samples)
    outcome(from_occupancy(samples[:1])[0], robust)  # what is imported and allocated once
    stage: dict[str, float] = {}
    stage["marching cubes"], shapes = seconds(lambda: from_occupancy(samples), count)
    stage["solid"], bodies = seconds(lambda: [solid(shape) for shape in shapes], count)
    stage["model"], _ = seconds(lambda: [build(body, robust) for body in bodies if isinstance(body, Solid)], count)
    from_mesh, found = seconds(lambda: [outcome(shape, robust) for shape in shapes], count)
    stage["simulation"] = from_mesh - stage["solid"] - stage["model"]
    sweep, swept = seconds(lambda: [outcomes(shape, Sweep().settings(robust)) for shape in shapes], count)
    variants = {
        "10 s, no early end": replace(robust, fall=180.0, quiet=0.0, steps=2500),
        "step of 2 ms": replace(robust, step=0.002, steps=1500),
        "all components": replace(robust, object="all"),
        "no kick": replace(robust, kick=(0.0,) * 6),
        "dso": PRESETS["dso"],
    }
    others = {name: seconds(lambda s=settings: [outcome(shape, s) for shape in shapes], count) for name, settings in variants.items()}
    static = [margin_angle(body) > 0 if isinstance(body, Solid) else False for body in bodies]
    labels = [one.stands() for one in found]
    return {
        "objects": count,
        "faces": sum(len(shape.mesh.faces) for shape in shapes if shape.mesh is not None) / count,
        "seconds": stage,
        "field to score": 1 / (stage["marching cubes"] + from_mesh),
        "mesh to score": 1 / from_mesh,
        "sweep of 16": 1 / (stage["marching cubes"] + sweep),
        "status": dict(Counter(one.status for one in found).most_common()),
        "mass": dict(Counter(str(one.method) for one in found).most_common()),
        "stands": {str(d): sum(one.stands(d) for one in found) / count for d in DEGREES},
        "stands in a sweep": sum(one.stands() for many in swept for one in many) / (16 * count),
        "agree": {
            **{name: agreement(labels, [one.stands() for one in found]) for name, (_, found) in others.items()},
            "support margin > 0": agreement(labels, static),
        },
        "cost": {name: spent for name, (spent, _) in others.items()},
    }


def agreement(one: Sequence[bool], other: Sequence[bool]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def told(found: dict[str, dict[str, Any]], console: Console) -> None:
    """The figures as a table, a column for each set of objects."""
    table = Table("", *found)

    def row(name: str, text: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(name, *(text(one) for one in found.values()))

    first = next(iter(found.values()))
    row("objects, faces each", lambda one: f"{one['objects']}, {one['faces']:.0f}")
    for name in first["seconds"]:
        row(f"  {name}, ms", lambda one, n=name: f"{1000 * one['seconds'][n]:.1f}")
    row(f"field to score, objects/s/core (goal {GOAL:.0f})", lambda one: f"{one['field to score']:.1f}")
    row("mesh to score, objects/s/core", lambda one: f"{one['mesh to score']:.1f}")
    row("sweep of 16 settings, objects/s/core", lambda one: f"{one['sweep of 16']:.1f}")
    row("ended", lambda one: ", ".join(f"{count} {name}" for name, count in one["status"].items()))
    row("mass by", lambda one: ", ".join(f"{count} {name}" for name, count in one["mass"].items()))
    row("stand at 5, 10, 20 degrees", lambda one: ", ".join(f"{share:.1%}" for share in one["stands"].values()))
    row("stand over the sweep", lambda one: f"{one['stands in a sweep']:.1%}")
    for name in first["agree"]:
        row(f"same label: {name}", lambda one, n=name: f"{one['agree'][n]:.1%}")
    for name in first["cost"]:
        row(f"its cost: {name}, ms", lambda one, n=name: f"{1000 * one['cost'][n]:.0f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200, help="pieces of furniture")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plain = field(list(names())[: given.objects], 0)
    found = {kind: measured(occupancy(fields)) for kind, fields in (("furniture", plain), ("roughened", roughened(plain)))}
    told(found, Console())
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
