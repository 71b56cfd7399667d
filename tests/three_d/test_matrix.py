"""Every optimizer learns from furniture of the shipped generator, and every steering method steers it, toward the energy barrier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.matrix.optimizers import OPTIMIZERS, judged, rolled_out
from tropism import assemble, plugins
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Sampler
from tropism.errors import RecipeError, SteeringError
from tropism.optimizers.base import plan
from tropism.policies.adapters import Lora, Trainable
from tropism.recipe import parse
from tropism.rewards.combine import Combined, Part
from tropism.steering.base import Method, steer
from tropism.steering.steered import Steered
from tropism.testing import condition
from tropism.types import Condition, Level, Rollout, Tree
from tropism_3d.furniture import Furniture
from tropism_3d.generators.furniture_flow import FurnitureFlow
from tropism_3d.rewards.barrier import Barrier
from tropism_3d.rewards.stability import Stands

CATALOG = plugins.manager()[1]
BARRIER = Barrier(enough=1.0)  # so high that no two samples are alike
LORA = Lora(2, 4.0, ("up", "down", "modulate"))


def barrier(made: Rollout) -> torch.Tensor:
    return BARRIER(made.media["occupancy"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_update_lowers_the_loss_as_its_gradient_says_in_the_adapter_alone(name: str):
    optimizer, policy = OPTIMIZERS[name](), FurnitureFlow()
    trainable, network = Trainable(policy.trainable(), LORA), policy.trainable()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer.attach(trainable)
    sampler = FlowSde() if "steps" in optimizer.needs else Ode()
    items = [item for item in Furniture().heldout[:2] for _ in range(3)]
    rollout = rolled_out(optimizer, policy, condition(policy, items, group=3), sampler, 4)
    rollout.reward = BARRIER(policy.decode(rollout.x0)["occupancy"])
    (group,) = plan(optimizer, judged(optimizer, rollout), sampler, 1, 6, 0, barrier)

    def lost() -> tuple[torch.Tensor, float]:
        made = [(*optimizer.loss(policy, batch), batch.share) for batch in group]
        errors = [float(numbers["ratio_error"]) for _, numbers, _ in made if "ratio_error" in numbers and "steps" in optimizer.needs]
        return torch.stack([loss * share for loss, _, share in made]).sum(), max(errors, default=0.0)

    first, ratio_error = lost()
    assert first.isfinite() and ratio_error < (1e-3 if "pairs" in optimizer.needs else 1e-30)
    first.backward()
    assert all(value.grad is None for key, value in network.named_parameters() if key not in trainable.parameters)
    ups = [value.grad for key, value in trainable.parameters.items() if "lora_B" in key]
    length = torch.stack([gradient.norm() for gradient in ups]).norm()
    assert length.isfinite() and all(gradient.any() for gradient in ups)
    step = 0.02
    with torch.no_grad():
        for value in trainable.parameters.values():
            value -= step * value.grad / length
    optimizer.updated()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in trainable.parameters if "lora_B" in key}, "while B is 0, A has no gradient"
    if name != "nft":  # whose errors are divided by what counts as constant, so that its value says little
        torch.testing.assert_close(first - lost()[0], step * length, rtol=0.3, atol=1e-6)


NATURAL = {"d3po": "best-worst", "spo": "best-worst", "dpo": "best-worst", "inpo": "best-worst", "smpo": "best-worst"}
RECIPE = """
name: 3d/any
policy: {use: 3d/furniture-flow}
data: {use: 3d/furniture}
adapter: {kind: lora, rank: 2, targets: [up, down, modulate]}
rollout: {sampler: {use: flow-sde}, steps: 4, samples: 8, batch: 4, group: 2, start: group}
rewards: [{use: 3d/barrier}]
optimizer: {use: dro}
train: {iterations: 1}
"""


def complaint(*changes: str) -> str:
    """What ``tropism check`` says of the recipe above with changes; empty where it fits together."""
    try:
        assemble.check(parse(RECIPE, "any", changes), CATALOG)
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CATALOG.entries["optimizers"])
def test_every_registered_optimizer_fits_or_says_why_not(name: str):
    more = ["optimizer.last=2"] if name == "direct" else []
    found = complaint(f"optimizer={{use: {name}}}", f"credit={{use: {NATURAL.get(name, 'batch')}}}", *more)
    if name == "densedpo":
        assert "judges of a rollout compare whole samples" in found
        return
    assert found == "" and any(key.startswith((name, "draft")) for key in OPTIMIZERS), "it is in the matrix"
    known = CATALOG.load("optimizers", name)
    if "steps" in known.needs:
        assert "learns from noisy steps, but 'ode'" in complaint(
            f"optimizer={{use: {name}}}", f"credit={{use: {NATURAL.get(name, 'batch')}}}", "rollout.sampler={use: ode}"
        )
    if "endings" in known.needs:
        assert "'3d/stands' does not declare differentiable = True" in complaint(
            f"optimizer={{use: {name}}}", *more, "rewards=[{use: 3d/stands}]"
        )


STEPS, PROMPTS = 8, 2
ARGUMENTS = {"rollover": {"forwards": 24}, "tds": {"lam": 20.0}, "das": {"lam": 20.0, "rising": 0.1}, "gibbs": {"sweeps": 2, "lam": 50.0}}


class Counting(FurnitureFlow):
    """The generator, which counts the samples that it is asked about."""

    asked = 0

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        self.asked += len(x)
        return super().predict(x, level, cond)


@pytest.fixture(scope="module")
def policy() -> Counting:
    return Counting()


def method(name: str, **arguments: Any) -> Method:
    made: Method = CATALOG.load("steering", name)(particles=3, **{**ARGUMENTS.get(name, {}), **arguments})
    return made


def steered(policy: Counting, how: Method, sampler: Sampler | None = None, reward: Any = BARRIER) -> tuple[Steered, Condition]:
    items = [item for item in Furniture().heldout[:PROMPTS] for _ in range(how.particles)]
    cond, policy.asked = condition(policy, items, group=how.particles), 0
    return steer(policy, cond, sampler or FlowSde(), STEPS, Combined([Part("3d/barrier", reward)]), how), cond


@pytest.mark.parametrize("name", CATALOG.entries["steering"])
def test_what_a_method_chooses_has_the_reward_that_it_tells(policy: Counting, name: str):
    found, cond = steered(policy, method(name))
    assert found.forwards == policy.asked >= PROMPTS * 3 * STEPS / 2 and found.calls >= PROMPTS * len(found.reward[0])
    made = found.rollout(cond)
    again = BARRIER(policy.decode(made.x0)["occupancy"])
    torch.testing.assert_close(made.reward, again, rtol=0, atol=1e-6)
    assert torch.equal(made.media["occupancy"], found.samples) and torch.equal(made.scores["3d/barrier"], made.reward)
    assert [item["object"] for item in made.cond.items] == [item["object"] for item in Furniture().heldout[:PROMPTS]]
    if name != "gibbs":  # which draws one by weight
        assert torch.equal(made.reward, found.reward.amax(1).float())


def test_best_of_n_is_the_best_of_independent_samples(policy: Counting):
    found, cond = steered(policy, method("best-of-n"))
    alone = collect(policy, cond, FlowSde(), STEPS)
    rewards = BARRIER(policy.decode(alone.x0)["occupancy"]).reshape(PROMPTS, 3)
    assert torch.equal(found.x0, alone.x0) and torch.equal(found.chosen[:, 0], rewards.argmax(1))
    assert rewards.unique().numel() == PROMPTS * 3, "or there was nothing to choose from"


@pytest.mark.parametrize("name", ["fk", "fk-paper", "tds", "das", "bfs"])
def test_lambda_zero_is_the_base_law_bit_for_bit(policy: Counting, name: str):
    found, cond = steered(policy, method(name, lam=0.0))
    assert torch.equal(found.x0, collect(policy, cond, FlowSde(), STEPS).x0) and (found.roots == 3).all()


@pytest.mark.parametrize("name", CATALOG.entries["steering"])
def test_what_a_method_needs_is_asked_for(policy: Counting, name: str):
    needs = CATALOG.load("steering", name).needs
    if "noise" in needs:
        with pytest.raises(SteeringError, match="copies particles, but sampler 'ode' has no noise in its 8 steps"):
            steered(policy, method(name), Ode())
    else:
        found, _ = steered(policy, method(name), Ode())
        assert found.forwards == policy.asked and found.reward.isfinite().all()
    if "gradient" in needs:
        with pytest.raises(SteeringError, match="follows the reward's gradient, but '3d/barrier' does not declare"):
            steered(policy, method(name), reward=Stands())


def test_one_particle_is_too_few_for_gibbs():
    with pytest.raises(ValueError, match="particles: 1; expected 2 to 1000000: with the kept path alone nothing would ever change"):
        CATALOG.load("steering", "gibbs")(particles=1)
