"""Rewards of pictures on frames, and how much a clip moves."""

from __future__ import annotations

import types

import pytest
import torch

from tropism.errors import PluginError, RewardError, TropismError
from tropism_image.rewards.jpeg import JpegSize
from tropism_video.evaluators.motion import Motion, motion
from tropism_video.rewards.frames import Frames, spread


def clips(count: int, frames: int) -> torch.Tensor:
    return torch.rand(count, frames, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("frames", "count", "expected"), [(33, 4, [0, 11, 21, 32]), (5, 1, [2]), (3, 8, [0, 1, 2]), (9, 2, [0, 8]), (1, 4, [0])]
)
def test_frames_are_spread_over_the_clip(frames, count, expected):
    assert spread(frames, count).tolist() == expected


@pytest.mark.parametrize("reduce", ["mean", "min"])
def test_a_clip_has_the_mean_or_the_least_of_its_frames_scores(reduce):
    video = clips(3, 7)
    video[1, 3] = 0.5  # a grey frame is small as a JPEG
    found = Frames({"use": "image/jpeg-size"}, frames=3, reduce=reduce)(video, ["a", "b", "c"])
    each = torch.stack([JpegSize()(video[:, place]) for place in (0, 3, 6)], 1)
    assert torch.equal(found, each.mean(1) if reduce == "mean" else each.min(1).values)
    assert found.shape == (3,)


def test_every_frame_is_scored_with_the_prompt_of_its_own_clip(monkeypatch):
    def inner(image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        return image.mean((1, 2, 3)) + 100 * torch.tensor([float(text) for text in prompt])

    reward = Frames({"use": "image/jpeg-size"}, frames=2)
    reward.inner, reward.wanted = inner, ("image", "prompt")
    video = clips(2, 4)
    expected = video[:, [0, 3]].mean((1, 2, 3, 4)) + torch.tensor([100.0, 300.0])
    torch.testing.assert_close(reward(video, ["1", "3"]), expected)
    video.requires_grad_()
    reward(video, ["1", "3"]).sum().backward()
    touched = video.grad.abs().sum((0, 2, 3, 4)) > 0
    assert touched.tolist() == [True, False, False, True]


def test_what_is_no_reward_of_pictures_is_refused():
    with pytest.raises(RewardError, match="'video/frames' needs video, prompt"):
        Frames({"use": "video/frames", "reward": {"use": "image/jpeg-size"}})
    with pytest.raises(PluginError, match="image/jpeg-size"):
        Frames({"use": "image/jpeg-sise"})
    with pytest.raises(RewardError, match="expected mean or min"):
        Frames({"use": "image/jpeg-size"}, reduce="max")
    with pytest.raises(RewardError, match="0 frames"):
        Frames({"use": "image/jpeg-size"}, frames=0)
    with pytest.raises(RewardError, match=r"expected \[B, frames, 3"):
        Frames({"use": "image/jpeg-size"})(torch.zeros(2, 3, 8, 8), ["a", "b"])


def test_motion_is_the_mean_step_from_frame_to_frame():
    video = torch.zeros(2, 3, 3, 4, 4)
    video[0, 1], video[0, 2] = 0.5, 0.25  # steps of 0.5 and 0.25
    assert motion(video).tolist() == [0.375, 0.0]
    with pytest.raises(TropismError, match="at least two frames"):
        motion(video[:, :1])


def test_motion_is_told_beside_that_of_the_base():
    def made(scale: float) -> types.SimpleNamespace:
        return types.SimpleNamespace(media={"video": torch.tensor([0.0, scale]).reshape(1, 2, 1, 1, 1).expand(2, 2, 3, 4, 4)})

    told = dict(Motion()(made(0.1), made(0.4)))
    torch.testing.assert_close(told["video/motion"], torch.tensor([0.1, 0.1]))
    torch.testing.assert_close(told["video/motion-ratio"], torch.tensor([0.25, 0.25]))
