"""The image view: what is saved is what was generated, and the fragment carries it whole."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tropism import report
from tropism.errors import TropismError
from tropism_image.view import ImageView


def embedded(fragment: str) -> Image.Image:
    (data,) = re.findall(r'src="data:image/(?:png|webp);base64,([A-Za-z0-9+/=]+)"', fragment)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pixels_survive_the_round_trip(tmp_path: Path) -> None:
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16)
    media = torch.cat([levels, levels.flip(1), levels.flip(2)]) / 255
    name = ImageView().save(media, tmp_path / "new", "0003")
    assert name == "0003.png"
    expected = (media * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / name)), expected)
    assert np.array_equal(np.asarray(embedded(ImageView().html(tmp_path / "new" / name))), expected)


def test_values_are_rounded_and_clipped(tmp_path: Path) -> None:
    media = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.5]).reshape(1, 2, 2).expand(3, 2, 2)
    ImageView().save(media, tmp_path, "x")
    assert np.asarray(Image.open(tmp_path / "x.png"))[..., 0].tolist() == [[0, 0], [1, 255]]


def test_half_precision_with_gradient_is_saved(tmp_path: Path) -> None:
    ImageView().save(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True), tmp_path, "x")
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == np.full((2, 2, 3), 128).tolist()


def test_small_images_keep_their_pixels_and_size(tmp_path: Path) -> None:
    view = ImageView()
    for width, pixelated in ((128, True), (129, False)):
        fragment = view.html(tmp_path / view.save(torch.zeros(3, 64, width), tmp_path, str(width)))
        assert ("image-rendering:pixelated" in fragment) == pixelated
        assert f'width="{width}" height="64"' in fragment and f'alt="sample {width}"' in fragment


def test_large_images_are_embedded_as_previews(tmp_path: Path) -> None:
    fragment = ImageView().html(tmp_path / ImageView().save(torch.rand(3, 400, 800), tmp_path, "large"))
    preview = embedded(fragment)
    assert (preview.format, preview.size) == ("WEBP", (320, 160))
    assert 'width="800" height="400"' in fragment


def test_file_names_are_escaped(tmp_path: Path) -> None:
    fragment = ImageView().html(tmp_path / ImageView().save(torch.zeros(3, 2, 2), tmp_path, '"><b>'))
    assert "<b>" not in fragment and "&quot;&gt;&lt;b&gt;" in fragment


@pytest.mark.parametrize("media", [torch.zeros(1, 4, 4), torch.zeros(2, 3, 4, 4), torch.full((3, 2, 2), torch.nan)])
def test_what_is_no_image_is_refused(tmp_path: Path, media: torch.Tensor) -> None:
    with pytest.raises(TropismError, match="image x: "):
        ImageView().save(media, tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(TropismError, match=r"x\.png cannot be shown"):
        ImageView().html(tmp_path / "x.png")


def test_a_report_embeds_each_picture(tmp_path: Path) -> None:
    view = ImageView()
    (tmp_path / "metrics.jsonl").write_text("")
    for step in (0, 5):
        folder = tmp_path / "samples" / f"step-{step:08d}"
        file = view.save(torch.full((3, 8, 8), step / 10), folder, "0000")
        tiles = [{"prompt": "grey", "seed": 0, "file": file, "scores": {"image/level": step / 10}}]
        (folder / "index.json").write_text(json.dumps({"step": step, "samples": step, "kind": "image", "tiles": tiles}))
    page = report.build(tmp_path, {view.kind: view}).read_text()
    pictures = [embedded(fragment).getpixel((0, 0)) for fragment in re.findall(r"<img [^>]*>", page)]
    assert pictures == [(0, 0, 0), (128, 128, 128)]
