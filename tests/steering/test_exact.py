"""Exact problems: what steering estimates is what the formulas give, within the error that theory allows."""

from __future__ import annotations

import math

import pytest
import torch

from tests.steering.problems import ALWAYS, HALF, LINEAR, QUADRATIC, gaussian, how, long_text, mixture, mode_error, text, unbiased
from tropism.steering import smc
from tropism.steering.intermediate import Learned, Several
from tropism.steering.potentials import POTENTIALS
from tropism.steering.resampling import RESAMPLERS
from tropism.toy_chains import MaskedChain, MixtureChain, data_law, task


def test_the_problems_have_the_published_constants():
    """Computed once, elsewhere, by another program."""
    linear, quadratic = mixture().target(LINEAR, 1.0), mixture().target(QUADRATIC, 1.0)
    assert linear[0] == pytest.approx(1.2269870, abs=1e-6) and quadratic[0] == pytest.approx(-2.8946232, abs=1e-6)
    assert linear[1].tolist() == pytest.approx([0.006826, 0.279512, 0.025219, 0.688443], abs=1e-6)
    assert (quadratic[1] @ quadratic[2]).tolist() == pytest.approx([1.850035, 1.452999], abs=1e-6)
    chain, longer = text(), long_text()
    assert chain.twists(3.0)[0][-1].item() == pytest.approx(3.4237765, abs=1e-6)
    assert longer.twists(10.0)[0][-1].item() == pytest.approx(283.506492, abs=1e-5)
    base, reward = chain.base(), chain.reward(chain.states)
    whole = (chain.states < 3).all(1)
    assert (base[whole] - data_law(81)).abs().sum().item() / 2 == pytest.approx(0.0767, abs=1e-4)
    tilted = base * torch.exp(3 * reward)
    assert (base - tilted / tilted.sum()).abs().sum().item() / 2 == pytest.approx(0.263, abs=5e-4)
    base, reward = longer.base(), longer.reward(longer.states)
    assert (base * reward).sum().item() == pytest.approx(0.354795, abs=1e-6)
    tilted = base * torch.exp(10 * reward)
    assert ((tilted / tilted.sum()) * reward).sum().item() == pytest.approx(0.764169, abs=1e-6)


class Optimal(MixtureChain):
    """The chain of one Gaussian whose proposals follow the exact value function of a linear reward."""

    def __init__(self, chain: MixtureChain, a: torch.Tensor, lam: float) -> None:
        super().__init__(chain.logs.exp(), chain.means, chain.variance, chain.steps)
        self.a, self.lam = a, lam

    def move(self, state, index, noise, pull=None):
        alpha, sigma = self.level(index + 1)
        along = self.lam * alpha * self.variance / (alpha**2 * self.variance + sigma**2) * self.a
        return super().move(state, index, noise, along.expand_as(state["x"]))


class OptimalText(MaskedChain):
    """The masked chain under its twisted kernel, K h' / h."""

    lam: float

    def move(self, state, index, noise, pull=None):
        twists, now = self.twists(self.lam), self.number(state["x"])
        chances = self.kernels[index][now] * twists[index + 1]
        heights = chances.cumsum(1)
        after = (heights <= noise["what"][:, :1] * heights[:, -1:]).sum(1)
        return {"x": self.states[after], "row": state["row"]}, twists[index][now].log() - twists[index + 1][after].log()


@pytest.mark.parametrize("lam", [0.5, 2.0])
@pytest.mark.parametrize("particles", [1, 5, 64])
def test_the_optimal_proposal_has_no_variance(lam, particles):
    chain, tilt = gaussian()
    exact = lam * (chain.means[0] @ tilt.a) + lam**2 * 0.7 * tilt.a.square().sum() / 2
    found = smc.run(task(Optimal(chain, tilt.a, lam), tilt, 3, particles), how(lam, intermediate=Learned(chain.value(tilt, lam))))
    assert (found.log_z - exact).abs().max() < 1e-10
    assert all((point.ess - particles).abs().max() < 1e-6 and not point.resampled.any() for point in found.points)


@pytest.mark.parametrize("lam", [3.0])
def test_the_twisted_kernel_of_a_text_has_no_variance(lam):
    chain = OptimalText(4, 8)
    chain.lam = lam
    twists = chain.twists(lam)
    value = Learned(lambda state, index: twists[index][chain.number(state["x"])].log() / lam)
    found = smc.run(task(chain, chain.reward, 4, 16), how(lam, intermediate=value))
    assert (found.log_z - twists[0][-1].log()).abs().max() < 1e-10
    assert (found.points[-1].ess - 16).abs().max() < 1e-6


