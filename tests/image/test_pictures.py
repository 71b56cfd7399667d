"""Pictures of data sets: any format to [3, H, W] in [0, 1], and nothing decoded that is too large."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
import torch
from PIL import Image

from tropism.data.faults import BadRow
from tropism_image.pictures import Pictures


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_a_picture_is_a_float_tensor_of_its_colours():
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    image.putpixel((2, 1), (0, 102, 255))
    found = Pictures()([encoded(image)])
    assert found.shape == (3, 2, 3) and found.dtype == torch.float32
    assert torch.allclose(found[:, 0, 0], torch.tensor([1.0, 0.0, 0.2])) and torch.allclose(found[:, 1, 2], torch.tensor([0.0, 0.4, 1.0]))


def test_grey_palette_and_transparent_pictures():
    assert torch.allclose(Pictures()([encoded(Image.new("L", (2, 2), 51))]), torch.full((3, 2, 2), 0.2))
    assert torch.allclose(Pictures()([encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))]), torch.ones(3, 1, 1))
    palette = Image.new("RGB", (2, 2), (255, 0, 0)).quantize(2)
    assert Pictures()([encoded(palette, "GIF")])[:, 0, 0].tolist() == [1, 0, 0]
    with pytest.raises(BadRow, match="pixels of mode 'I;16'; expected 8 bits"):
        Pictures()([encoded(Image.new("I;16", (2, 2)))])


def test_size_scales_the_shorter_side_and_keeps_the_middle():
    image = Image.new("RGB", (40, 20), "black")
    image.paste((255, 255, 255), (10, 0, 30, 20))
    assert torch.equal(Pictures(20)([encoded(image)]), torch.ones(3, 20, 20))
    assert Pictures(8)([encoded(image)]).shape == (3, 8, 8) == Pictures(8)([encoded(image.transpose(Image.Transpose.ROTATE_90))]).shape


def test_the_orientation_that_a_camera_wrote_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert Pictures()([encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)]).shape == (3, 4, 2)


def test_a_huge_picture_is_refused_by_its_header():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)  # 2.7 GB decoded, 70 bytes here
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(BadRow) as caught:
        Pictures()([bomb])
    assert caught.value.kind == "huge media"
    small = encoded(Image.new("RGB", (10, 10)))
    assert Pictures(pixels=100)([small]).shape == (3, 10, 10)
    with pytest.raises(BadRow, match="10 x 10 pixels; the limit is 99 in all"):
        Pictures(pixels=99)([small])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_truncated_and_foreign_files_are_unreadable(form):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), form)
    assert Pictures()([whole]).shape == (3, 64, 64)
    for content in (whole[: len(whole) // 2], whole[:20], b"hello", b""):
        with pytest.raises(BadRow) as caught:
            Pictures()([content])
        assert caught.value.kind == "unreadable media"
    with pytest.raises(BadRow, match="found 2 frames; expected one picture"):
        Pictures()([whole, whole])
