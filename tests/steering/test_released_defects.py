"""Defects of the released Feynman-Kac code, each computed again here, and what this engine does in their place.

They are numbered as in the study that found them (D1 to D10; D8 and D9 are about one text script and have no counterpart).
"""

from __future__ import annotations

import pytest
import torch

from tests.steering.problems import ALWAYS, HALF, LINEAR, how, long_text, mixture, mode_error
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import DDIM
from tropism.errors import SteeringError
from tropism.rewards.combine import Combined, Part
from tropism.steering import smc
from tropism.steering.base import steer
from tropism.steering.best_of_n import BestOfN
from tropism.steering.fk import Fk
from tropism.steering.lineage import Lineage
from tropism.steering.potentials import maximum
from tropism.steering.resampling import RESAMPLERS, multinomial, systematic
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy
from tropism.toy_chains import MaskedChain, task


class Forgetful(Lineage):
    """D1: where nothing is resampled, weights are forgotten while the rewards that they came from move on."""

    def arrived(self, index, rewards, threshold):
        ancestors = super().arrived(index, rewards, threshold)
        self.logw = torch.zeros_like(self.logw)
        return ancestors


def test_d1_weights_are_not_forgotten_where_nothing_is_resampled(monkeypatch):
    given = how(1.0, schedule=HALF)
    assert mode_error(smc.run(task(mixture(), LINEAR, 4, 512, seed=1), given), LINEAR) < 0.08
    monkeypatch.setattr(smc, "Lineage", Forgetful)
    released = smc.run(task(mixture(), LINEAR, 4, 512, seed=1), given)
    assert mode_error(released, LINEAR) > 0.5
    assert not any(point.resampled.any() for point in released.points)


class EndsWithTheMaximum(Lineage):
    """D2: the last weight takes the running maximum, with its floor, where the reward of the sample belongs."""

    def closed(self, index, rewards):
        own = rewards.reshape(self.logw.shape)
        highest = own if self.statistic is None else torch.maximum(self.statistic, own)
        super().closed(index, highest.clamp(min=0).flatten())
        return own


def test_d2_the_last_potential_is_the_reward_of_the_sample_itself(monkeypatch):
    given, exact = how(1.0, potential=maximum, schedule=ALWAYS), mixture(20).target(LINEAR, 1.0)
    mean = (exact[1] @ (exact[2] @ LINEAR.a)).item()
    ours = smc.run(task(mixture(20), LINEAR, 10, 512, seed=2), given)
    assert abs(ours.mean_reward.mean().item() - mean) < 0.05
    monkeypatch.setattr(smc, "Lineage", EndsWithTheMaximum)
    released = smc.run(task(mixture(20), LINEAR, 10, 512, seed=2), given)
    assert abs(released.mean_reward.mean().item() - mean) > 0.1


def floored(before: torch.Tensor | None, reward: torch.Tensor) -> torch.Tensor:
    """D3: the running maximum begins at 0, so that rewards below it select nothing."""
    return torch.maximum(torch.zeros_like(reward) if before is None else before, reward)


def test_d3_rewards_below_zero_select_as_rewards_above_do(monkeypatch):
    def below(x: torch.Tensor) -> torch.Tensor:
        return LINEAR(x) - 20

    base = mixture(20)
    mean = (base.logs.exp() @ (base.means @ LINEAR.a)).item() - 20
    ours = smc.run(task(base, below, 10, 256, seed=3), how(1.0, potential=maximum, schedule=ALWAYS))
    assert ours.mean_reward.mean() > mean + 2
    monkeypatch.setattr(smc, "Lineage", EndsWithTheMaximum)
    released = smc.run(task(base, below, 10, 256, seed=3), how(1.0, potential=floored, schedule=ALWAYS))
    assert abs(released.mean_reward.mean().item() - mean) < 0.15, "the output of the released code is that of the base model"
    assert (released.roots == 256).all()


class Stale(MaskedChain):
    """D4: what is scored at a state is the prediction made one step before it."""

    def look(self, state, index):
        seen = super().look(state, index)
        return {"before": seen["x0"], **seen}

    def move(self, state, index, noise, pull=None):
        moved, ratio = super().move(state, index, noise, pull)
        return {**moved, "before": state["x0"]}, ratio


def test_d4_what_is_scored_is_predicted_from_the_state_itself():
    chain = Stale(5, 10)
    runs, particles = 160, 256

    def before(job, state, index, lam):
        return job.rewards(state["before"], state["row"], index)

    fresh = smc.run(task(long_text(), long_text().reward, runs, particles, seed=4), how(10.0))
    stale = smc.run(task(chain, chain.reward, runs, particles, seed=4), how(10.0, intermediate=before))
    assert fresh.forwards == stale.forwards == runs * particles * 10
    assert stale.log_z.var() > 1.4 * fresh.log_z.var()


