"""The exact problems of these tests, and how the engine is run on them."""

from __future__ import annotations

from functools import cache

import torch

from tropism.steering.intermediate import Predicted
from tropism.steering.potentials import difference
from tropism.steering.resampling import systematic
from tropism.steering.schedule import Schedule
from tropism.steering.smc import Smc
from tropism.steering.steered import SELECTORS, Steered
from tropism.steering.strength import Strength
from tropism.toy_chains import Linear, MaskedChain, MixtureChain, Quadratic

HALF = Schedule(0.0, 1.0, 0.0, ess=0.5)  # every point is looked at
ALWAYS = Schedule(0.0, 1.0, 0.0, ess=1.0)
LINEAR = Linear(torch.tensor([1.0, 0.5], dtype=torch.float64))
QUADRATIC = Quadratic(torch.tensor([1.5, 1.0], dtype=torch.float64))
FOUR = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]], dtype=torch.float64)


def how(lam: float = 1.0, **given: object) -> Smc:
    """The engine's settings: difference, systematic, every point, effective size below half, unless told otherwise."""
    settings = {
        "potential": difference,
        "strength": Strength(number=lam),
        "schedule": HALF,
        "resampler": systematic,
        "intermediate": Predicted(),
        "select": SELECTORS["all"],
    }
    return Smc(**{**settings, **given})


def mixture(steps: int = 50) -> MixtureChain:
    """Four modes in the plane; log Z is 1.2269870 for the linear reward and -2.8946232 for the quadratic one, at lambda 1."""
    return MixtureChain(torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64), FOUR, 0.25, steps)


def gaussian(steps: int = 20) -> tuple[MixtureChain, Linear]:
    """One Gaussian in eight dimensions, and a linear reward."""
    mean = torch.linspace(-1, 1, 8, dtype=torch.float64)
    return MixtureChain(torch.ones(1), mean[None], 0.7, steps), Linear(torch.linspace(0.3, -0.1, 8, dtype=torch.float64))


@cache
def text() -> MaskedChain:
    """Four places, eight steps; at lambda 3, Z = 3.4237765."""
    return MaskedChain(4, 8)


@cache
def long_text() -> MaskedChain:
    """Five places, ten steps; at lambda 10, Z = 283.506492."""
    return MaskedChain(5, 10)


def mode_error(steered: Steered, tilt: Linear | Quadratic, lam: float = 1.0) -> float:
    """Total variation between the weights of the modes and the exact ones, the mean over runs."""
    target = mixture().target(tilt, lam)[1]
    near = torch.cdist(steered.x0, FOUR).argmin(1).reshape(steered.logw.shape)
    shares = torch.stack([(steered.weights * (near == mode)).sum(1) for mode in range(4)], 1)
    return float((shares - target).abs().sum(1).mean() / 2)


def unbiased(steered: Steered, log_z: float) -> bool:
    """Whether the mean of exp(log Z estimated - log Z) over runs is 1 within four standard errors."""
    ratio = (steered.log_z - log_z).exp()
    return bool((ratio.mean() - 1).abs() < 4 * ratio.std() / len(ratio) ** 0.5)


def kept_gain(steered: Steered) -> torch.Tensor:
    """What the potentials of all points added along the lineage of each finished particle, [P, K]."""
    total = torch.zeros_like(steered.logw)
    for point in steered.points:
        total = (total + point.gain).gather(1, point.ancestors)
    return total
