"""Video, sound and shapes: each part of an item matters by itself, results can be decoded, and the networks are tiny."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("family", MORE, ids=IDS)
def test_networks_are_tiny(family: Family) -> None:
    parts = [part for part in family.build().components.values() if isinstance(part, torch.nn.Module)]
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) < 6_000_000


def test_the_second_expert_of_wan_takes_the_low_noise_steps() -> None:
    """A builder whose boundary were never crossed would test one expert only."""
    pipe = next(family for family in MORE if family.name == "wan-2.2").build()
    family = next(family for family in MORE if family.name == "wan-2.2")
    seen: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    sample(family, pipe)
    assert list(dict.fromkeys(seen)) == ["transformer", "transformer_2"]
