"""Steering methods in recipes: their arguments, what is refused before any weight is loaded, and methods of plugins."""

from __future__ import annotations

import pytest
import torch

from tropism import assemble
from tropism.entry import Entry
from tropism.errors import RecipeError
from tropism.plugins import Catalog, manager
from tropism.recipe import Part, parse
from tropism.steering.best_of_n import BestOfN
from tropism.steering.fk import Fk, FkPaper
from tropism.steering.resampling import multinomial, ssp
from tropism.steering.schedule import Schedule
from tropism.steering.strength import Strength
from tropism.steering.twisted import Das, Twisted

RECIPE = """
name: steered
policy: {use: toy/mixture}
data: {use: prompts, train: [a, b]}
rollout: {sampler: {use: SAMPLER}, steps: 10}
credit: {use: batch}
rewards: [{use: toy/near}]
optimizer: {use: nft}
train: {iterations: 1}
steering: STEERING
"""


@pytest.fixture
def catalog() -> Catalog:
    return manager()[1]


def check(catalog: Catalog, steering: str, sampler: str = "ddim") -> assemble.Parts:
    text = RECIPE.replace("STEERING", steering).replace("SAMPLER", sampler)
    return assemble.check(parse(text, "r.yaml"), catalog, text, "r.yaml")


def test_a_method_and_its_arguments(catalog):
    made = check(
        catalog,
        "{use: fk, particles: 8, potential: max, lambda: {ess: 0.3, most: 50}, resampler: ssp, rising: 0.1, "
        "schedule: {start: 0.1, every: 0}, intermediate: {samples: 4}, select: all}",
    ).steering
    assert isinstance(made, Fk) and made.particles == 8
    assert made.how.strength == Strength(ess=0.3, most=50, rising=0.1)
    assert made.how.schedule == Schedule(0.1, 0.75, 0.0, 0.5) and made.how.resampler is ssp


def test_the_registered_methods_and_their_settings(catalog):
    made = {name: assemble.make(catalog, "steering", Part(use=name)) for name in ("best-of-n", "fk", "fk-paper", "tds", "das")}
    assert [type(method) for method in made.values()] == [BestOfN, Fk, FkPaper, Twisted, Das]
    assert {method.particles for method in made.values()} == {4}
    paper = made["fk-paper"].how
    assert paper.strength == Strength(number=10.0) and paper.resampler is multinomial
    assert paper.schedule.points(100) == [20, 40, 60, 80] and paper.schedule.ess == 1
    assert made["tds"].how.schedule.points(7) == list(range(7)) and made["tds"].how.guided
    assert made["das"].how.strength.part(100, 101) == 1 and made["das"].how.strength.part(10, 101) == pytest.approx(1.008**10 - 1)


def test_without_a_section_nothing_is_steered(catalog):
    text = RECIPE.replace("steering: STEERING", "").replace("SAMPLER", "ddim")
    assert assemble.check(parse(text, "r.yaml"), catalog).steering is None


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ("{use: fkk}", r"line 10: steering: no steering entry 'fkk' \(did you mean 'fk'\?\)"),
        ("{use: fk, particels: 4}", r"'fk' takes no argument 'particels' \(did you mean 'particles'\?\)"),
        ("{use: fk, particles: 0}", "particles: 0; expected 1 to 1000000"),
        ("{use: fk, potential: maximum}", r"potential: 'maximum' is not known \(did you mean 'max'\?\)"),
        ("{use: fk, resampler: systematik}", "did you mean 'systematic'"),
        ("{use: fk, select: bset}", "did you mean 'best'"),
        ("{use: fk, lambda: -1}", "lambda: -1.0; expected 0 or more"),
        ("{use: fk, lambda: {ess: 1.5}}", "lambda: ess 1.5; expected a part"),
        ("{use: fk, lambda: {es: 0.5}}", r"lambda: \{'es': 0.5\}; expected a number such as 2.0, or \{ess: 0.5\}"),
        ("{use: fk, lambda: {ess: 0.5}}", "ess 0.5 is not below schedule.ess 0.5"),
        ("{use: fk, schedule: {begin: 0}}", "schedule: unknown key 'begin' .*; expected start, end, every, ess"),
        ("{use: fk, schedule: {start: 0.9}}", "expected 0 <= start <= end <= 1"),
        ("{use: fk, schedule: {every: 20}}", "every 20; expected a fraction"),
        ("{use: fk, intermediate: x0}", "intermediate: 'x0'; expected predicted"),
        ("{use: fk, intermediate: {samples: 0}}", "0 samples; expected at least 1"),
        ("{use: fk, particles: four}", "particles: 'four'; expected 1 to 1000000"),
        ("{use: fk, lambda: {ess: high}}", "lambda: .*; expected a number such as 2.0"),
        ("{use: fk, schedule: {start: early}}", "schedule: start 'early'; expected a fraction"),
        ("{use: fk, rising: -1}", "rising: -1; expected 0"),
        ("{use: tds, intermediate: {samples: 4}}", "the gradient is that of the predicted x0"),
    ],
)
def test_mistakes_are_told_with_what_was_expected(catalog, steering, message):
    with pytest.raises(RecipeError, match=message):
        check(catalog, steering)


