"""Steering reads nothing from the device but rewards: each reading waits for all that was queued.

Tensors of the device "meta" have no values, so whatever reads one fails; what runs there would not wait on an accelerator either.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tropism.diffusion.flow_samplers import Cps, FlowSde, Ode
from tropism.diffusion.glass import Glass
from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import DDIM, Consistency, Sampler
from tropism.rewards.combine import Combined, Part
from tropism.sampling import condition
from tropism.steering.denoising import Denoising
from tropism.steering.scorer import Rewards
from tropism.steering.search import copies, put
from tropism.steering.task import Task, gather
from tropism.toy import ToyPolicy
from tropism.types import tree_map

DEVICE = torch.device("meta")


class Asked:
    """Numbers that need nothing from the device; remembers what else it was given."""

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []

    def __call__(self, points: torch.Tensor, prompt: list[str], seed: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert points.device == t.device == DEVICE and seed.device.type == "cpu"
        self.prompts.append(prompt)
        return torch.arange(len(points)).float()


def on_nothing(sampler: Sampler, parametrization: str) -> tuple[Task, Asked]:
    """Two prompts of three particles on a device without values."""
    policy, reward = ToyPolicy(parametrization=parametrization), Asked()
    items = [{"prompt": prompt} for prompt in ("a", "b") for _ in range(3)]
    cond = condition(items, 0, 0, 3)
    cond = replace(cond, encoded=tree_map(lambda t: t.to(DEVICE), policy.encode(items)))
    policy.trainable().to(DEVICE)
    process = Denoising(policy, sampler, 6, cond)
    assert process.device == DEVICE
    scorer = Rewards(policy, Combined([Part("asked", reward)]), cond, process.levels)
    seeds = cond.seed.tolist()
    return Task(process, scorer, Draw(seeds, DEVICE), Draw(seeds, DEVICE), Draw([1, 2], torch.device("cpu")), 2, 3), reward


@pytest.mark.parametrize(
    ("sampler", "parametrization"),
    [(DDIM(eta=1.0), "epsilon"), (Consistency(), "epsilon"), (FlowSde(), "flow"), (Cps(), "flow"), (Ode(), "flow"), (Glass(2), "epsilon")],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__.lower(),
)
def test_nothing_but_rewards_is_read_from_the_device(sampler, parametrization):
    task, reward = on_nothing(sampler, parametrization)
    state, order = task.look(task.start(), 0), torch.tensor([0, 0, 2, 5, 3, 3])
    assert task.rewards(state["x0"], state["row"], 0).tolist() == [0, 1, 2, 3, 4, 5]
    state, _ = task.move(gather(state, order), 0)
    assert state["row"].tolist() == order.tolist() and state["x"].device == DEVICE
    state = task.look(state, 1)
    task.rewards(task.plausible(state, 1), state["row"], 1)
    task.rewards(task.ahead(state, 1, 2), state["row"], 3)
    renoised = task.process.renoise(copies(state, 2), 1, 0, {"normal": torch.zeros(12, 2, device=DEVICE)})
    assert renoised["x"].device == DEVICE
    other = put(state, torch.tensor([1, 4]), gather(state, torch.tensor([0, 3])))
    assert other["row"].tolist() == [0, 0, 2, 5, 5, 3]
    assert reward.prompts == [["a", "a", "a", "b", "b", "b"], *[["a", "a", "a", "b", "b", "b"]] * 2]


def test_a_gradient_is_followed_without_waiting_for_every_chunk():
    """The rewards themselves are read at the end, in one go, which here is what fails."""
    task, _ = on_nothing(DDIM(eta=1.0), "epsilon")
    looked: list[int] = []
    look = task.process.look
    task.process.look = lambda state, index: (looked.append(len(state["x"])), look(state, index))[1]
    task.scorer.value = lambda x0, rows, index: x0.sum(1)
    task.chunk = 2
    with pytest.raises(NotImplementedError, match="meta"):
        task.look_along(task.start(), 0)
    assert looked == [2, 2, 2]


def test_a_reward_is_given_nothing_of_what_the_network_is_told():
    task, _ = on_nothing(DDIM(eta=1.0), "epsilon")
    made = task.scorer._made(torch.zeros(2, 2, device=DEVICE), torch.tensor([4, 1]), 1)
    assert made.cond.encoded == {} and [item["prompt"] for item in made.cond.items] == ["b", "a"]
    assert made.cond.seed.tolist() == [task.scorer.cond.seed[4].item(), task.scorer.cond.seed[1].item()]
