"""The shipped data: who is held out, who made it, and how it is made."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tropism.errors import PolicyError
from tropism_3d import furniture
from tropism_3d.fields import FLOOR, SOLID

ROOT = Path(__file__).resolve().parents[2]


def test_held_out_objects_are_apart_and_many():
    known, held = furniture.split()
    assert len(held) == 64 and len(known) == 478 and not set(known) & set(held)
    data = furniture.Furniture()
    assert len(data.heldout) == 512 and len(data.train) == 478 * 8
    assert {item["object"] for item in data.heldout[:64]} == set(held)
    assert len({item["view"] for item in data.heldout[:64]}) == 8
    assert len({item["prompt"] for item in data.heldout}) == 512
    assert {item["object"] for item in furniture.Furniture(objects=5).train} == set(known[:5])


def test_every_object_has_a_credit_and_a_licence():
    lines = (ROOT / "plugins/3d/src/tropism_3d/data/CREDITS.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(furniture.names())
    assert all(line.rsplit(", ", 1)[1] in ("CC0 1.0", "CC BY 3.0", "CC BY 3.0 US") and ", by " in line for line in lines)


def test_solids_stand_on_the_floor_within_their_margin():
    known, _ = furniture.split()
    solid = furniture.solids(known[:40])
    floor, top = round(FLOOR * SOLID), SOLID - round(FLOOR * SOLID)
    assert solid[..., floor].flatten(1).any(1).all() and not solid[..., :floor].any()
    extent = [solid.any(dim=axes).sum(1) for axes in ((2, 3), (1, 3), (1, 2))]
    assert (torch.stack(extent).amax(0) >= top - floor - 1).all(), "the longest side fills the grid"


def test_an_unknown_object_is_named_with_the_nearest():
    with pytest.raises(PolicyError, match=r"'Scopia/chairr'.*did you mean"):
        furniture.solids(["Scopia/chairr"])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("furniture_data", ROOT / "plugins/3d/training/data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CATALOGUE = """
id#1=Test#slab
name#1=Slab
model#1=/m/slab.obj
movable#1=true
doorOrWindow#1=false
creator#1=Somebody
id#2=Test#lamp
name#2=Caf\\u00e9 lamp
model#2=/m/slab.obj
movable#2=true
elevation#2=120.5
id#3=Test#gone
name#3=Gone
model#3=/m/missing.obj
movable#3=true
"""
SLAB = """
v 0 0 0
v 4 0 0
v 4 0.97 0
v 0 0.97 0
v 0 0 1.97
v 4 0 1.97
v 4 0.97 1.97
v 0 0.97 1.97
f 1 4 3 2
f 5 6 7 8
f 1 2 6 5
f 4 8 7 3
f 1 5 8 4
f 2 3 7 6
"""  # y up: 4 wide, nearly 1 high and 2 deep


def test_a_library_is_read_turned_upright_and_filled(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with zipfile.ZipFile(tmp_path / "Scopia.sh3f", "w") as library:
        library.writestr("PluginFurnitureCatalog.properties", CATALOGUE)
        library.writestr("m/slab.obj", SLAB)
    ((model, grid),) = script.read(tmp_path)
    assert model["name"] == "Slab" and model["library"] == "Scopia"
    sides = [np.flatnonzero(grid.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    assert [len(side) for side in sides] == [44, 22, 11] and sides[2][0] == 2
    assert grid.sum() == 44 * 22 * 11, "filled"
    assert "left out: Scopia Gone" in capsys.readouterr().out


def test_what_does_not_stand_is_left_out(script: ModuleType):
    stands = {"movable": "true", "doorOrWindow": "false", "category": "Office"}
    assert script.stands(stands)
    for change in (
        {"movable": "false"},
        {"doorOrWindow": "true"},
        {"elevation": "3"},
        {"modelRotation": "1 0 0"},
        {"category": "Characters"},
    ):
        assert not script.stands({**stands, **change})


def test_a_folder_without_libraries_says_what_to_do(script: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"no \.sh3f library"):
        next(script.read(tmp_path))