@pytest.mark.parametrize("method", ["fk", "fk-paper", "tds", "das"])
def test_a_deterministic_sampler_is_refused_before_weights_are_loaded(catalog, method):
    with pytest.raises(RecipeError, match=f"steering: '{method}' copies particles, but 'ode' .* take a stochastic sampler, or best-of-n"):
        check(catalog, f"{{use: {method}}}", "ode")


@pytest.mark.parametrize("method", ["tds", "das"])
def test_steps_without_a_density_are_refused_where_a_gradient_is_followed(catalog, method):
    with pytest.raises(
        RecipeError, match=f"steering: '{method}' follows the reward's gradient, but steps of sampler 'glass' have no density"
    ):
        check(catalog, f"{{use: {method}}}", "glass")
    assert check(catalog, "{use: fk}", "glass").steering is not None


def test_best_of_n_takes_any_sampler(catalog):
    text = RECIPE.replace("STEERING", "{use: best-of-n}").replace("SAMPLER", "ode")
    assert isinstance(assemble.check(parse(text, "r.yaml"), catalog).steering, BestOfN)


def flat_reward(points: torch.Tensor) -> torch.Tensor:
    return points[:, 0]


def test_a_reward_without_gradient_is_refused_where_it_is_followed(catalog):
    catalog.entries["rewards"]["my/flat"] = Entry("my/flat", f"{__name__}:flat_reward", "")
    text = RECIPE.replace("STEERING", "{use: das}").replace("SAMPLER", "ddim").replace("toy/near", "my/flat")
    with pytest.raises(RecipeError, match="'das' follows the reward's gradient, but 'my/flat' does not declare differentiable = True"):
        assemble.check(parse(text, "r.yaml"), catalog, text)


class Own(BestOfN):
    """A method of a plugin."""


def test_plugins_add_their_own_methods(catalog):
    catalog.entries["steering"]["my/own"] = Entry("my/own", f"{__name__}:Own", "")
    assert isinstance(check(catalog, "{use: my/own, particles: 2}").steering, Own)
    catalog.entries["steering"]["my/none"] = Entry("my/none", "fractions:Fraction", "")
    with pytest.raises(RecipeError, match=r"'my/none' is a Fraction, which is no subclass of tropism.steering.base.Method"):
        check(catalog, "{use: my/none}")


def test_schedules_are_fractions_of_any_number_of_steps():
    assert Schedule().points(100) == [25, 50, 75]
    assert Schedule().points(4) == [1, 2, 3]
    assert Schedule().points(1) == [0]
    assert Schedule(0, 1, 0).points(5) == [0, 1, 2, 3, 4]
    assert Schedule(0.5, 0.5, 0.2).points(10) == [5]
    assert Schedule(0.05, 0.3, 0.05).points(100) == [5, 10, 15, 20, 25, 30]
