"""DenseDPO: segment labels in one sigmoid, on the toy's coordinates and on regions of small pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.core.pairs_of_toys import COUNT, attached, by_differences, float64, log_sigmoid, move, pairs, whole
from tropism.diffusion.schedules import Flow
from tropism.optimizers.densedpo import DenseDpo
from tropism.optimizers.dpo import Dpo
from tropism.policies.adapters import Trainable
from tropism.types import Condition, Pairs

LABELS = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])


@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_densedpo_is_its_formula(parametrization):
    optimizer = DenseDpo(beta=2.0, draws=2)
    policy = attached(optimizer, parametrization)
    batch = whole(optimizer, pairs(policy, segments=LABELS))
    at = optimizer.noising(policy, batch, {})
    base = float64(policy, at).off["network"] ** 2
    move(policy, 0.03)
    winner, loser = np.split(float64(policy, at).off["network"] ** 2 - base, 2)
    labels = LABELS.numpy()[batch.sample.numpy()]
    inside = -(labels * (winner - loser)).sum(1) / np.abs(labels).sum(1)
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(-log_sigmoid(inside).mean(), rel=1e-3)
    assert metrics["labelled_share"].item() == pytest.approx(0.8)


class Pictures:
    """A flow on pictures [1, 4, 4] whose network is one convolution."""

    emits = frozenset({"image"})
    schedule = Flow()

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.network = torch.nn.Conv2d(1, 1, 3, padding=1)

    def predict(self, x, level, cond):
        return self.network(x)

    def trainable(self):
        return self.network


def pictures(segments):
    generator = torch.Generator().manual_seed(0)
    winner, loser = (torch.randn(3, 1, 4, 4, generator=generator) for _ in range(2))
    cond = Condition(items=[{}] * 3, encoded={}, seed=torch.arange(3), group=torch.arange(3))
    return Pairs(cond=cond, winner=winner, loser=loser, weight=torch.ones(3), chance=torch.ones(3), segments=segments)


def trained(optimizer):
    policy = Pictures()
    optimizer.attach(Trainable(policy.trainable(), None))
    move(policy, 0.1)
    return policy


def value(optimizer, policy, record):
    """(loss, its gradient)."""
    loss = optimizer.loss(policy, whole(optimizer, record))[0]
    return loss.item(), torch.autograd.grad(loss, policy.network.weight)[0]


def test_all_labels_alike_are_flow_dpo():
    optimizer = Dpo(beta=3.0, noise="own")
    policy = trained(optimizer)
    dense = DenseDpo(beta=3.0)
    dense.attach(optimizer.weights)
    one, other = value(optimizer, policy, pictures(None)), value(dense, policy, pictures(torch.ones(3, 1, 1, 1)))
    assert one[0] == pytest.approx(other[0]) and one[0] != pytest.approx(math.log(2), abs=1e-3)
    torch.testing.assert_close(one[1], other[1])


def test_turning_the_labels_is_swapping_the_two():
    optimizer = DenseDpo(beta=3.0, noise="shared", keep=0.9, anchor=0.2)
    policy = trained(optimizer)
    labels = torch.randint(-1, 2, (3, 1, 4, 4), generator=torch.Generator().manual_seed(5)).float()
    record = pictures(labels)
    swapped = replace(record, winner=record.loser, loser=record.winner, segments=-labels)
    one, other = value(optimizer, policy, record), value(optimizer, policy, swapped)
    assert one[0] == pytest.approx(other[0])
    torch.testing.assert_close(one[1], other[1])
    assert value(optimizer, policy, replace(record, segments=-labels))[0] != pytest.approx(one[0], rel=1e-3)


def test_a_pair_of_ties_teaches_nothing():
    optimizer = DenseDpo(beta=3.0)
    loss, gradient = value(optimizer, trained(optimizer), pictures(torch.zeros(3, 1, 4, 4)))
    assert loss == pytest.approx(math.log(2)) and (gradient == 0).all()


def test_what_lies_outside_the_labelled_region_does_not_matter():
    """A convolution sees its neighbours, so the samples are changed only where no labelled place looks."""
    optimizer = DenseDpo(beta=3.0)
    policy = trained(optimizer)
    labels = torch.zeros(3, 1, 4, 4)
    labels[..., :2] = 1
    record = pictures(labels)
    changed = replace(record, winner=record.winner.clone())
    changed.winner[..., 3] += 5
    assert value(optimizer, policy, record)[0] == pytest.approx(value(optimizer, policy, changed)[0])
    changed.winner[..., 0] += 5
    assert value(optimizer, policy, record)[0] != pytest.approx(value(optimizer, policy, changed)[0], rel=1e-3)


def test_the_gradient_is_that_of_the_loss():
    optimizer = DenseDpo(beta=2.0)
    policy = attached(optimizer, "flow")
    batch = whole(optimizer, pairs(policy, segments=LABELS))
    move(policy, 0.03)
    exact, differences = by_differences(policy, lambda: optimizer.loss(policy, batch)[0])
    assert abs(exact) > 1e-2 and exact == pytest.approx(differences, rel=1e-2)


def test_pairs_without_segments_are_refused():
    optimizer = DenseDpo()
    policy = attached(optimizer)
    with pytest.raises(ValueError, match="no labels of segments; densedpo needs them, dpo learns from whole samples"):
        optimizer.loss(policy, whole(optimizer, pairs(policy)))
    assert len(LABELS) == COUNT and optimizer.needs == {"pairs", "segments"}
