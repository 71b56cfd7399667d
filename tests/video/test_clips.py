"""The view of clips, what is read of them, and what is refused."""

from __future__ import annotations

import base64
import io
import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from tropism import plugins
from tropism.data.faults import BadRow
from tropism.errors import TropismError
from tropism_video import clips
from tropism_video.clips import Clips
from tropism_video.view import EMBEDDED, VideoView


def noise(frames: int, height: int = 12, width: int = 20) -> torch.Tensor:
    pixels = torch.randint(0, 256, (frames, 3, height, width), generator=torch.Generator().manual_seed(frames))
    return pixels.float() / 255


def png(frame: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_saved_is_read_again_without_loss(tmp_path):
    clip = noise(5)
    view = VideoView()
    name = view.save(clip, tmp_path / "new", "0003")
    assert name == "0003.webp"
    assert torch.equal(view.load([(tmp_path / "new" / name).read_bytes()], tuple(clip.shape)), clip)


def test_frames_that_stand_still_keep_their_time(tmp_path):
    """Pillow joins equal frames to one that lasts longer."""
    clip = noise(4)[[0, 0, 0, 1, 2, 2]]
    name = VideoView().save(clip, tmp_path, "a")
    with Image.open(tmp_path / name) as image:
        assert image.n_frames < 6
    assert torch.equal(VideoView().load([(tmp_path / name).read_bytes()], tuple(clip.shape)), clip)


def test_fewer_frames_are_taken_at_even_moments_and_a_clip_of_frames_is_read_like_one(tmp_path):
    clip = noise(9)
    data = (tmp_path / VideoView().save(clip, tmp_path, "a")).read_bytes()
    expected = clip[[1, 4, 7]]  # the middles of three equal parts of nine frames
    assert torch.equal(Clips((3, 12, 20))([data]), expected)
    assert torch.equal(Clips((3, 12, 20))([png(frame) for frame in clip]), expected)


def test_a_page_holds_a_small_animation_and_a_strip(tmp_path):
    file = tmp_path / VideoView().save(noise(8, 300, 480), tmp_path, "a")
    found = re.findall(r'src="data:image/webp;base64,([A-Za-z0-9+/=]+)"', VideoView().html(file))
    animation, strip = (Image.open(io.BytesIO(base64.b64decode(data))) for data in found)
    assert animation.n_frames == 8 and max(animation.size) == EMBEDDED
    assert strip.size == (6 * animation.width, animation.height)


@pytest.mark.parametrize("count", [0, 5000])
def test_what_is_no_clip_is_refused(count):
    with pytest.raises(BadRow, match=f"found {count} frames; expected 1 to 4096"):
        Clips((3, 8, 8))([b""] * count)


def test_a_damaged_clip_is_refused(tmp_path):
    data = (tmp_path / VideoView().save(noise(4), tmp_path, "a")).read_bytes()
    with pytest.raises((BadRow, TropismError)):
        Clips((4, 12, 20))([data[: len(data) // 2]])


def test_a_huge_clip_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PIXELS", 100)
    data = (tmp_path / VideoView().save(noise(4), tmp_path, "a")).read_bytes()
    with pytest.raises(BadRow, match="4 frames of 20 x 12 pixels"):
        Clips((4, 12, 20))([data])


def test_a_video_file_without_decord_is_refused_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(TropismError, match=re.escape("pip install 'tropism-video[files]'")):
        Clips((4, 12, 20))([b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 64])


def test_a_video_file_is_read_by_decord_where_it_is_installed(monkeypatch):
    """By a stand-in with decord's interface."""
    clip = noise(6)
    frames = (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    class Reader(list):
        def get_batch(self, places):
            return types.SimpleNamespace(asnumpy=lambda: frames[places])

    stand_in = types.SimpleNamespace(VideoReader=lambda data: Reader(frames), DECORDError=KeyError)
    monkeypatch.setitem(sys.modules, "decord", stand_in)
    assert torch.equal(Clips((2, 12, 20))([b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 64]), clip[[1, 4]])
    assert isinstance(frames, np.ndarray)


@pytest.mark.parametrize("media", [torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8), torch.full((2, 3, 8, 8), float("nan"))])
def test_a_view_saves_only_clips(media, tmp_path):
    with pytest.raises(TropismError, match="clip x"):
        VideoView().save(media, tmp_path, "x")


def test_the_plugin_registers_what_it_says():
    catalog = plugins.manager()[1]
    for kind, names in {"rewards": ["frames", "clip-score"], "evaluators": ["motion"], "views": ["video"]}.items():
        assert all(callable(catalog.load(kind, f"video/{name}")) for name in names)