def test_d5_weights_of_any_size_are_told_apart():
    """exp(lambda r) is beyond float32 for lambda r above 88, and clamped at 1e10 above 23: larger ones are all alike."""

    def steep(x: torch.Tensor) -> torch.Tensor:
        return 200 + 20 * LINEAR(x)

    linear = torch.exp(steep(torch.randn(64, 2, dtype=torch.float64)).float()).clamp(0, 1e10)
    assert (linear == 1e10).all()
    found = smc.run(task(mixture(20), steep, 5, 64, seed=5), how(1.0))
    assert found.log_z.isfinite().all() and (found.points[10].ess < 60).all()
    plain = smc.run(task(mixture(20), LINEAR, 5, 64, seed=5), how(20.0))
    torch.testing.assert_close(found.log_z, plain.log_z + 200, rtol=0, atol=1e-8)


def test_d6_equal_weights_lose_no_particle():
    """Four passes of multinomial resampling at equal weights leave 1.6 first noises of four; here they leave four."""
    even, runs = torch.full((20_000, 4), 0.25, dtype=torch.float64), 20_000
    generator = torch.Generator().manual_seed(6)

    def left(name: str) -> float:
        root = torch.arange(4).expand(runs, 4)
        for _ in range(4):
            root = root.gather(1, RESAMPLERS[name](even, torch.rand(runs, 4, generator=generator, dtype=torch.float64)))
        return (1 + (root.sort(1).values.diff(dim=1) != 0).sum(1)).double().mean().item()

    assert left("multinomial") == pytest.approx(1.58, abs=0.03)
    assert all(left(name) == 4 for name in RESAMPLERS if name != "multinomial")
    for resampler in (multinomial, systematic):
        found = smc.run(task(mixture(10), lambda x: 0 * x[:, 0], 50, 4), how(10.0, schedule=ALWAYS, resampler=resampler))
        assert (found.roots == 4).all()


class Statistic(Lineage):
    """D7: every point multiplies by exp(lambda s) itself, and the last one divides all of it out."""

    def _gain(self, index, rewards, last):
        self.level = self.level * 0 if not last else self.spent
        gain, scored = super()._gain(index, rewards, last)
        self.spent = getattr(self, "spent", torch.zeros_like(gain)) + gain
        return gain, scored

    def arrived(self, index, rewards, threshold):
        ancestors = super().arrived(index, rewards, threshold)
        if ancestors is not None:
            self.spent = self.spent.gather(1, ancestors)
        return ancestors


def test_d7_potentials_are_increments(monkeypatch):
    """The same product and target, a fraction of the variance."""
    given = how(0.5, potential=maximum, schedule=HALF)
    ours = smc.run(task(mixture(12), LINEAR, 100, 128, seed=7), given)
    monkeypatch.setattr(smc, "Lineage", Statistic)
    released = smc.run(task(mixture(12), LINEAR, 100, 128, seed=7), given)
    kept = torch.zeros_like(released.logw)
    for point in released.points:
        kept = (kept + point.gain).gather(1, point.ancestors)
    torch.testing.assert_close(kept, 0.5 * released.reward)
    assert released.log_z.std() > 3 * ours.log_z.std()


def test_d10_copies_under_a_deterministic_sampler_are_refused():
    """They stay identical: what is paid for four gives one. Best of N takes the same sampler."""
    policy = ToyPolicy()
    cond = condition(policy, [{"prompt": "p"}] * 8, group=4)
    rewards = Combined([Part("near", Near())])
    for sampler in (Ode(), DDIM(0.0)):
        with pytest.raises(SteeringError, match="copies stay identical and only cost forwards; take a sampler with noise"):
            steer(policy, cond, sampler, 10, rewards, Fk(4))
        found = steer(policy, cond, sampler, 10, rewards, BestOfN(4))
        assert torch.equal(found.x0, collect(policy, cond, sampler, 10).x0)
    # What the released code does there: after the first resampling the copies are one sample.
    chosen = torch.tensor([0, 0, 0, 0, 5, 5, 5, 5])
    copied = cond.take(chosen)
    assert len(collect(policy, copied, DDIM(0.0), 10).x0.unique(dim=0)) == 2


def test_the_defects_are_of_the_released_way_alone():
    """The engine itself, with the released settings but none of the defects, has the exact target."""
    given = how(1.0, potential=maximum, schedule=ALWAYS, resampler=multinomial)
    exact = mixture(20).target(LINEAR, 1.0)
    found = smc.run(task(mixture(20), LINEAR, 10, 512, seed=8), given)
    assert abs(found.mean_reward.mean().item() - (exact[1] @ (exact[2] @ LINEAR.a)).item()) < 0.05
