"""What the tests of preference methods share: pairs and labels on the toy, its ends in float64, and derivatives by differences."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from tropism.optimizers.base import LabelBatch, PairBatch, label_batches, pair_batches
from tropism.policies.adapters import Trainable
from tropism.testing import condition
from tropism.toy import ToyPolicy
from tropism.types import Labelled, Pairs

COUNT = 5
KEY = 3
PARAMETRIZATIONS = ["epsilon", "v_prediction", "sample", "flow"]


def move(policy, scale: float, seed: int = 9) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def pairs(policy, count: int = COUNT, **fields) -> Pairs:
    generator = torch.Generator().manual_seed(4)
    winner, loser = (2 * torch.randn(count, 2, generator=generator) for _ in range(2))
    cond = condition(policy, [{"prompt": "p"}] * count, seed=70)
    given = {"weight": torch.ones(count), "chance": torch.linspace(0.6, 1, count), **fields}
    return Pairs(cond=cond, winner=winner, loser=loser, **given)


def labelled(policy, label: list[float]) -> Labelled:
    count = len(label)
    x0 = 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(4))
    return Labelled(cond=condition(policy, [{"prompt": "p"}] * count, seed=70), x0=x0, label=torch.tensor(label))


def attached(optimizer, parametrization: str = "epsilon"):
    """A toy policy whose base is not the exact one, to which the optimizer is attached."""
    policy = ToyPolicy(parametrization=parametrization)
    move(policy, 0.02, seed=1)
    optimizer.attach(Trainable(policy.trainable(), None))
    return policy


def whole(optimizer, record, key: int = KEY) -> PairBatch | LabelBatch:
    """All draws of all pairs or samples as one batch."""
    cut = pair_batches if isinstance(record, Pairs) else label_batches
    (batch,) = cut(record, torch.arange(len(record)), optimizer.draws, 100_000, key)
    return batch


def float64(policy, at) -> SimpleNamespace:
    """The errors of the toy's network at noised states, row by row and in every space, from its raw output alone."""
    x, x0, noise = (value.double().numpy() for value in (at.x, at.x0, at.noise))
    alpha, sigma = (value.double().numpy()[:, None] for value in (at.level.alpha, at.level.sigma))
    with torch.no_grad():
        out = policy.predict(at.x, at.level, {}).double().numpy()
    kind = policy.schedule.parametrization
    if kind == "epsilon":
        ends, target = ((x - sigma * out) / alpha, out), noise
    elif kind == "v_prediction":
        ends, target = (alpha * x - sigma * out, alpha * out + sigma * x), alpha * noise - sigma * x0
    elif kind == "sample":
        ends, target = (out, (x - alpha * out) / sigma), x0
    else:
        ends, target = (x - sigma * out, x + (1 - sigma) * out), noise - x0
    off = {"network": out - target, "sample": ends[0] - x0, "noise": ends[1] - noise}
    off["velocity"] = off["noise"] - off["sample"]
    return SimpleNamespace(off=off, **{name: (value**2).mean(1) for name, value in off.items()})


def log_sigmoid(value):
    return -np.log1p(np.exp(-value))


def by_differences(policy, loss, scale: float = 2e-3) -> tuple[float, float]:
    """(the derivative of ``loss()`` along a fixed direction by autograd, the same by central differences)."""
    parameters = list(policy.trainable().parameters())
    generator = torch.Generator().manual_seed(11)
    direction = [torch.randn(p.shape, generator=generator) for p in parameters]
    gradient = torch.autograd.grad(loss(), parameters)
    exact = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.add_(step, alpha=sign * scale)
        ends.append(loss().item())
        with torch.no_grad():
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.sub_(step, alpha=sign * scale)
    return exact, (ends[0] - ends[1]) / (2 * scale)
