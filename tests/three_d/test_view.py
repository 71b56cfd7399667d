"""The view of shapes: what is on disk and in the page is the shape that was made."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from tropism import report
from tropism.errors import TropismError
from tropism_3d import compact, render
from tropism_3d.shapes import Shape, from_occupancy
from tropism_3d.view import ShapeView, export, read


@pytest.fixture
def tower() -> torch.Tensor:
    field = torch.zeros(16, 16, 16)
    field[6:10, 4:12, 1:15] = 1
    return field


def test_a_file_is_y_up_and_comes_back_z_up(tower: torch.Tensor, tmp_path: Path):
    name = ShapeView().save(tower, tmp_path / "new", "0001")
    assert name == "0001.glb"
    raw = trimesh.load(tmp_path / "new" / name, force="mesh").extents
    assert raw.argmax() == 1 and raw.argmin() == 0
    made = from_occupancy(tower[None])[0].mesh
    assert made is not None
    again = read(tmp_path / "new" / name)
    np.testing.assert_allclose(again.vertices, made.vertices, atol=1e-6)
    assert again.volume == pytest.approx(made.volume, rel=1e-4) and again.volume > 0, "not turned inside out"


def test_an_obj_is_written_too_and_no_other(tower: torch.Tensor, tmp_path: Path):
    shape = from_occupancy(tower[None])[0]
    export(shape, tmp_path / "a.obj")
    np.testing.assert_allclose(read(tmp_path / "a.obj").extents, shape.mesh.extents, atol=1e-4)  # type: ignore[union-attr]
    with pytest.raises(TropismError, match=r"\.glb or \.obj, found '\.stl'"):
        export(shape, tmp_path / "a.stl")
    with pytest.raises(TropismError, match="'empty'"):
        export(Shape(None, "empty"), tmp_path / "a.glb")


def test_a_sample_without_a_surface_is_saved_and_told(tmp_path: Path):
    view = ShapeView()
    name = view.save(torch.zeros(8, 8, 8), tmp_path, "x")
    assert name == "x.txt" and (tmp_path / name).read_text() == "empty"
    fragment = view.html(tmp_path / name)
    assert "no mesh, empty" in fragment and "data-mesh" not in fragment


def test_the_page_holds_the_mesh_and_its_picture(tower: torch.Tensor, tmp_path: Path):
    view = ShapeView()
    fragment = view.html(tmp_path / view.save(tower, tmp_path, "x"))
    (packed,) = re.findall(r'data-mesh="([^"]+)"', fragment)
    place, faces = compact.unpack(packed)
    assert np.ptp(place, 0).tolist() == pytest.approx([1023 * 4 / 14, 1023 * 8 / 14, 1023], rel=0.02)
    assert trimesh.Trimesh(place, faces).is_watertight
    (shown,) = re.findall(r'src="data:image/webp;base64,([^"]+)"', fragment)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))).convert("L"))
    assert pixels[72, 72] < 200 < pixels[2, 2], "the object is darker than the paper"


def test_a_heavy_mesh_is_made_light():
    ball = trimesh.creation.icosphere(5)
    place, faces = compact.unpack(compact.pack(ball))
    assert len(ball.faces) > 20_000 and 500 < len(faces) <= compact.MOST
    assert trimesh.Trimesh(place / 1023, faces).volume == pytest.approx(np.pi / 6, rel=0.05)


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "x.glb").write_bytes(b"nothing of the kind")
    with pytest.raises(TropismError, match=r"x\.glb cannot be shown"):
        ShapeView().html(tmp_path / "x.glb")


def test_a_turntable_turns_and_shows_shadow(tower: torch.Tensor):
    mesh = from_occupancy(tower[None])[0].mesh
    strip = render.turntable(mesh, frames=4, size=48)
    assert strip.shape == (48, 192, 3)
    first, second, third = (strip[:, 48 * i : 48 * (i + 1)].astype(int) for i in range(3))
    assert np.abs(first - second).mean() > 1 > np.abs(first - third).mean(), "a box looks the same from behind, not from the side"
    assert (render.picture(None, 32) == render.PAPER.astype(int)).all()


def test_the_report_runs_the_views_script_and_no_other(tower: torch.Tensor, tmp_path: Path):
    view, folder = ShapeView(), tmp_path / "samples" / "step-00000000"
    tile = {"prompt": "a tower", "seed": 1, "file": view.save(tower, folder, "0000"), "scores": {}}
    (folder / "index.json").write_text(json.dumps({"step": 0, "samples": 0, "kind": "occupancy", "tiles": [tile]}))
    (tmp_path / "recipe.yaml").write_text("name: t\n")
    (tmp_path / "metrics.jsonl").write_text("")
    page = report.build(tmp_path, {"occupancy": view}).read_text()
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2 and scripts[1] == view.script
    (policy,) = re.findall(r"script-src ([^\"]+)\"", page)
    assert policy.split() == [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert "http" not in view.script