@pytest.mark.parametrize("schedule", [HALF, ALWAYS], ids=["half", "always"])
@pytest.mark.parametrize("resampler", sorted(RESAMPLERS))
@pytest.mark.parametrize("potential", sorted(POTENTIALS))
def test_z_is_unbiased_whatever_the_potential_and_the_resampler(potential, resampler, schedule):
    settings = {"potential": POTENTIALS[potential], "resampler": RESAMPLERS[resampler], "schedule": schedule}
    chain, lam = mixture(8), 1.0 if potential in ("difference", "max") else 0.25  # the sum of eight rewards has a long tail
    found = smc.run(task(chain, LINEAR, 400, 24, seed=1), how(lam, **settings))
    assert unbiased(found, chain.target(LINEAR, lam)[0])
    assert torch.stack([point.resampled for point in found.points]).any(), "nothing was resampled, so nothing was tested"
    words = text()
    assert unbiased(smc.run(task(words, words.reward, 400, 24, seed=2), how(3.0, **settings)), math.log(3.4237765))


@pytest.mark.parametrize("settings", [{"schedule": None}, {"intermediate": Several(4)}, {"guided": True}], ids=["is", "several", "guided"])
def test_z_is_unbiased_whatever_the_intermediate_reward(settings):
    chain = mixture(10)
    found = smc.run(task(chain, LINEAR, 600, 32, seed=3), how(1.0, **settings))
    assert unbiased(found, chain.target(LINEAR, 1.0)[0])
    assert found.log_z.std() < 0.7


def test_weights_are_carried_where_nothing_is_resampled():
    """A potential at each of 50 steps and resampling below half: mode weights within 0.04; forgotten weights give 0.59."""
    found = smc.run(task(mixture(), LINEAR, 6, 1024, seed=4), how(1.0))
    assert mode_error(found, LINEAR) < 0.04
    assert found.log_z.std() < 0.15


def test_errors_fall_with_the_root_of_the_particles():
    chain, words = mixture(10), text()
    counts, errors = (64, 256, 1024), []
    for particles in counts:
        runs = 96
        found = smc.run(task(chain, LINEAR, runs, particles, seed=5), how(1.0))
        errors.append((found.log_z - chain.target(LINEAR, 1.0)[0]).square().mean().sqrt().item())
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert -0.6 < slope < -0.4
    assert errors[-1] < 0.10
    tilted = words.base() * torch.exp(3 * words.reward(words.states))
    found = smc.run(task(words, words.reward, 12, 1024, seed=6), how(3.0))
    share = torch.zeros(12, len(words.states), dtype=torch.float64)
    share.scatter_add_(1, words.number(found.x0).reshape(12, 1024), found.weights)
    assert (share - tilted / tilted.sum()).abs().sum(1).mean() / 2 < 0.12


def test_proposals_along_a_gradient_have_the_same_target_with_less_variance():
    chain, tilt = gaussian()
    exact = 2.0 * (chain.means[0] @ tilt.a) + 4.0 * 0.7 * tilt.a.square().sum() / 2
    plain = smc.run(task(chain, tilt, 150, 64, seed=7), how(2.0))
    guided = smc.run(task(chain, tilt, 150, 64, seed=7), how(2.0, guided=True))
    assert unbiased(plain, exact) and unbiased(guided, exact)
    assert guided.log_z.std() < plain.log_z.std() / 3
    assert min(point.ess.min() for point in guided.points) > max(40, min(point.ess.min() for point in plain.points))


def test_proposals_without_their_density_ratio_would_be_seen():
    """The same test of the mean reward passes with the ratio and fails without it."""

    class Uncorrected(MixtureChain):
        def move(self, state, index, noise, pull=None):
            moved, ratio = super().move(state, index, noise, pull)
            return moved, torch.zeros_like(ratio)

    chain = mixture(20)
    logs = chain.target(LINEAR, 1.0)
    exact = (logs[1] @ (logs[2] @ LINEAR.a)).item()

    def error(process: MixtureChain) -> float:
        found = smc.run(task(process, LINEAR, 60, 256, seed=8), how(1.0, guided=True)).mean_reward
        return abs(found.mean().item() - exact) / (found.std().item() / 60**0.5)

    assert error(chain) < 4
    assert error(Uncorrected(chain.logs.exp(), chain.means, chain.variance, chain.steps)) > 12
