"""Video, sound and shapes: each part of an item matters by itself, results can be decoded, and the networks are tiny."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.conformance import audio, other, video
from tests.conformance.family import Family
from tests.conformance.test_families import difference, sample

MORE = [*video.FAMILIES, *audio.FAMILIES, *other.FAMILIES]
IDS = [family.name for family in MORE]
SLOW_TO_RENDER = {"shap-e", "shap-e-img2img"}  # 20 views by ray marching: ten seconds a shape, however small the networks


@pytest.mark.parametrize(
    ("family", "key"), [pytest.param(family, key, id=f"{family.name}-{key}") for family in MORE for key in family.items[0]]
)
def test_each_part_of_an_item_changes_the_result(family: Family, key: str) -> None:
    pipe = family.build()
    first, second = family.items
    mixed = dataclasses.replace(family, items=[{**first, key: second[key]}])
    assert difference(sample(mixed, pipe), sample(family, pipe)) > 1e-2


@pytest.mark.parametrize("family", [family for family in MORE if family.name not in SLOW_TO_RENDER], ids=lambda family: family.name)
def test_the_result_can_be_decoded(family: Family) -> None:
    decoded = sample(dataclasses.replace(family, output="np"), family.build())
    assert np.isfinite(decoded).all()
    assert decoded.std() > 1e-3, "all pixels or samples are equal"


NOT_ALONG_TWO = {
    "animatelcm": "draws noise",
    "shap-e": "clips x0",
    "shap-e-img2img": "clips x0",
    "ltx-condition-i2v": "has a time for each token",
}


def off_the_plane(pipe: DiffusionPipeline, family: Family) -> list[float]:
    """For each step of one call, how far the next x is from every a x + b f with numbers a and b, relative to itself."""
    far: list[float] = []
    step = pipe.scheduler.step

    def watched(*given: Any, **named: Any) -> Any:
        known = inspect.signature(step).bind(*given, **named).arguments
        two = torch.stack([known["sample"].flatten(), known["model_output"].flatten()], 1).double()  # before: some write into x
        output = step(*given, **named)
        after = output[0].flatten().double()
        nearest = two @ torch.linalg.lstsq(two, after[:, None]).solution[:, 0]
        far.append(float((nearest - after).norm() / after.norm()))
        return output

    pipe.scheduler.step = functools.wraps(step)(watched)  # the pipelines look at its signature
    sample(family, pipe)
    return far


@pytest.mark.parametrize("family", [family for family in MORE if family.name not in NOT_ALONG_TWO], ids=lambda family: family.name)
def test_a_step_is_a_combination_of_x_and_the_prediction(family: Family) -> None:
    """As a DDIM step with eta 0 and an Euler step of a flow are, and a step that remembers earlier ones is not."""
    pipe = family.build()
    if family.parity is not None:
        pipe.scheduler = family.parity()
    far = off_the_plane(pipe, family)
    assert len(far) >= 4
    assert max(far) < 1e-5


@pytest.mark.parametrize(
    "family", [family for family in MORE if family.parity and family.name != "animatediff"], ids=lambda family: family.name
)
def test_without_its_parity_scheduler_it_is_not(family: Family) -> None:
    """Otherwise the entry would be needless. (AnimateDiff's own step is one, but goes to other levels than its next times'.)"""
    assert max(off_the_plane(family.build(), family)) > 1e-4


@pytest.mark.parametrize("family", MORE, ids=IDS)
def test_networks_are_tiny(family: Family) -> None:
    parts = [part for part in family.build().components.values() if isinstance(part, torch.nn.Module)]
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) < 6_000_000


def test_the_second_expert_of_wan_takes_the_low_noise_steps() -> None:
    """A builder whose boundary were never crossed would test one expert only."""
    family = next(family for family in MORE if family.name == "wan-2.2")
    pipe = family.build()
    seen: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    sample(family, pipe)
    assert list(dict.fromkeys(seen)) == ["transformer", "transformer_2"]
