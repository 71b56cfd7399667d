"""The samplers of flow against their papers' formulas in float64, and against what they must keep: the marginals of the path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from tropism.diffusion.flow_samplers import Cps, DanceSde, FlowSde, Ode
from tropism.diffusion.samplers import DDIM, step
from tropism.diffusion.schedules import Diffusion, Flow, Schedule, like
from tropism.types import Level

SHAPE = (3, 4, 5, 5)
VP = Diffusion(bar=torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0))
SAMPLERS = {"ode": Ode(), "heun": Ode(2), "flow-sde": FlowSde(0.7), "dance-sde": DanceSde(0.3), "cps": Cps(0.7), "ddim": DDIM(1.0)}
STOCHASTIC = {name: SAMPLERS[name] for name in ("flow-sde", "dance-sde", "cps", "ddim")}


@dataclass
class Fixed:
    """A policy whose network always says the same."""

    schedule: Schedule
    output: torch.Tensor

    def predict(self, x, level, cond):
        return self.output


def schedule(parametrization: str) -> Schedule:
    return Flow(shift=3.0) if parametrization == "flow" else Diffusion(bar=VP.bar, parametrization=parametrization)


def said(parametrization: str, x0: torch.Tensor, noise: torch.Tensor, level: Level) -> torch.Tensor:
    """What a network of this parametrization says where it means x0 and noise."""
    alpha, sigma = like(level.alpha, x0), like(level.sigma, x0)
    return {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0, "flow": noise - x0}[parametrization]


def by_paper(name: str, x: torch.Tensor, v: torch.Tensor, s: float, s_next: float) -> tuple[torch.Tensor, float]:
    """(mean, deviation) of a step on a flow, float64, as the papers and their released code write it; s below 1."""
    dt = s_next - s
    if name == "flow-sde":  # flow_grpo, sde_step_with_logprob
        std = math.sqrt(s / (1 - s)) * 0.7
        return x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt, std * math.sqrt(-dt)
    if name == "dance-sde":  # DanceGRPO, flux_step
        score = -(x - (1 - s) * (x - s * v)) / s**2
        return x + dt * v - 0.5 * 0.3**2 * score * dt, 0.3 * math.sqrt(-dt)
    std = s_next * math.sin(0.7 * math.pi / 2)
    return (x - s * v) * (1 - s_next) + (x + (1 - s) * v) * math.sqrt(s_next**2 - std**2), std


@pytest.mark.parametrize("name", ["flow-sde", "dance-sde", "cps"])
@pytest.mark.parametrize("index", [1, 4, 8])
def test_a_step_of_a_flow_is_that_of_its_paper(name, index):
    policy = Fixed(Flow(shift=3.0), torch.randn(SHAPE))
    levels, x = policy.schedule.levels(10), torch.randn(SHAPE)
    now, then = levels[index].expand(3), levels[index + 1].expand(3)
    mean, std = by_paper(name, x.double(), policy.output.double(), levels.sigma[index].item(), levels.sigma[index + 1].item())
    torch.testing.assert_close(SAMPLERS[name].mean(policy, x, now, then, {}).double(), mean, rtol=1e-5, atol=1e-5)
    assert SAMPLERS[name].deviation(now, then).tolist() == pytest.approx([std] * 3, rel=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("index", [0, 5, 9])
def test_a_step_of_any_path_is_that_of_its_flow(name, parametrization, index):
    """The step in flow coordinates, in float64, against the sampler's in the policy's own; the first step of a flow has alpha 0."""
    plan, sampler = schedule(parametrization), SAMPLERS[name]
    if name == "heun" and index < 9:
        pytest.skip("asks the network twice; see its own test")
    levels = sampler.levels(plan, 10)
    now, then = levels[index].expand(3), levels[index + 1].expand(3)
    x0, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    x = like(now.alpha, x0) * x0 + like(now.sigma, x0) * noise
    found = sampler.mean(Fixed(plan, said(parametrization, x0, noise, now)), x, now, then, {})
    (a, sigma), (b, sigma_next) = ((level.alpha[0].double().item(), level.sigma[0].double().item()) for level in (now, then))
    scale, s, s_next = b + sigma_next, sigma / (a + sigma), sigma_next / (b + sigma_next)
    noisy = sigma_next > 0
    if name == "ddim":
        std = sigma_next / sigma * math.sqrt(1 - (a / b) ** 2)
        expected, std = b * x0.double() + math.sqrt(max(sigma_next**2 - std**2, 0)) * noise.double(), std
    elif not noisy or name == "ode":
        expected, std = b * x0.double() + sigma_next * noise.double(), 0.0
    else:
        flow_x = (1 - s) * x0.double() + s * noise.double()
        first = FlowSde(0.7).noise * math.sqrt(1 / (1 - s_next)) if s == 1 else 0.0
        if name == "flow-sde" and first:  # Flow-GRPO takes the second sigma in the root's denominator
            dt = s_next - 1
            expected, std = flow_x + dt * (noise - x0).double() + first**2 / 2 * dt * noise.double(), first * math.sqrt(-dt)
        else:
            expected, std = by_paper(name, flow_x, (noise - x0).double(), s, s_next)
        expected, std = expected * scale, std * scale
    # Far out, where alpha is small, float32 tells x0 only roughly from x and a predicted noise.
    loose = 3e-3 if index == 0 and parametrization != "flow" else 2e-4
    torch.testing.assert_close(found.double(), expected, rtol=loose, atol=loose)
    assert sampler.deviation(now, then)[0].item() == pytest.approx(std, rel=1e-4, abs=1e-7)
    assert found.dtype == torch.float32 and found.isfinite().all()


def gaussian_policy(plan: Schedule, mean: float, width: float):
    """x0 is N(mean, width^2) in every dimension; the network is exact."""

    class Exact:
        schedule = plan

        def predict(self, x, level, cond):
            alpha, sigma = like(level.alpha, x), like(level.sigma, x)
            noise = sigma * (x - alpha * mean) / ((alpha * width) ** 2 + sigma**2)
            x0 = mean + alpha * width**2 * (x - alpha * mean) / ((alpha * width) ** 2 + sigma**2)
            return said(plan.parametrization, x0, noise, level)

    return Exact()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_every_level_has_the_mean_and_the_deviation_of_the_path(name, parametrization):
    """With many small steps, an exact network and any sampler, x at a level is N(alpha m, alpha^2 w^2 + sigma^2)."""
    mean, width, steps = 1.5, 0.5, 200
    # CPS renews a share of the noise at every step, however small the step: it keeps the marginals only as far as that share is small.
    policy, sampler = gaussian_policy(schedule(parametrization), mean, width), Cps(0.2) if name == "cps" else SAMPLERS[name]
    levels, generator = sampler.levels(policy.schedule, steps), torch.Generator().manual_seed(1)
    start = levels[0]
    x = start.alpha * mean + ((start.alpha * width) ** 2 + start.sigma**2).sqrt() * torch.randn(20_000, 1, generator=generator)
    with torch.no_grad():
        for index in range(steps):
            now, then = levels[index].expand(len(x)), levels[index + 1].expand(len(x))
            x, _ = step(sampler, policy, x, now, then, {}, noise=torch.randn(x.shape, generator=generator))
            if (index + 1) % 40 == 0:
                expected = (levels.alpha[index + 1] * width) ** 2 + levels.sigma[index + 1] ** 2
                assert x.mean().item() == pytest.approx((levels.alpha[index + 1] * mean).item(), abs=0.03), index
                assert x.std().item() == pytest.approx(expected.sqrt().item(), rel=0.05), index


def test_heun_converges_an_order_faster_than_euler_and_euler_is_ddim():
    policy = gaussian_policy(Flow(), 1.0, 0.3)
    start = torch.linspace(-2, 2, 9)[:, None]
    exact = 1.0 + 0.3 * start  # the ODE carries quantiles to quantiles

    def end(sampler, steps):
        levels, x = sampler.levels(policy.schedule, steps), start
        for index in range(steps):
            x, _ = step(sampler, policy, x, levels[index].expand(9), levels[index + 1].expand(9), {})
        return x

    euler = [(end(Ode(), steps) - exact).abs().max().item() for steps in (10, 20, 40)]
    heun = [(end(Ode(2), steps) - exact).abs().max().item() for steps in (10, 20, 40)]
    assert all(1.5 < coarse / fine < 2.6 for coarse, fine in zip(euler, euler[1:]))
    assert all(coarse / fine > 3 for coarse, fine in zip(heun, heun[1:])) and heun[-1] < euler[-1] / 10
    torch.testing.assert_close(end(Ode(), 10), end(DDIM(0.0), 10), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample", "flow"])
def test_heun_mixes_rows_that_end_clean_with_rows_that_do_not(parametrization):
    policy = gaussian_policy(schedule(parametrization), 1.0, 0.3)
    levels, x = Ode(2).levels(policy.schedule, 4), torch.randn(2, 3, requires_grad=True)
    pick = torch.tensor([1, 3])
    mixed = Ode(2).mean(policy, x, levels[pick], levels[pick + 1], {})
    for row, index in enumerate(pick.tolist()):
        alone = Ode(2).mean(policy, x[row : row + 1], levels[index].expand(1), levels[index + 1].expand(1), {})
        torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    mixed.sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).all()


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_steps_have_noise_except_the_one_to_the_clean_sample(name, parametrization):
    sampler = STOCHASTIC[name]
    levels = sampler.levels(schedule(parametrization), 8)
    deviation = sampler.deviation(levels[:-1], levels[1:])
    assert (deviation[:-1] > 0.01).all() and deviation.isfinite().all()
    assert (deviation[-1] > 0).item() == (levels.sigma[-1] > 0).item()


@pytest.mark.parametrize("name", ["flow-sde", "cps", "dance-sde"])
def test_no_noise_asked_for_is_the_ode(name):
    quiet = {"flow-sde": FlowSde(0.0), "cps": Cps(0.0), "dance-sde": DanceSde(0.0)}[name]
    policy, x = Fixed(Flow(), torch.randn(SHAPE)), torch.randn(SHAPE)
    levels = quiet.levels(policy.schedule, 5)
    assert (quiet.deviation(levels[:-1], levels[1:]) == 0).all()
    now, then = levels[2].expand(3), levels[3].expand(3)
    torch.testing.assert_close(quiet.mean(policy, x, now, then, {}), Ode().mean(policy, x, now, then, {}))


def test_a_step_and_its_log_probability_do_not_depend_on_the_units_of_the_path():
    """The same flow told in other units (all of x times 1.7): the log-probability moves by the logarithm of the unit alone."""
    x0, noise, z = (torch.randn(SHAPE) for _ in range(3))
    one = torch.ones(3)
    found = []
    for unit in (1.0, 1.7):
        now, then = Level(one, 0.4 * unit * one, 0.6 * unit * one), Level(one, 0.6 * unit * one, 0.4 * unit * one)
        policy = Fixed(Diffusion(bar=VP.bar, parametrization="flow"), noise - x0)
        x = unit * (0.4 * x0 + 0.6 * noise)
        found.append(step(FlowSde(), policy, x, now, then, {}, noise=z))
    torch.testing.assert_close(found[1][0], 1.7 * found[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1] - math.log(1.7), rtol=1e-5, atol=1e-5)


def test_arguments_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"order: 3; expected 1 \(Euler\) or 2 \(Heun\)"):
        Ode(3)
    with pytest.raises(ValueError, match=r"noise: 1.5; expected 0"):
        Cps(1.5)
