"""Contract tests for plugins: subclass one, give its fixtures, and pytest runs the rest. Needs pytest.

    import pytest
    from tropism.testing import RewardContract

    class TestRedness(RewardContract):
        @pytest.fixture
        def reward(self):
            return redness

        @pytest.fixture
        def given(self):
            return {"image": torch.rand(4, 3, 8, 8)}

What each test keeps is said by its name; the core relies on all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tropism.diffusion.branching import branch
from tropism.diffusion.noise import Draw
from tropism.diffusion.noising import noised
from tropism.diffusion.rollout import collect, finish, replay
from tropism.diffusion.samplers import DDIM, Sampler
from tropism.diffusion.schedules import PARAMETRIZATIONS
from tropism.judges import AllPairs
from tropism.optimizers.base import NEEDS, Batch, Optimizer, plan
from tropism.optimizers.denoising import mean_square, residual
from tropism.policies.adapters import Trainable
from tropism.policy import Guided, Policy
from tropism.rewards.base import Reward, needs, score
from tropism.toy import Near, ToyPolicy
from tropism.types import Condition, Item, Level, Rollout, Tree, tree_map

CPU = torch.device("cpu")


def condition(policy: Policy, items: list[Item], seed: int = 0, group: int = 1) -> Condition:
    """The condition of a batch whose samples have the seeds seed, seed + 1, ..."""
    count = len(items)
    encoded = policy.encode(items)
    return Condition(items=items, encoded=encoded, seed=torch.arange(seed, seed + count), group=torch.arange(count) // group)


def scored(policy: Policy, items: list[Item], sampler: Sampler, steps: int, advantage: torch.Tensor) -> Rollout:
    """A rollout with given advantages [B]."""
    rollout = collect(policy, condition(policy, items), sampler, steps)
    rollout.advantage = advantage
    return rollout


class PolicyContract:
    """Fixtures: ``policy``; ``items``, at least three of them and not all alike. ``sampler`` and ``steps`` may be overridden."""

    tolerance = 1e-4  # of one sample alone against the same sample in a batch, relative to the largest value

    @pytest.fixture
    def sampler(self) -> Sampler:
        return DDIM(eta=1.0)

    @pytest.fixture
    def steps(self) -> int:
        return 4

    def test_emits_names_what_decode_gives(self, policy: Policy, items: list[Item], sampler: Sampler, steps: int) -> None:
        media = policy.decode(collect(policy, condition(policy, items), sampler, steps).x0)
        assert set(media) == set(policy.emits)
        for kind, value in media.items():
            assert len(value) == len(items), f"{kind}: {len(value)} rows for {len(items)} samples"
            assert value.isfinite().all()
        if "image" in media:
            assert media["image"].ndim == 4 and media["image"].min() >= 0 and media["image"].max() <= 1

    def test_media_are_embedded_one_by_one_in_the_shape_of_samples(
        self, policy: Policy, items: list[Item], sampler: Sampler, steps: int
    ) -> None:
        if not hasattr(policy, "embed"):
            pytest.skip("a policy without embed, which offline runs refuse")
        x0 = collect(policy, condition(policy, items), sampler, steps).x0
        media = policy.decode(x0)
        found = policy.embed(media)
        assert found.shape == x0.shape and found.dtype == torch.float32 and found.isfinite().all() and not found.requires_grad
        alone = policy.embed({kind: value[-1:] for kind, value in media.items()})
        assert _gap(found[-1:], alone) <= self.tolerance

    def test_encode_gives_one_row_per_item_without_gradient(self, policy: Policy, items: list[Item]) -> None:
        whole, last = policy.encode(items), policy.encode(items[-1:])
        for (path, many), (_, one) in zip(_leaves(whole), _leaves(last), strict=True):
            assert len(many) == len(items) and len(one) == 1, path
            assert not many.requires_grad, path
            assert _gap(many[-1:], one) <= self.tolerance, f"{path}: the condition of an item depends on its neighbours"

    def test_noise_belongs_to_samples(self, policy: Policy, items: list[Item]) -> None:
        item = items[0]
        first = policy.schedule.levels(4)[0]
        together = policy.noise(Draw([3, 4, 5], CPU), first, policy.encode([item] * 3))
        alone = policy.noise(Draw([5], CPU), first, policy.encode([item]))
        assert together.dtype == torch.float32 and together.isfinite().all()
        assert torch.equal(together[2:], alone)
        assert not torch.equal(together[0], together[1])

    def test_predict_is_pure_and_keeps_the_shape_in_float32(self, policy: Policy, items: list[Item], sampler: Sampler, steps: int) -> None:
        x, level, cond = _state(policy, items, sampler, steps)
        kept = x.clone(), tree_map(torch.clone, cond)
        with torch.no_grad():
            first, second = policy.predict(x, level, cond), policy.predict(x, level, cond)
        assert first.shape == x.shape and first.dtype == torch.float32
        assert torch.equal(first, second)
        assert torch.equal(x, kept[0])
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(_leaves(cond), _leaves(kept[1]), strict=True))

    def test_prediction_of_a_sample_does_not_depend_on_its_neighbours(
        self, policy: Policy, items: list[Item], sampler: Sampler, steps: int
    ) -> None:
        x, level, cond = _state(policy, items, sampler, steps)
        with torch.no_grad():
            whole = policy.predict(x, level, cond)
            alone = policy.predict(x[-1:], level[-1:], tree_map(lambda t: t[-1:], cond))
        assert _gap(whole[-1:], alone) <= self.tolerance

    def test_unguided_keeps_the_shape_and_can_learn(self, policy: Policy, items: list[Item], sampler: Sampler, steps: int) -> None:
        if not isinstance(policy, Guided):
            pytest.skip("a policy without unguided, whose predictions are those that methods learn from")
        x, level, cond = _state(policy, items, sampler, steps)
        found = policy.unguided(x, level, cond).detach()
        assert found.shape == x.shape and found.dtype == torch.float32 and found.isfinite().all()
        _assert_learns(policy, lambda: policy.unguided(x, level, cond).square().mean())

    def test_replayed_log_probability_equals_the_stored_one(self, policy: Policy, items: list[Item], sampler: Sampler, steps: int) -> None:
        rollout = collect(policy, condition(policy, items), sampler, steps)
        assert rollout.steps.x.dtype == rollout.steps.logp.dtype == torch.float32
        assert rollout.steps.on.any()
        with torch.no_grad():
            for index in rollout.steps.on.nonzero().flatten().tolist():
                again = replay(policy, sampler, rollout, torch.arange(len(items)), torch.full((len(items),), index))
                assert torch.equal(again, rollout.steps.logp[:, index]), f"step {index}"

    def test_gradient_of_the_log_probability_reaches_the_network(
        self, policy: Policy, items: list[Item], sampler: Sampler, steps: int
    ) -> None:
        rows = torch.arange(len(items))
        rollout = collect(policy, condition(policy, items), sampler, steps)
        _assert_learns(policy, lambda: replay(policy, sampler, rollout, rows, torch.zeros_like(rows)).sum())

    def test_levels_lie_on_the_path_of_a_diffusion_or_of_a_flow(self, policy: Policy, sampler: Sampler, steps: int) -> None:
        levels = sampler.levels(policy.schedule, steps)
        assert policy.schedule.parametrization in PARAMETRIZATIONS
        assert len(levels) == steps + 1
        assert (levels.sigma.diff() < 0).all(), "noise must fall from step to step"
        kept = levels.alpha + levels.sigma if policy.schedule.parametrization == "flow" else levels.alpha**2 + levels.sigma**2
        torch.testing.assert_close(kept, torch.ones(steps + 1))


class RewardContract:
    """Fixtures: ``reward``; ``given``, the fields of at least two samples by name. ``per_sample`` is False for a reward of a whole set."""

    per_sample = True
    tolerance = 1e-5

    def test_needs_are_among_the_fields_given(self, reward: Reward, given: dict[str, Any]) -> None:
        assert needs(reward), "a reward names as arguments what it looks at"
        assert set(needs(reward)) <= set(given)

    def test_scores_are_finite_one_for_each_sample(self, reward: Reward, given: dict[str, Any]) -> None:
        values = score("reward", reward, given, _seeds(given))
        assert values.shape == (len(_seeds(given)),) and values.dtype == torch.float32 and values.device == CPU

    def test_scores_are_repeatable_and_leave_the_samples_alone(self, reward: Reward, given: dict[str, Any]) -> None:
        kept = copy.deepcopy(given)
        first, second = (score("reward", reward, given, _seeds(given)) for _ in range(2))
        assert torch.equal(first, second)
        for name, value in kept.items():
            assert torch.equal(value, given[name]) if isinstance(value, torch.Tensor) else value == given[name], f"{name} was changed"

    def test_scores_do_not_depend_on_neighbours_or_order(self, reward: Reward, given: dict[str, Any]) -> None:
        if not self.per_sample:
            pytest.skip("a reward of the whole set")
        count = len(_seeds(given))
        whole = score("reward", reward, given, list(range(count)))
        turned = score(
            "reward", reward, {name: _pick(value, list(reversed(range(count)))) for name, value in given.items()}, list(range(count))
        )
        alone = torch.cat(
            [score("reward", reward, {name: _pick(value, [row]) for name, value in given.items()}, [row]) for row in range(count)]
        )
        assert _gap(turned.flip(0), whole) <= self.tolerance
        assert _gap(alone, whole) <= self.tolerance

    def test_scores_tell_samples_apart(self, reward: Reward, given: dict[str, Any]) -> None:
        assert score("reward", reward, given, _seeds(given)).unique().numel() > 1, "give samples that differ; equal scores teach nothing"


class OptimizerContract:
    """Fixture: ``optimizer``. Runs it on the toy policy, whose answers are exact."""

    samples, steps = 8, 5

    @pytest.fixture
    def policy(self, optimizer: Optimizer) -> ToyPolicy:
        made = ToyPolicy()
        optimizer.attach(Trainable(made.trainable(), None))
        return made

    @pytest.fixture
    def rollout(self, optimizer: Optimizer, policy: ToyPolicy) -> Rollout:
        cond = condition(policy, [{"prompt": "p"}] * self.samples, group=self.samples)
        if "branches" in optimizer.needs:
            made = branch(policy, cond, DDIM(1.0), self.steps, kept=optimizer.kept(self.steps))
        else:
            made = collect(policy, cond, DDIM(1.0), self.steps, means=optimizer.means)
        made.reward = made.advantage = torch.linspace(-1, 1, self.samples).repeat(len(made) // self.samples)
        made.couples = AllPairs().couples(made)
        return made

    def test_needs_are_ones_that_the_core_can_give(self, optimizer: Optimizer) -> None:
        assert optimizer.needs <= NEEDS
        assert optimizer.needs & {"steps", "samples", "endings", "pairs", "labels"}

    def test_loss_is_a_finite_scalar_and_its_metrics_have_no_gradient(
        self, optimizer: Optimizer, policy: ToyPolicy, rollout: Rollout
    ) -> None:
        for batch in _plan(optimizer, rollout, 1000):
            loss, metrics = optimizer.loss(policy, batch)
            assert loss.shape == () and loss.isfinite() and loss.requires_grad
            assert all(isinstance(value, torch.Tensor) and value.numel() == 1 and not value.requires_grad for value in metrics.values())

    def test_gradient_is_the_same_however_an_update_is_cut(self, optimizer: Optimizer, policy: ToyPolicy, rollout: Rollout) -> None:
        whole = _gradient(optimizer, policy, rollout, 1000)
        assert whole.abs().max() > 0
        for micro in (self.samples, 3, 1):
            assert _gap(_gradient(optimizer, policy, rollout, micro), whole) <= 1e-4

    def test_zero_advantage_teaches_nothing(self, optimizer: Optimizer, policy: ToyPolicy, rollout: Rollout) -> None:
        if "advantage" not in optimizer.needs or "endings" in optimizer.needs:
            pytest.skip("learns without advantages")
        rollout.advantage = torch.zeros(self.samples)
        assert _plan(optimizer, rollout, self.samples) == [], "samples without advantage are left out"
        rollout.advantage = None
        batches = _plan(optimizer, rollout, self.samples)
        rollout.advantage = torch.zeros(self.samples)
        gradients = [_summed(optimizer, policy, [batch]) for batch in batches]
        assert len(gradients) > 0 and all(gradient.abs().max() < 1e-6 for gradient in gradients)

    def test_a_small_step_favours_good_samples_over_bad_ones(self, optimizer: Optimizer, policy: ToyPolicy, rollout: Rollout) -> None:
        before = _liking(optimizer, policy, rollout)
        gradient = _gradient(optimizer, policy, rollout, self.samples)
        with torch.no_grad():
            vector = torch.nn.utils.parameters_to_vector(policy.trainable().parameters())
            torch.nn.utils.vector_to_parameters(vector - 1e-3 * gradient, policy.trainable().parameters())
        assert _liking(optimizer, policy, rollout) > before

    def test_its_state_goes_round(self, optimizer: Optimizer, policy: ToyPolicy, rollout: Rollout) -> None:
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(state)
        first = _gradient(optimizer, policy, rollout, self.samples)
        optimizer.load_state_dict(state)
        assert torch.equal(_gradient(optimizer, policy, rollout, self.samples), first)


def _state(policy: Policy, items: list[Item], sampler: Sampler, steps: int) -> tuple[torch.Tensor, Level, Tree]:
    cond = policy.encode(items)
    first = sampler.levels(policy.schedule, steps)[0]
    return policy.noise(Draw(range(len(items)), CPU), first, cond), first.expand(len(items)), cond


def _assert_learns(policy: Policy, told: Callable[[], torch.Tensor]) -> None:
    """The gradient of what ``told`` gives reaches the network and is finite; afterwards the network is as before."""
    network = policy.trainable()
    frozen = [p for p in network.parameters() if not p.requires_grad]
    network.requires_grad_(True)
    try:
        value = told()
        assert value.requires_grad, "no gradient reaches the network, so it cannot learn from this"
        value.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert any(g.abs().max() > 0 for g in gradients) and all(g.isfinite().all() for g in gradients)
    finally:
        network.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)


def _leaves(tree: Tree, path: str = "") -> list[tuple[str, torch.Tensor]]:
    found: list[tuple[str, torch.Tensor]] = []
    for key, value in tree.items():
        found.extend(_leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)])
    return found


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-12)).item()


def _seeds(given: dict[str, Any]) -> list[int]:
    return list(range(len(next(iter(given.values())))))


def _pick(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, torch.Tensor) else [value[row] for row in rows]


def _near(made: Rollout) -> torch.Tensor:
    return Near()(made.media["points"])


def _plan(optimizer: Optimizer, rollout: Rollout, micro: int) -> list[Batch]:
    return plan(optimizer, rollout, DDIM(1.0), 1, micro, 0, _near)[0]


def _gradient(optimizer: Optimizer, policy: Policy, rollout: Rollout, micro: int) -> torch.Tensor:
    return _summed(optimizer, policy, _plan(optimizer, rollout, micro))


def _summed(optimizer: Optimizer, policy: Policy, batches: list[Batch]) -> torch.Tensor:
    network = policy.trainable()
    network.zero_grad(set_to_none=True)
    for batch in batches:
        (optimizer.loss(policy, batch)[0] * batch.share).backward()
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in network.parameters()])
    network.zero_grad(set_to_none=True)
    return found


@torch.no_grad()
def _liking(optimizer: Optimizer, policy: Policy, rollout: Rollout) -> float:
    """What the method should raise: how much likelier good samples are than bad ones, or the reward itself."""
    rows, favour = torch.arange(len(rollout)), rollout.advantage
    if not optimizer.needs & {"advantage", "pairs", "labels"} or favour is None:
        return _near(replace(rollout, media=policy.decode(finish(policy, DDIM(1.0), rollout, rows, 1)))).sum().item()
    if "steps" not in optimizer.needs:
        total = torch.zeros(len(rollout))
        for number in range(optimizer.draws):
            at = noised(policy, rollout.x0, rollout.cond.seed.tolist(), torch.full_like(rows, number), optimizer.draws, 0)
            if "labels" in optimizer.needs:  # which know good from bad only, by the error that the network was trained on
                total -= mean_square(residual(policy, at, rollout.cond.encoded))
            else:
                total -= (at.predicted(policy, rollout.cond.encoded)[0] - at.x0).square().sum(1)
        return (total * (favour.sign() if "labels" in optimizer.needs else favour)).sum().item()
    trained = rollout.steps.on.nonzero().flatten().tolist()
    logp = torch.stack([replay(policy, DDIM(1.0), rollout, rows, torch.full_like(rows, index)) for index in trained]).sum(0)
    return (logp * favour).sum().item()
