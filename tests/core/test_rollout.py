"""Rollouts: a stored trajectory is replayed to the bit, and a sample depends on nothing but itself."""

from __future__ import annotations

import diffusers.schedulers.scheduling_ddim as scheduling_ddim
import diffusers.schedulers.scheduling_lcm as scheduling_lcm
import pytest
import torch

from tests import tiny
from tropism.diffusion.flow_samplers import Cps, DanceSde, FlowSde
from tropism.diffusion.noise import Draw
from tropism.diffusion.rollout import collect, replay
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.pipeline import capture
from tropism.testing import condition
from tropism.toy import ToyPolicy
from tropism.types import Condition, Rollout

ITEMS = [{"prompt": text} for text in ("a red apple", "a dog", "the sea", "a red apple", "sky", "two cats")]
CPU = torch.device("cpu")


def toy(parametrization="epsilon"):
    policy = ToyPolicy(parametrization=parametrization)
    torch.nn.init.normal_(policy.network.layers[-1].weight, std=0.1)
    return policy


CASES = {
    "toy ddim": (toy, DDIM(1.0)),
    "toy consistency": (toy, Consistency()),
    "toy flow, flow-sde": (lambda: toy("flow"), FlowSde()),
    "toy flow, cps": (lambda: toy("flow"), Cps()),
    "toy flow, ddim": (lambda: toy("flow"), DDIM(1.0)),
    "stable diffusion, flow-sde": (lambda: capture(tiny.stable_diffusion(), guidance_scale=5.0), FlowSde()),
    "stable diffusion, dance-sde": (lambda: capture(tiny.stable_diffusion(), guidance_scale=5.0), DanceSde()),
    "stable diffusion": (lambda: capture(tiny.stable_diffusion(), guidance_scale=5.0), DDIM(1.0)),
    "stable diffusion v": (lambda: capture(tiny.stable_diffusion(prediction_type="v_prediction"), guidance_scale=3.0), DDIM(0.7)),
    "latent consistency": (lambda: capture(tiny.latent_consistency(), guidance_scale=8.0), Consistency()),
}


@pytest.fixture(params=CASES)
def case(request):
    make, sampler = CASES[request.param]
    policy = make()
    return policy, sampler, collect(policy, condition(policy, ITEMS), sampler, 4)


