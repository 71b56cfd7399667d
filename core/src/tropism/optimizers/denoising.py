"""The kernel of learning from preferences: how well a policy denoises samples, against how well its reference does.

For a sample x0 noised to x = alpha x0 + sigma eps, the error of a policy is the mean square of its residual

    network   output - target      as the policy was trained: eps, v = alpha eps - sigma x0, x0, or eps - x0 (flow)
    noise     eps^ - eps
    velocity  (eps^ - x0^) - (eps - x0)
    sample    x0^ - x0

The four differ by a factor that depends on the level alone, so the choice is a weighting of the levels: for x = alpha x0 + sigma eps,
x0^ - x0 = -(sigma / alpha) (eps^ - eps). With D = error - error of the reference, all methods of this family are functions of D of the
winner and D of the loser (Diffusion-DPO, arXiv 2311.12908, equation 14: the log-likelihood ratio is -D up to a factor).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from tropism.diffusion.noising import Noised
from tropism.diffusion.schedules import like, split
from tropism.policy import Policy, fitted
from tropism.types import Level, Tree, tree_map

WEIGHTINGS = ("network", "noise", "velocity", "sample")


def residual(policy: Policy, at: Noised, cond: Tree, weighting: str = "network") -> torch.Tensor:
    """Prediction minus target [M, ...] at noised states; one forward. weighting: in which space, see the head of this file."""
    kind = policy.schedule.parametrization
    x0, noise = split(fitted(policy, at.x, at.level, cond), at.x, at.level, kind)
    off_x0, off_noise = x0 - at.x0, noise - at.noise
    if weighting == "sample" or (weighting, kind) == ("network", "sample"):
        return off_x0
    if weighting == "noise" or (weighting, kind) == ("network", "epsilon"):
        return off_noise
    if weighting == "velocity" or (weighting, kind) == ("network", "flow"):
        return off_noise - off_x0
    return like(at.level.alpha, x0) * off_noise - like(at.level.sigma, x0) * off_x0


def mean_square(off: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
    """[M]: the mean square of residuals [M, ...], over the part of each where ``region`` is not 0; 0 where it is 0 throughout."""
    if region is None:
        return off.square().flatten(1).mean(1)
    inside = (region != 0).expand_as(off).to(off.dtype)
    return (inside * off.square()).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)


@dataclass(frozen=True)
class Fit:
    """Errors [M] of M pairs, the policy's with gradient; ``rescaled`` [M] is what the loser's gradient has been multiplied by."""

    winner: torch.Tensor
    loser: torch.Tensor
    winner_base: torch.Tensor
    loser_base: torch.Tensor
    rescaled: torch.Tensor

    @property
    def margin(self) -> torch.Tensor:
        """D of the winner minus D of the loser, [M]; negative where the policy has learned the preference."""
        return (self.winner - self.winner_base) - (self.loser - self.loser_base)


def compare(
    policy: Policy,
    reference: AbstractContextManager[None],
    at: Noised,
    cond: Tree,
    *,
    weighting: str = "network",
    segments: torch.Tensor | None = None,
    keep: float | None = None,
) -> Fit:
    """The errors of M pairs: ``at`` holds 2 M noised states, winners first; cond: [M, ...]; two forwards of 2 M.

    segments: as in :class:`tropism.types.Pairs`, [M, ...]. Where they are negative the two change places, so that "winner" is at every
    place who won there, and each error is a mean over the compared places: D of winner minus D of loser is then the mean of label times
    difference. keep: Diffusion-SDPO's mu, see :func:`safe_scale`.
    """
    doubled = tree_map(lambda t: torch.cat([t, t]), cond)
    with torch.no_grad(), reference:
        base_winner, base_loser = _sides(residual(policy, at, doubled, weighting), segments)
    off_winner, off_loser = _sides(residual(policy, at, doubled, weighting), segments)
    winner, loser = mean_square(off_winner, segments), mean_square(off_loser, segments)
    scale = torch.ones_like(loser)
    if keep is not None:
        scale = safe_scale(off_winner.detach(), off_loser.detach(), segments, keep)
        loser = loser.detach() + scale * (loser - loser.detach())
    return Fit(winner, loser, mean_square(base_winner, segments), mean_square(base_loser, segments), scale)


def safe_scale(winner: torch.Tensor, loser: torch.Tensor, region: torch.Tensor | None, keep: float) -> torch.Tensor:
    """Diffusion-SDPO (arXiv 2511.03317): by how much [M] the loser's gradient must shrink so that no step makes the winner worse.

    With a and b the gradients of the two errors with respect to the network's output, a step along -(a - s b) changes the winner's error
    by -(|a|^2 - s a.b) to first order. s = min(1, (1 - keep) |a|^2 / a.b) where a.b > 0, else 1, leaves at least keep |a|^2 of its fall.
    """
    inside = torch.ones_like(winner) if region is None else (region != 0).expand_as(winner).to(winner.dtype)
    own = (inside * winner.square()).flatten(1).sum(1)
    shared = (inside * winner * loser).flatten(1).sum(1)
    return torch.where(shared > 0, ((1 - keep) * own / shared.clamp(min=1e-30)).clamp(0, 1), 1.0)


def together(winner: Noised, loser: Noised) -> Noised:
    """The noised states of winners and of losers as one batch, winners first."""
    levels = zip(
        (winner.level.t, winner.level.alpha, winner.level.sigma), (loser.level.t, loser.level.alpha, loser.level.sigma), strict=True
    )
    level = Level(*(torch.cat(pair) for pair in levels))
    x, x0, noise = (torch.cat(pair) for pair in ((winner.x, loser.x), (winner.x0, loser.x0), (winner.noise, loser.noise)))
    return Noised(level, x, x0, noise)


def _sides(off: torch.Tensor, segments: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    winner, loser = off.chunk(2)
    if segments is None:
        return winner, loser
    return torch.where(segments < 0, loser, winner), torch.where(segments < 0, winner, loser)
