"""Methods that search: exact where they must be the policy or best of N, within their budgets, and refused by name."""

from __future__ import annotations

import pytest
import torch

from tests.steering.problems import LINEAR, mixture
from tests.steering.test_recipe import check
from tests.steering.toys import on_toy, scripted
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.samplers import DDIM
from tropism.errors import SteeringError
from tropism.plugins import manager
from tropism.sampling import condition
from tropism.steering.best_of_n import BestOfN
from tropism.steering.bfs import Bfs
from tropism.steering.psp import Psp
from tropism.steering.rollover import Rollover
from tropism.steering.search import heights
from tropism.steering.steered import Steered
from tropism.steering.svdd import Svdd
from tropism.toy_chains import task
from tropism.types import Condition


def equal(a: Steered, b: Steered) -> bool:
    return torch.equal(a.x0, b.x0) and torch.equal(a.reward, b.reward) and torch.equal(a.chosen, b.chosen)


class Uniform(torch.nn.Module):
    """A reward that is uniform in (0, 1) over a standard normal coordinate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtr(x[:, 0])


def test_the_best_of_n_uniform_rewards_is_n_of_n_plus_1():
    chain = mixture(1)
    chain.start = lambda draw: {"x": (x := draw((2,)).double()), "row": torch.arange(len(x))}
    chain.move = lambda state, index, noise, pull=None: ({"x": state["x"], "row": state["row"]}, torch.zeros(len(state["x"])))
    for count in (1, 4, 9):
        best = BestOfN(particles=count).run(task(chain, Uniform(), 20_000, count)).reward.amax(1)
        assert abs(best.mean() - count / (count + 1)) < 4 * best.std() / 20_000**0.5


@pytest.mark.parametrize("sampler", [DDIM(), Ode()], ids=["ddim", "ode"])
def test_pruning_that_keeps_all_is_best_of_n(sampler):
    found = on_toy(Psp(particles=6, prune=((0.25, 1.0), (0.5, 1.0))), sampler=sampler)
    assert equal(found, on_toy(BestOfN(particles=6), sampler=sampler))
    assert found.forwards == 3 * 6 * 8


def test_who_survives_pruning_is_who_it_would_have_been_alone():
    found, all_ = on_toy(Psp(particles=8)), on_toy(BestOfN(particles=8))
    assert found.reward.shape == (3, 2) and found.forwards == 3 * (8 * 3 + 4 * 2 + 2 * 3)
    assert torch.equal(found.reward, all_.reward.gather(1, found.root))
    promised, then = found.points[0], found.points[1]
    kept = promised.reward.topk(4).indices.sort(1).values
    assert torch.equal(promised.ancestors, kept) and torch.equal(
        then.reward.shape and then.ancestors, then.reward.topk(2).indices.sort(1).values
    )
    assert found.rollout(_cond(8)).cond.group.tolist() == [0, 1, 2]


def _cond(particles: int, prompts: int = 3) -> Condition:
    return condition([{"prompt": "p"}] * prompts * particles, 0, 0, particles)


def test_one_candidate_is_the_policy_bit_for_bit():
    found, base = on_toy(Svdd(particles=4, candidates=1, alpha=0.1)), on_toy(BestOfN(particles=4))
    assert equal(found, base) and found.forwards == base.forwards == 3 * 4 * 8


def test_a_chain_takes_its_best_candidate_and_a_small_alpha_is_no_alpha():
    best = on_toy(Svdd(particles=2, candidates=5))
    assert equal(best, on_toy(Svdd(particles=2, candidates=5, alpha=1e-9)))
    assert best.forwards == 3 * 2 * (1 + 5 * 7)  # the last step has no noise
    assert best.reward.mean() > on_toy(BestOfN(particles=2)).reward.mean() + 1
    assert torch.equal(best.root, torch.arange(2).expand(3, 2)) and best.log_z.isnan().all()


def test_a_large_alpha_is_the_policy_in_law():
    chain = mixture(5)
    found = Svdd(particles=1, candidates=3, alpha=1e12).run(task(chain, LINEAR, 20_000, 1)).reward
    steered = Svdd(particles=1, candidates=3, alpha=1.0).run(task(chain, LINEAR, 20_000, 1)).reward
    base = (torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64) * (chain.means @ LINEAR.a)).sum()
    assert abs(found.mean() - base) < 4 * found.std() / 20_000**0.5
    assert steered.mean() > base + 1


def test_the_chance_of_a_candidate_is_softmax():
    rewards = torch.tensor([[0.0, 1.0, torch.nan, 2.0]], dtype=torch.float64).expand(40_000, 4)
    taken = Svdd(candidates=4, alpha=0.5)._taken(task(mixture(2), LINEAR, 40_000, 1), rewards)
    share = torch.bincount(taken, minlength=4) / 40_000
    expected = torch.softmax(torch.tensor([0.0, 2.0, -torch.inf, 4.0]), 0)
    assert (share - expected).abs().max() < 4 * 0.5 / 40_000**0.5 and share[2] == 0
    assert Svdd(candidates=2)._taken(task(mixture(2), LINEAR, 1, 1), torch.full((1, 2), torch.nan)).tolist() == [0]


def test_children_of_a_search_in_breadth_are_more_the_higher_the_reward():
    assert equal(on_toy(Bfs(lam=0.0)), on_toy(BestOfN()))
    found = on_toy(Bfs(particles=8, lam=100.0), prompts=4)
    for point in found.points[:-1]:
        children = torch.stack([torch.bincount(row, minlength=8) for row in point.ancestors])
        expected = 8 * torch.softmax(point.lam[:, None] * point.reward, 1)
        assert ((children - expected).abs() < 1).all()
    assert [point.index for point in found.points] == [2, 4, 6, 8]
    assert torch.allclose(torch.stack([point.lam for point in found.points[:-1]], 1), torch.tensor([25.0, 50.0, 75.0]).double())
    assert found.mean_reward.mean() > on_toy(BestOfN(particles=8), prompts=4).mean_reward.mean()


def test_the_first_child_that_is_better_is_taken_and_its_quota_rolls_over():
    # Two first noises promise 1 and 2; seven tries for three steps, 2 + 2 + 3. Step 0: 0 is no better, 3 is. Step 1: 4 at once, one try
    # rolls over. Step 2: four tries, none above 4; the best of them, 3.5, is taken.
    search = scripted(4, [1.0, 2.0, 0.0, 3.0, 4.0, 3.0, 3.5, 2.0, 1.0], particles=2)
    found = Rollover(particles=2, forwards=9).run(search)
    assert [point.reward.flatten().tolist() for point in found.points] == [[1.0, 2.0], [3.0], [4.0], [3.5], [3.5]]
    assert found.forwards == 9 and found.root.tolist() == [[1]]


def test_prompts_of_one_search_have_their_own_quotas():
    # Prompt 0 accepts at once; prompt 1 needs all of its three tries.
    search = scripted(2, [0.0, 0.0, 1.0, -3.0, -2.0, -4.0], particles=1, prompts=2)
    found = Rollover(particles=1, forwards=4).run(search)
    assert found.reward.tolist() == [[1.0], [-2.0]] and found.forwards == 2 + 1 + 3


def test_where_no_reward_is_there_all_are_drawn_alike():
    reward = torch.tensor([[float("nan")] * 3, [float("nan"), 1.0, -2.0]])
    assert heights(reward).tolist() == [[0.0, 0.0, 0.0], [-float("inf"), 1.0, -2.0]]


def test_two_cuts_at_one_step_are_refused_and_a_late_one_is_made():
    with pytest.raises(SteeringError, match="two cuts at one of 3 steps"):
        on_toy(Psp(particles=4, prune=[[0.3, 0.5], [0.35, 0.25]]), steps=3)
    assert on_toy(Psp(particles=4, prune=[[0.95, 0.5]]), steps=3).reward.shape[1] == 2


def test_a_reward_that_is_no_number_never_wins():
    nan = float("nan")
    found = Rollover(particles=2, forwards=5).run(scripted(2, [nan, 1.0, float("inf"), 0.5, nan], particles=2))
    assert found.reward.tolist() == [[0.5]] and found.unscored == 3


@pytest.mark.parametrize("budget", [11, 12, 30, 100])
def test_a_budget_of_forwards_is_never_exceeded(budget):
    found = on_toy(Rollover(particles=4, forwards=budget), prompts=5)
    assert found.forwards <= 5 * budget and found.chosen.tolist() == [[0]] * 5
    alone = [on_toy(Rollover(particles=4, forwards=budget), prompts=1, first=number) for number in range(5)]
    assert max(run.forwards for run in alone) <= budget and sum(run.forwards for run in alone) == found.forwards
    assert torch.equal(found.x0, torch.cat([run.x0 for run in alone]))


def test_more_budget_is_more_reward():
    small, large = (on_toy(Rollover(particles=4, forwards=budget), prompts=20).reward.mean() for budget in (11, 80))
    assert large > small + 0.3


METHODS = [Svdd(particles=3, candidates=3, alpha=0.2), Psp(), Bfs(), Rollover(particles=3, forwards=20)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_prompt_is_steered_as_it_would_be_alone_and_in_any_slices(method):
    together = on_toy(method, prompts=3)
    alone = torch.cat([on_toy(method, prompts=1, first=number).x0 for number in range(3)])
    assert torch.equal(together.x0, alone)
    assert torch.allclose(on_toy(method, prompts=3, chunk=2).x0, together.x0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_prompt_without_any_reward_is_an_error_that_names_it(method):
    def broken(points: torch.Tensor) -> torch.Tensor:
        return torch.full((len(points),), torch.nan)

    with pytest.raises(SteeringError, match=r"prompt 0 \('p0'\): the reward was no number for any of its"):
        on_toy(method, reward=broken)


@pytest.mark.parametrize("method", [Svdd(particles=2), Bfs(), Rollover()], ids=lambda method: type(method).__name__)
def test_copies_of_a_sampler_without_noise_are_refused(method):
    with pytest.raises(SteeringError, match=f"'{type(method).__name__}' copies particles, but sampler 'ode' has no noise"):
        on_toy(method, sampler=Ode())


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("svdd", {"candidates": 0}, "candidates: 0; expected 1"),
        ("svdd", {"alpha": -1.0}, "alpha: -1.0; expected 0"),
        ("svdd", {"intermediate": {"samples": 3}}, "intermediate: samples are drawn one for each chain"),
        ("svdd", {"schedule": {"ess": 0.5}}, "schedule: ess; chains are not resampled"),
        ("svdd", {"select": "bset"}, r"select: 'bset' is not known \(did you mean 'best'\?\)"),
        ("psp", {"prune": [[0.5, 0.5], [0.25, 0.25]]}, r"prune: \[0.25, 0.25\] after \[0.5, 0.5\]"),
        ("psp", {"prune": [[0.5, 0.5], [0.75, 0.75]]}, "not more than before"),
        ("psp", {"particles": 0}, "particles: 0; expected 1"),
        ("bfs", {"lam": {"es": 1}}, "lambda: {'es': 1}; expected a number"),
        ("rollover", {"forwards": 0}, "forwards: 0; expected 1"),
    ],
)
def test_arguments_are_refused_by_name(name, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        manager()[1].load("steering", name)(**arguments)


def test_a_budget_below_one_forward_a_step_is_refused():
    with pytest.raises(
        SteeringError, match="forwards: 10 is less than 4 first noises and one forward for each of the 7 steps after; expected at least 11"
    ):
        on_toy(Rollover(particles=4, forwards=10))


@pytest.mark.parametrize(
    "part",
    [
        "{use: svdd, particles: 2, candidates: 3, alpha: 0.1, schedule: {every: 0.25}, intermediate: {lookahead: 2}}",
        "{use: psp, particles: 8, prune: [[0.25, 0.5], [0.5, 0.25]]}",
        "{use: bfs, lambda: {ess: 0.3}, schedule: {every: 0}}",
        "{use: rollover, particles: 2, forwards: 30}",
        "{use: zero-order, rounds: 3, cosine: 0.9, patience: 2}",
        "{use: paths, copies: 3, first: 0.6, back: 0.5, gain: 0.1}",
        "{use: gibbs, sweeps: 2, lambda: 2.0, select: best}",
    ],
)
def test_recipes_name_them_and_each_steers(part):
    method = check(manager()[1], part).steering
    found = on_toy(method, prompts=2)
    assert found.x0[found.rows()].isfinite().all() and found.forwards > 0
    assert len(found.rollout(_cond(method.particles, 2)).x0) == found.chosen.numel()