def all_steps(rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    trained, count = rollout.steps.on.nonzero().flatten(), len(rollout)
    return torch.arange(count).repeat(len(trained)), trained.repeat_interleave(count)


def test_a_trajectory_holds_what_learning_needs(case):
    policy, _, rollout = case
    steps, shape = rollout.steps, tuple(rollout.x0.shape[1:])
    assert steps.x.shape == (6, 5, *shape) and steps.x.dtype == torch.float32
    assert steps.logp.shape == (6, 4) and steps.logp.dtype == torch.float32
    assert len(steps.levels) == 5 and steps.on.shape == (4,)
    assert torch.equal(steps.x[:, -1], rollout.x0)
    assert torch.equal(steps.x[:, 0], policy.noise(Draw(range(6), CPU), steps.levels[0], rollout.cond.encoded))
    assert not steps.x.requires_grad and not steps.logp.requires_grad
    assert rollout.x0.isfinite().all()


def test_replayed_log_probabilities_equal_the_stored_ones_bit_for_bit(case):
    policy, sampler, rollout = case
    for index in range(4):
        again = replay(policy, sampler, rollout, torch.arange(6), torch.full((6,), index))
        assert torch.equal(again, rollout.steps.logp[:, index]), f"step {index}"
        assert (again - rollout.steps.logp[:, index]).exp().eq(1).all()


def test_replays_of_any_other_batch_agree_closely(case):
    policy, sampler, rollout = case
    sample, index = all_steps(rollout)
    shuffled = torch.randperm(len(sample))
    for size in (1, 4, len(sample)):
        for s, i in zip(sample[shuffled].split(size), index[shuffled].split(size)):
            with torch.no_grad():
                again = replay(policy, sampler, rollout, s, i)
            torch.testing.assert_close(again, rollout.steps.logp[s, i], rtol=1e-5, atol=1e-5)


def test_a_replay_under_changed_weights_differs(case):
    policy, sampler, rollout = case
    with torch.no_grad():
        for parameter in policy.trainable().parameters():
            parameter.mul_(1.01)
        again = replay(policy, sampler, rollout, torch.arange(6), torch.zeros(6, dtype=torch.long))
    assert not torch.allclose(again, rollout.steps.logp[:, 0], rtol=0, atol=1e-6)


def test_samples_do_not_depend_on_the_batch_they_are_made_in(case):
    policy, sampler, rollout = case
    cond = condition(policy, ITEMS)
    parts = [collect(policy, cond.slice(begin, begin + 2), sampler, 4) for begin in (0, 2, 4)]
    scale = rollout.x0.abs().max().item()
    torch.testing.assert_close(Rollout.cat(parts).x0, rollout.x0, rtol=1e-4, atol=1e-5 * scale)


def test_samples_of_equal_prompts_differ_by_seed_and_equal_seeds_repeat(case):
    policy, sampler, rollout = case
    assert not torch.allclose(rollout.x0[0], rollout.x0[3])
    again = collect(policy, condition(policy, ITEMS), sampler, 4)
    assert torch.equal(again.x0, rollout.x0) and torch.equal(again.steps.logp, rollout.steps.logp)


def test_gradients_reach_the_weights_and_only_those_that_learn():
    policy = capture(tiny.stable_diffusion(), guidance_scale=5.0)
    trainable = Trainable(policy.trainable(), Lora(rank=2, targets=("to_q", "to_v")))
    rollout = collect(policy, condition(policy, ITEMS[:2]), DDIM(1.0), 4)
    replay(policy, DDIM(1.0), rollout, torch.arange(2), torch.zeros(2, dtype=torch.long)).sum().backward()
    ups = [p.grad for name, p in trainable.parameters.items() if "lora_B" in name]
    assert ups and all(grad is not None and grad.abs().max() > 0 for grad in ups)
    others = [p for name, p in policy.trainable().named_parameters() if name not in trainable.parameters]
    assert others and all(p.grad is None for p in others)


@pytest.mark.parametrize(
    ("sampler", "to_one", "expected"),
    [
        (Consistency(), False, [True, True, True, False]),
        (DDIM(1.0), True, [True, True, True, False]),
        (DDIM(1.0), False, [True, True, True, True]),
        (DDIM(0.0), False, [False] * 4),
    ],
)
def test_only_steps_whose_noise_reaches_the_sample_are_on(sampler, to_one, expected):
    policy = capture(tiny.stable_diffusion(set_alpha_to_one=to_one), guidance_scale=2.0)
    rollout = collect(policy, condition(policy, ITEMS[:1]), sampler, 4)
    assert rollout.steps.on.tolist() == expected
    assert (rollout.steps.logp[0] != 0).tolist() == expected


def noises(shape, count: int, seeds) -> list[torch.Tensor]:
    draw = Draw(seeds, CPU)
    return [draw(shape) for _ in range(count + 1)]


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction"])
def test_ddim_through_a_captured_pipeline_gives_the_latents_of_the_pipeline_itself(monkeypatch, eta, parametrization):
    pipe = tiny.stable_diffusion(prediction_type=parametrization)
    policy = capture(pipe, guidance_scale=4.0)
    rollout = collect(policy, condition(policy, ITEMS[:3]), DDIM(eta), 6)
    start, *later = noises(policy.shape, 6, range(3))
    monkeypatch.setattr(scheduling_ddim, "randn_tensor", lambda *args, **kwargs: later.pop(0))
    prompts = [item["prompt"] for item in ITEMS[:3]]
    latents = pipe(prompt=prompts, num_inference_steps=6, guidance_scale=4.0, eta=eta, latents=start, output_type="latent").images
    assert eta == 0 or not later, "the stock pipeline drew its noise elsewhere"
    assert ((rollout.x0 - latents).norm() / latents.norm()).item() < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_consistency_sampling_through_a_captured_pipeline_gives_the_latents_of_the_pipeline_itself(monkeypatch, steps):
    pipe = tiny.latent_consistency()
    policy = capture(pipe, guidance_scale=8.0)
    rollout = collect(policy, condition(policy, ITEMS[:3]), Consistency(), steps)
    start, *later = noises(policy.shape, steps, range(3))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *args, **kwargs: later.pop(0))
    prompts = [item["prompt"] for item in ITEMS[:3]]
    latents = pipe(prompt=prompts, num_inference_steps=steps, guidance_scale=8.0, latents=start, output_type="latent").images
    assert len(later) == 1, "every step but the last one draws"
    assert ((rollout.x0 - latents).norm() / latents.norm()).item() < 1e-4


def test_conditions_cut_and_join_to_themselves():
    policy = ToyPolicy()
    whole = condition(policy, ITEMS, seed=5, group=2)
    joined = Condition.cat([whole.slice(0, 1), whole.slice(1, 4), whole.slice(4, 6)])
    assert joined.items == whole.items
    assert torch.equal(joined.seed, torch.arange(5, 11)) and joined.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(joined.encoded["none"], whole.encoded["none"])


def test_rollouts_join_with_their_media(case):
    policy, sampler, _ = case
    cond = condition(policy, ITEMS)
    parts = []
    for begin in (0, 3):
        parts.append(collect(policy, cond.slice(begin, begin + 3), sampler, 4))
        parts[-1].media = policy.decode(parts[-1].x0)
    whole = Rollout.cat(parts)
    assert len(whole) == 6 and whole.steps.x.shape[0] == 6 and whole.steps.logp.shape == (6, 4)
    (kind,) = policy.emits
    assert torch.equal(whole.media[kind], torch.cat([part.media[kind] for part in parts]))
    assert whole.drop_media().media == {} and whole.media
