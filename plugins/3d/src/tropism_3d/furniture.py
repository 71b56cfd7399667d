"""Prompts: depth pictures of pieces of furniture, some of which the shipped generator has never seen.

The solids are from Sweet Home 3D's libraries (see NOTICE and ``data/CREDITS.txt``), 542 of them, each seen from eight sides.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tropism.data.prompts import Order
from tropism.errors import PolicyError, nearest
from tropism.types import Item
from tropism_3d.fields import SOLID, resampled, seen_from, signed

FILE = Path(__file__).parent / "data" / "furniture.npz"
VIEWS = 8
HELDOUT = 64  # objects


@functools.cache
def names() -> dict[str, str]:
    """What each object is called, by its id, in the order of the file."""
    with np.load(FILE, allow_pickle=False) as data:
        return dict(zip(data["id"].tolist(), data["name"].tolist(), strict=True))


@functools.cache
def _packed() -> np.ndarray:
    with np.load(FILE, allow_pickle=False) as data:
        packed: np.ndarray = data["voxels"]
    return packed


@functools.cache
def split() -> tuple[list[str], list[str]]:
    """The ids of the objects that the generator was trained on, and of those held out, in fixed shuffles."""
    known = list(names())
    shuffled = [known[index] for index in Order(len(known), 0).take(0, len(known))]
    return shuffled[HELDOUT:], shuffled[:HELDOUT]


def solids(objects: Sequence[str]) -> torch.Tensor:
    """Filled voxels of objects by id, [B, SOLID, SOLID, SOLID] bool, z up. Raises PolicyError for an id that is not there."""
    places = {name: place for place, name in enumerate(names())}
    if unknown := [name for name in objects if name not in places]:
        raise PolicyError(f"no furniture is called '{unknown[0]}'{nearest(unknown[0], places)}; such as '{next(iter(places))}'")
    rows = np.unpackbits(_packed()[[places[name] for name in objects]], axis=1)
    return torch.from_numpy(rows).reshape(len(objects), SOLID, SOLID, SOLID).bool()


def field(objects: Sequence[str], view: int) -> torch.Tensor:
    """Fields [B, N, N, N] of objects seen from one side (see :mod:`tropism_3d.fields`)."""
    return seen_from(resampled(signed(solids(objects)), torch.ones(len(objects), 3)), view)


def item(name: str, view: int) -> Item:
    """The item of an object and a side, 0 to 7: ``object`` and ``view``, and a prompt for tables and pages."""
    mirrored = ", mirrored" if view >= 4 else ""
    return {"prompt": f"{names()[name].lower()} ({name}), turned {90 * (view % 4)}°{mirrored}", "object": name, "view": view}


class Furniture:
    """``train``: the objects that the generator knows, from all sides. ``heldout``: 64 others; the first 64 are of one side each, the next
    of another, so that any number of them is of as many objects as can be. objects: only the first so many of the training objects."""

    def __init__(self, objects: int | None = None) -> None:
        known, held = split()
        self.train: list[Item] = _around(known[:objects])
        self.heldout: list[Item] = _around(held)


def _around(objects: list[str]) -> list[Item]:
    return [item(name, (turn + place) % VIEWS) for turn in range(VIEWS) for place, name in enumerate(objects)]
