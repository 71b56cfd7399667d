"""The guard trips below what may be kept, remembers the last good weights by value, and says which iteration they are of."""

from __future__ import annotations

import pytest
import torch

from tropism.guard import Guard
from tropism.recipe import Guard as Rule


def evaluations(*values: float) -> list[tuple[int, dict[str, list[float]]]]:
    return [(10 * index, {"alignment": [value, value - 1, value + 1]}) for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "tripped"),
    [((1.0,), False), ((1.0, 0.91), False), ((1.0, 0.89), True), ((1.0, 0.5, 0.95), False), ((-1.0, -1.09), False), ((-1.0, -1.11), True)],
)
def test_it_looks_at_the_last_evaluation_against_the_first(values, tripped):
    assert Guard(Rule(metric="alignment", keep=0.9)).tripped(evaluations(*values)) == tripped


def test_without_a_rule_it_never_trips_and_remembers_nothing():
    guard = Guard(None)
    guard.remember(3, {"weights": {"w": torch.ones(2)}}, evaluations(1.0, -50.0))
    assert not guard.tripped(evaluations(1.0, -50.0)) and guard.good is None and guard.kept_step(7) == 7


def test_it_remembers_accepted_weights_by_value_and_goes_back_to_them():
    guard, weight = Guard(Rule(metric="alignment", keep=0.9)), torch.ones(2)
    guard.remember(10, {"weights": {"w": weight}}, evaluations(1.0, 0.95))
    weight.zero_()
    guard.remember(20, {"weights": {"w": weight}}, evaluations(1.0, 0.95, 0.1))
    assert guard.kept_step(20) == 20
    good = guard.end(20)
    assert good["step"] == 10 and good["trainable"]["weights"]["w"].tolist() == [1, 1]
    assert guard.kept_step(20) == 10
    assert guard.tripped(evaluations(1.0)), "final once it has ended the run"
    other = Guard(Rule(metric="alignment", keep=0.9))
    other.load_state_dict(guard.state_dict())
    assert other.tripped(evaluations(1.0)) and other.kept_step(20) == 10
