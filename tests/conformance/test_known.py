"""Pipelines that put a known part back after every step: it is kept, the rest is painted, and what is put back is never trained on."""

from __future__ import annotations

import pytest
import torch

from tests.conformance import conform, parts
from tests.conformance.families import FAMILIES
from tropism.diffusion.samplers import DDIM, step
from tropism.diffusion.schedules import split
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies import blend
from tropism.types import Level

LEVEL = Level(*(torch.tensor([value, value]) for value in (400.0, 0.6, 0.8)))


@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample", "flow", "edm"])
def test_toward_is_the_inverse_of_split(parametrization):
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 4, generator=draw).unbind(0)
    x = 0.6 * x0 + 0.8 * noise
    again, eps = split(blend.toward(x0, x, LEVEL, parametrization), x, LEVEL, parametrization)
    torch.testing.assert_close(again, x0)
    torch.testing.assert_close(eps, noise)


@pytest.mark.parametrize("name", ["sd-inpaint-blend", "flux-inpaint", "ltx-condition-i2v"])
def test_the_known_part_is_kept_and_has_no_gradient(name):
    family = FAMILIES[name]
    policy, items = conform.captured(family)
    made = conform.rollout(policy, family, items)
    known = made.cond.encoded["known"]
    kept, painted = known["places"], ~known["places"]
    assert kept.any() and painted.any()
    end = policy.schedule.levels(conform.STEPS)[conform.STEPS - (name == "sd-inpaint-blend")]
    off = (made.x0 - known["value"])[kept].abs().max()
    assert off < 1e-5 + 4 * float(end.sigma), "the known part is there at the end, up to the noise of the last level"
    x = made.x0.clone().requires_grad_()
    level = policy.schedule.levels(conform.STEPS)[1].expand(len(x))
    prediction = policy.predict(x, level, made.cond.encoded)
    x0, _ = split(prediction, x, level, policy.schedule.parametrization)
    torch.testing.assert_close(x0[kept], known["value"][kept], rtol=1e-4, atol=1e-4)
    network = policy.trainable()
    network.requires_grad_(True)
    weights = list(network.parameters())
    again = policy.predict(x.detach(), level, made.cond.encoded)
    assert not any(g is not None and g.any() for g in torch.autograd.grad(again[kept].sum(), weights, allow_unused=True, retain_graph=True))
    assert any(g is not None and g.any() for g in torch.autograd.grad(again[painted].sum(), weights, allow_unused=True))


def test_items_may_have_pictures_of_their_own_and_decoding_puts_back_none_of_another():
    family = FAMILIES["sd-inpaint-blend"]
    policy, _ = conform.captured(family)
    items = [{"prompt": "a red apple", "image": parts.picture(seed=seed)} for seed in (3, 4)]
    known = policy.encode(items)["known"]
    kept = known["places"]
    assert torch.equal(kept[0], kept[1])
    assert (known["value"][0] - known["value"][1])[kept[0]].abs().max() > 0.1
    x0 = torch.randn(2, *policy.shape, generator=torch.Generator().manual_seed(0))
    moved = torch.where(kept, x0 + 1, x0)
    with torch.no_grad():
        before, after = policy.decode(x0)["image"], policy.decode(moved)["image"]
    assert (before - after).abs().max() > 1e-2, "the known part of x0 is what is decoded, not that of the captured picture"


def test_frames_that_are_put_back_clean_belong_to_the_call():
    policy, items = conform.captured(FAMILIES["ltx-condition-i2v"])
    assert policy.study.kept is not None and policy.study.kept.clean
    with pytest.raises(PolicyError, match="puts other frames back"):
        policy.encode([{**items[0], "image": parts.picture(seed=9)}])


def test_what_is_put_back_by_no_law_is_refused():
    levels = Level(*(torch.tensor(v) for v in ([900.0, 600.0, 300.0], [0.3, 0.6, 0.9], [0.95, 0.8, 0.43])))
    part = blend.Kept(torch.ones(1, 4, dtype=torch.bool), clean=False)
    z, draw = torch.tensor([[1.0, -2.0, 0.5, 3.0]]), torch.Generator().manual_seed(0)
    lawful = [[float(levels.alpha[k]) * z + float(levels.sigma[k]) * noise for k in range(3)] for noise in (0.0, 1.0)]
    blend.check(part, lawful, levels, "Pipe")
    with pytest.raises(CaptureRefused, match="not by putting"):
        blend.check(part, [[torch.randn(1, 4, generator=draw) for _ in range(3)] for _ in range(2)], levels, "Pipe")


def test_the_deterministic_sampler_keeps_the_noise_of_the_known_part():
    policy, items = conform.captured(FAMILIES["flux-inpaint"])
    cond = policy.encode(items)
    kept, value = cond["known"]["places"], cond["known"]["value"]
    levels = policy.schedule.levels(4)
    fresh = torch.randn(2, *policy.shape, generator=torch.Generator().manual_seed(0))
    x = policy.noise(lambda shape: fresh, levels[0].expand(2), cond)
    with torch.no_grad():
        x, _ = step(DDIM(0.0), policy, x, levels[0].expand(2), levels[2].expand(2), cond)
    expected = float(levels.alpha[2]) * value + float(levels.sigma[2]) * fresh
    torch.testing.assert_close(x[kept], expected[kept], rtol=1e-5, atol=1e-5)
