"""Every optimizer on every kind of policy, diffusion, flow and consistency; in the toy world and on tiny pipelines."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.matrix.optimizers import OPTIMIZERS, judged, refused, rolled_out
from tropism.diffusion.flow_samplers import Cps, DanceSde, FlowSde, Ode
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.optimizers.base import plan
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.pipeline import capture
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy

PATHS = {  # parametrization, sampler of methods that need noise, sampler of those that need none
    "epsilon": ("epsilon", DDIM(1.0), Ode()),
    "v": ("v_prediction", Cps(), DDIM(1.0)),
    "sample": ("sample", DDIM(1.0), Ode(2)),
    "flow": ("flow", FlowSde(), Ode()),
    "flow by dance": ("flow", DanceSde(1.0), Ode(2)),
    "consistency": ("epsilon", Consistency(), Consistency()),
}
SAMPLES, STEPS = 256, 5


def points(made):
    return Near()(made.media["points"])


def cell(optimizer_name, path):
    """(optimizer, policy, sampler); skips where the mathematics has no such cell."""
    optimizer, (parametrization, noisy, quiet) = OPTIMIZERS[optimizer_name](), PATHS[path]
    if path == "consistency" and refused(optimizer):
        pytest.skip("refused by check: a denoising loss makes a consistency model an ordinary one")
    return optimizer, ToyPolicy(parametrization=parametrization), noisy if "steps" in optimizer.needs else quiet


def iterate(optimizer, policy, trainable, sampler, iterations, torch_optimizer):
    """What a run does, on 256 new samples each time. Returns the mean reward of each iteration and the numbers of the first one."""
    means, first = [], {}
    for iteration in range(iterations):
        cond = condition(policy, [{"prompt": "p"}] * SAMPLES, seed=iteration * SAMPLES, group=4)
        cond.group += iteration * SAMPLES
        rollout = rolled_out(optimizer, policy, cond, sampler, STEPS)
        rollout.reward = Near()(rollout.x0)
        judged(optimizer, rollout)
        means.append(rollout.reward.mean().item())
        for group in plan(optimizer, rollout, sampler, 2, SAMPLES, iteration, points):
            for batch in group:
                loss, numbers = optimizer.loss(policy, batch)
                (loss * batch.share).backward()
                first = first or numbers
            norm = torch.nn.utils.clip_grad_norm_(trainable.parameters.values(), 1.0)
            assert norm.isfinite() and norm > 0
            torch_optimizer.step()
            torch_optimizer.zero_grad(set_to_none=True)
            optimizer.updated()
        optimizer.finished()
    return means, first


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_reward_rises_in_the_toy_world(name, path):
    optimizer, policy, sampler = cell(name, path)
    trainable = Trainable(policy.trainable(), None)
    optimizer.attach(trainable)
    torch_optimizer = torch.optim.AdamW(trainable.parameters.values(), lr=3e-3, weight_decay=0.0)
    means, first = iterate(optimizer, policy, trainable, sampler, 12, torch_optimizer)
    if "steps" in optimizer.needs:
        assert first["ratio_error"] < 1e-5
    assert sum(means[-3:]) / 3 > means[0] + 0.25, means


PIPELINES = {
    "stable diffusion": (lambda: capture(tiny.stable_diffusion(), guidance_scale=3.0), DDIM(1.0), Ode()),
    "stable diffusion, v": (
        lambda: capture(tiny.stable_diffusion(prediction_type="v_prediction"), guidance_scale=3.0),
        FlowSde(),
        DDIM(0.5),
    ),
    "latent consistency": (lambda: capture(tiny.latent_consistency(), guidance_scale=8.0), Consistency(), Consistency()),
}


@pytest.fixture(scope="module")
def captured():
    """Each pipeline as a policy with its adapter."""
    policies = {name: make() for name, (make, _, _) in PIPELINES.items()}
    return {name: (policy, Trainable(policy.trainable(), Lora(2, 4.0, ("to_q", "to_v")))) for name, policy in policies.items()}


def brightness(made):
    return made.media["image"].flatten(1).mean(1)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_update_of_a_pipeline_has_a_finite_gradient_in_its_adapter_alone(captured, name, pipeline):
    optimizer, (policy, trainable) = OPTIMIZERS[name](), captured[pipeline]
    if pipeline == "latent consistency" and refused(optimizer):
        pytest.skip("refused by check: a denoising loss makes a consistency model an ordinary one")
    sampler, network = PIPELINES[pipeline][1 if "steps" in optimizer.needs else 2], policy.trainable()
    optimizer.attach(trainable)
    cond = condition(policy, [{"prompt": text} for text in ("a dog", "a dog", "sky", "sky")], group=2)
    rollout = rolled_out(optimizer, policy, cond, sampler, 4)
    rollout.reward = brightness(
        type(rollout)(cond=rollout.cond, x0=rollout.x0, steps=rollout.steps, media=policy.decode(rollout.x0))
    ).detach()
    judged(optimizer, rollout)
    (group,) = plan(optimizer, rollout, sampler, 1, 4, 0, brightness)
    for batch in group:
        loss, numbers = optimizer.loss(policy, batch)
        assert loss.isfinite()
        if "ratio_error" in numbers and "steps" in optimizer.needs:
            assert numbers["ratio_error"] < (1e-3 if "pairs" in optimizer.needs else 1e-30), "the batch is the rollout's own, or its pairs"
        (loss * batch.share).backward()
    ups = [p.grad for key, p in trainable.parameters.items() if "lora_B" in key]
    assert ups and all(gradient is not None and gradient.isfinite().all() for gradient in ups)
    assert any(gradient.abs().max() > 0 for gradient in ups)
    assert all(p.grad is None for key, p in network.named_parameters() if key not in trainable.parameters)
    network.zero_grad(set_to_none=True)
