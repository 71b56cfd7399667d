"""Every family of pipelines through the capture: what it computes, what it refuses, and that it learns."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPAGPipeline

from tests.conformance import conform
from tests.conformance.families import FAMILIES
from tropism.diffusion.rollout import replay
from tropism.diffusion.schedules import like, split
from tropism.errors import CaptureRefused
from tropism.types import tree_map

TAKEN = [name for name in FAMILIES if name not in conform.REFUSED]


@pytest.mark.parametrize("name", conform.REFUSED)
def test_what_cannot_be_captured_is_refused_with_its_reason(name):
    with pytest.raises(CaptureRefused, match=conform.REFUSED[name]):
        conform.captured(FAMILIES[name])


@pytest.mark.parametrize("name", TAKEN)
def test_a_family_is_captured_and_learns(name):
    family = FAMILIES[name]
    policy, items = conform.captured(family)
    assert policy.replay_error < 1e-3
    distance = conform.parity(policy, family, items[0])
    assert distance is None or distance < 1e-3, "our deterministic sampler and the stock pipeline part"
    made = conform.rollout(policy, family, items)
    assert made.x0.isfinite().all()
    assert conform.ratio(policy, family, made) == 0.0
    learns(policy, family, made)


def learns(policy, family, made):
    """One policy-gradient update raises the log-probability of the better sample; one denoising update lowers the denoising loss."""
    trainable = conform.adapted(policy)
    optimizer = torch.optim.SGD(trainable.parameters.values(), lr=1e-3)
    rows = torch.arange(len(made))
    index = int(made.steps.on.nonzero().flatten()[0])

    def log_prob():
        return replay(policy, conform.sampler(family), made, rows, torch.full_like(rows, index))

    def denoising():
        level = policy.schedule.levels(conform.STEPS)[0].expand(len(made))
        level = type(level)(level.t, torch.full_like(level.alpha, 0.6), torch.full_like(level.sigma, 0.8))
        noise = torch.randn(made.x0.shape, generator=torch.Generator().manual_seed(0))
        x = like(level.alpha, noise) * made.x0 + like(level.sigma, noise) * noise
        x0, _ = split(policy.predict(x, level, made.cond.encoded), x, level, policy.schedule.parametrization)
        return (x0 - made.x0).square().mean()

    for objective in (lambda: -log_prob()[0], denoising):
        before = objective()
        optimizer.zero_grad()
        before.backward()
        gradients = [p.grad for p in trainable.parameters.values() if p.grad is not None]
        size = torch.stack([g.norm() for g in gradients]).norm() if gradients else torch.tensor(0.0)
        assert size.isfinite() and size > 0, "no gradient reaches the adapter"
        with torch.no_grad():  # a step short enough for its first-order change to hold
            scale = 1e-4 * float(before.abs() + 1e-6) / float(size**2)
            for p in trainable.parameters.values():
                if p.grad is not None:
                    p -= scale * p.grad
            assert objective() < before
    with trainable.reference(), torch.no_grad():
        again = log_prob()
    assert torch.equal(again, made.steps.logp[:, made.steps.on.nonzero().flatten()[0]]), "the reference is the base model"


@pytest.mark.parametrize("name", ["stable-diffusion-1.5", "flux", "wan-2.2", "audioldm-2"])
def test_capturing_changes_nothing_of_the_pipeline(name):
    family = FAMILIES[name]
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)

    def stock():
        made = pipe(
            **family.call, **family.items[0], num_inference_steps=3, generator=torch.Generator().manual_seed(3), output_type=family.output
        )
        return torch.as_tensor(made[0])

    before, state = stock(), torch.get_rng_state()
    policy = conform.capture(pipe, **family.call)
    policy.decode(conform.rollout(policy, family, family.items).x0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(stock(), before)


def test_conditions_of_different_length_go_through_the_network_as_they_would_alone():
    policy, _ = conform.captured(FAMILIES["cogview4"])
    items = [{"prompt": "red"}, {"prompt": "a very long prompt about a red apple on a table"}]
    together = conform.condition(policy, items)
    x = torch.randn(2, *policy.shape, generator=torch.Generator().manual_seed(0))
    level = policy.schedule.levels(4)[1].expand(2)
    with torch.no_grad():
        both = policy.predict(x, level, together.encoded)
        for row, item in enumerate(items):
            alone = policy.predict(x[row : row + 1], level[row : row + 1], policy.encode([item]))
            torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_two_networks_share_the_time_at_their_boundary():
    policy, items = conform.captured(FAMILIES["wan-2.2"])
    assert set(policy.modules) == {"transformer", "transformer_2"}
    cond = policy.encode(items)
    x = torch.randn(2, *policy.shape)
    levels = policy.schedule.levels(20)
    mixed = levels[torch.tensor([0, 19])]
    with torch.no_grad():
        both = policy.predict(x, mixed, cond)
        for row in (0, 1):
            cut = tree_map(lambda t, row=row: t[row : row + 1], cond)
            alone = policy.predict(x[row : row + 1], mixed[row : row + 1], cut)
            torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adaptive", [0.0, 0.002])
def test_attention_that_a_pipeline_has_only_while_it_runs_is_used_and_put_back(adaptive):
    pipe = StableDiffusionPAGPipeline.from_pipe(FAMILIES["stable-diffusion-2-v"].build(), pag_applied_layers=["mid"])
    pipe.set_progress_bar_config(disable=True)
    before = dict(pipe.unet.attn_processors)
    call = {**FAMILIES["stable-diffusion-2-v"].call, "guidance_scale": 4.0, "pag_scale": 3.0, "pag_adaptive_scale": adaptive}
    policy = conform.capture(pipe, **call)
    assert policy.replay_error < 1e-3
    assert len(policy.phases[0].rules) == 1 and policy.phases[0].rules[0].copies == 3
    if not adaptive:
        assert policy.phases[0].guidance.weights.tolist() == pytest.approx([-3, 7, -3], abs=1e-3)
    else:
        assert policy.phases[0].guidance.times is not None, "the scale changes with the time"
    assert all(pipe.unet.attn_processors[name] is processor for name, processor in before.items())


@pytest.mark.parametrize(
    "name", ["flux", "mochi", "wan-2.2-ti2v", "cosmos-2", "sana-sprint", "dance-diffusion", "ltx-condition", "stable-audio-3"]
)
def test_training_draws_the_times_that_sampling_visits(name):
    """At the same noise level a network is told the same time, whether the level was drawn or is one of the pipeline's own."""
    policy, _ = conform.captured(FAMILIES[name])
    levels = policy.schedule.levels(conform.STEPS)
    own = levels[torch.arange(1, conform.STEPS)]  # the first may be a hair beyond the end
    u = torch.asin(own.sigma) * 2 / torch.pi if policy.study.family.kind == "trig" and not policy.study.family.flowing else own.sigma
    drawn = policy.schedule.draw(u)
    torch.testing.assert_close(drawn.sigma, own.sigma, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(drawn.alpha, own.alpha, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.t, own.t, rtol=2e-3, atol=1e-4)


def test_a_state_that_the_scheduler_keeps_in_other_units_is_a_flow():
    policy, _ = conform.captured(FAMILIES["cosmos-2"])
    assert policy.study.family.flowing and policy.schedule.parametrization == "flow"
    levels = policy.schedule.levels(conform.STEPS)
    torch.testing.assert_close(levels.alpha + levels.sigma, torch.ones(conform.STEPS + 1))
    assert float(levels.sigma[0]) == pytest.approx(80 / 81), "the largest level of Cosmos is 80 on x0 + sigma eps"
