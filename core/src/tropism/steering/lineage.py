"""Weights and genealogy of particles, point by point: all that sequential Monte Carlo keeps besides the states."""

from __future__ import annotations

import torch

from tropism.errors import SteeringError
from tropism.steering.potentials import Statistic
from tropism.steering.resampling import Resampler
from tropism.steering.steered import Point
from tropism.steering.strength import Strength
from tropism.steering.task import Task
from tropism.steering.weights import effective, log_mean, normalised, particles_of


class Lineage:
    """Float64 on the CPU, [P, K]. Weights are carried over points at which nothing is resampled: to forget them there, as released code
    does, is to forget the reward."""

    def __init__(self, task: Task, potential: Statistic, strength: Strength, resampler: Resampler) -> None:
        shape = task.prompts, task.particles
        self.task, self.potential, self.strength, self.resampler = task, potential, strength, resampler
        self.logw = torch.zeros(shape, dtype=torch.float64)
        self.level = torch.zeros_like(self.logw)  # the part of lambda r(x0) that the weights have already
        self.statistic: torch.Tensor | None = None
        self.log_z = torch.zeros(task.prompts, dtype=torch.float64)
        self.lam = torch.full_like(self.log_z, torch.inf if strength.number is None else strength.number)
        self.still = torch.arange(task.particles).expand(shape)
        self.root = self.still
        self.points: list[Point] = []
        self.unscored = 0
        self.pending: torch.Tensor | None = None

    def corrected(self, ratio: torch.Tensor) -> None:
        """Add log p / tau [P K] of a proposal."""
        self.pending = ratio if self.pending is None else self.pending + ratio  # on their device: nothing waits for it before a point

    def arrived(self, index: int, rewards: torch.Tensor, threshold: float) -> torch.Tensor | None:
        """Weigh the particles by rewards [P K] on the way, and resample prompts whose effective size is below the part ``threshold``.

        Returns the ancestors [P, K], or None where everyone stays.
        """
        gain, rewards = self._gain(index, rewards, last=False)
        self._weigh(index, gain, rewards)
        size, count = effective(self.logw), self.task.particles
        chance = self.task.chance.uniform((count,)).double().cpu()  # for every prompt, so that none depends on what the others need
        needed = size < particles_of(threshold, torch.tensor(count, dtype=torch.float64)) * (1 - 1e-9)  # never at equal weights
        ancestors = self.still
        if needed.any():
            ancestors = torch.where(needed[:, None], self.resampler(normalised(self.logw), chance), self.still)
            self.log_z += torch.where(needed, log_mean(self.logw), 0.0)
            self.logw = torch.where(needed[:, None], 0.0, self.logw)
            self.level, self.root = self.level.gather(1, ancestors), self.root.gather(1, ancestors)
            self.statistic = None if self.statistic is None else self.statistic.gather(1, ancestors)
        self.points.append(Point(index, rewards, gain, size, self.counting(index), ancestors, needed))
        return ancestors if needed.any() else None

    def closed(self, index: int, rewards: torch.Tensor) -> torch.Tensor:
        """Weigh the finished samples, so that the product of potentials is exp(lambda r(x0)). Returns their rewards [P, K]."""
        gain, rewards = self._gain(index, rewards, last=True)
        self._weigh(index, gain, rewards)
        nobody = torch.zeros(len(self.lam), dtype=torch.bool)
        self.points.append(Point(index, rewards, gain, effective(self.logw), self.counting(index), self.still, nobody))
        self.log_z = self.log_z + log_mean(self.logw)
        return rewards

    def _gain(self, index: int, rewards: torch.Tensor, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What a point adds to the log-weights [P, K], minus infinity where there is no reward; and the rewards, NaN there."""
        rewards = rewards.reshape(self.logw.shape)
        absent = rewards.isnan() | (rewards == torch.inf)
        rewards = torch.where(absent, torch.nan, rewards)
        self.unscored += int(absent.sum())
        self.lam = self.strength.full(rewards, self.lam)
        scored = torch.where(absent, 0.0, rewards)
        self.statistic = scored if last else self.potential(self.statistic, scored)
        counting = self.counting(index)[:, None]
        level = torch.where(counting > 0, counting * self.statistic, 0.0)
        gain = torch.where(absent, -torch.inf, level - self.level)
        self.level = torch.where(level.isfinite(), level, 0.0)  # who falls to minus infinity has no weight any more, whatever comes
        return gain, rewards

    def counting(self, index: int) -> torch.Tensor:
        """Lambda [P] as it counts at a point; 0 as long as it is not known."""
        known = torch.where(self.lam.isfinite(), self.lam, 0.0)
        return known * self.strength.part(index, self.task.process.steps)

    def _weigh(self, index: int, gain: torch.Tensor, rewards: torch.Tensor) -> None:
        if self.pending is not None:
            gain, self.pending = gain + self.pending.double().cpu().reshape(gain.shape), None
        self.logw = torch.where(self.logw == -torch.inf, -torch.inf, self.logw + gain)
        if (gone := (self.logw == -torch.inf).all(1)).any():
            prompt = int(gone.nonzero()[0])
            count, absent = rewards.shape[1], int(rewards[prompt].isnan().sum())
            where = "of the finished samples" if index == self.task.process.steps else f"before step {index}"
            raise SteeringError(
                f"{self.task.name(prompt)}: none of its {count} particles has any weight {where}: the reward was no number for {absent} of "
                f"them and {rewards[prompt].tolist()[:4]} in all; look at the reward of such samples"
            )
