"""Searches over noise: only uphill, on the sphere, for deterministic samplers too."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.steering.problems import LINEAR, mixture, text
from tests.steering.toys import on_toy
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import DDIM
from tropism.errors import SteeringError
from tropism.plugins import manager
from tropism.report.genealogy import picture
from tropism.steering.best_of_n import BestOfN
from tropism.steering.paths import Paths
from tropism.steering.zero_order import Around, ZeroOrder, neighbour
from tropism.toy_chains import task
from tropism.turning.folder import told


def test_a_neighbour_is_as_long_and_as_near_as_told():
    generator = torch.Generator().manual_seed(0)
    x, fresh = torch.randn(5, 3, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    near = neighbour(x, fresh, 0.95)
    flat, moved = x.flatten(1), near.flatten(1)
    assert torch.allclose(moved.norm(dim=1), flat.norm(dim=1), rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(moved, flat), torch.full((5,), 0.95), atol=1e-5)
    assert torch.equal(neighbour(x, fresh, 0.95), near)


def test_streams_around_a_pivot_move_only_the_rows_that_stay_near():
    pivot = [torch.ones(2, 6)]
    around = Around(Draw([1, 2], torch.device("cpu")), 0.9, pivot, torch.tensor([True, False]))
    drawn, fresh = around((6,)), Draw([1, 2], torch.device("cpu"))((6,))
    assert torch.equal(drawn[1], fresh[1])
    assert float(torch.cosine_similarity(drawn[:1], pivot[0][:1])) == pytest.approx(0.9, abs=1e-5)
    assert torch.equal(around.numbers[0], drawn)


@pytest.mark.parametrize("sampler", [Ode(), DDIM()], ids=["ode", "ddim"])
def test_one_round_is_best_of_n(sampler):
    found, base = on_toy(ZeroOrder(particles=5, rounds=1), sampler=sampler), on_toy(BestOfN(particles=5), sampler=sampler)
    assert torch.equal(found.x0, base.x0) and torch.equal(found.chosen, base.chosen) and found.forwards == base.forwards


@pytest.mark.parametrize("patience", [0, 1])
def test_the_best_only_rises_and_costs_are_counted(patience):
    runs = [on_toy(ZeroOrder(particles=4, rounds=rounds, patience=patience), sampler=Ode(), prompts=6) for rounds in (1, 2, 4, 8)]
    best = [run.reward.amax(1) for run in runs]
    assert all((later >= earlier).all() for earlier, later in zip(best, best[1:], strict=False))
    assert (best[-1] > best[0]).any()
    assert [run.forwards for run in runs] == [6 * 4 * 8 * rounds for rounds in (1, 2, 4, 8)] and runs[-1].calls == 6 * 4 * 8
    last = runs[-1]
    every = torch.cat([point.reward[:, -4:] for point in last.points[:-1]], 1)
    assert (
        every.shape == (6, 32)
        and torch.equal(last.reward.amax(1), every.amax(1))
        and torch.equal(last.reward.amax(1), last.reward.gather(1, last.chosen)[:, 0])
    )


@pytest.fixture
def rounds(monkeypatch):
    """The streams of each round of a search, as they are made."""
    made: list[Around] = []

    class Noted(Around):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("tropism.steering.zero_order.Around", Noted)
    return made


@pytest.mark.parametrize("patience", [0, 1])
def test_each_round_is_around_the_best_noise_since_the_last_restart(rounds, patience):
    found = on_toy(ZeroOrder(particles=3, rounds=7, patience=patience), sampler=Ode(), prompts=5)
    rewards = [point.reward[:, -3:] for point in found.points[:-1]]
    for prompt in range(5):
        best, failures, place = -torch.inf, 0, None
        for number, (drawn, reward) in enumerate(zip(rounds, rewards, strict=False)):
            near = number > 0 and (patience == 0 or failures < patience)
            mine = drawn.numbers[0][3 * prompt : 3 * prompt + 3]
            if near:
                assert torch.allclose(torch.cosine_similarity(mine, place[None]), torch.full((3,), 0.95), atol=1e-4)
                assert torch.equal(drawn.pivot[0][3 * prompt], place) and bool(drawn.near[3 * prompt])
            else:
                assert number == 0 or not bool(drawn.near[3 * prompt])
            top = float(reward[prompt].max())
            if not near or top > best:
                best, failures, place = top, 0, mine[reward[prompt].argmax()]
            else:
                failures += 1


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_tree_leads_from_every_sample_to_the_noises_that_it_was_made_around(rounds, patience):
    """Each round has, of a prompt: three kept samples, the pivot, three new ones; the first has the new ones alone."""
    found = on_toy(ZeroOrder(particles=3, rounds=9, patience=patience), sampler=Ode(), prompts=5)
    assert len(rounds) == 9 and [point.reward.shape[1] for point in found.points] == [3, *[7] * 8, 3]
    restarts = 0
    for prompt, row in enumerate(told(found, 3, [""] * 5)):
        steps, noises = [moment.ancestors for moment in row.moments], itertools.count(3)

        def made(round_: int, lane: int, steps: list[list[int]] = steps) -> tuple[int, int]:
            """The round in which what is in a lane was made, and which of its three it was."""
            while round_ and lane < 4:
                round_, lane = round_ - 1, steps[round_ - 1][lane]
            return round_, lane - 4 if round_ else lane

        first = {(0, number): number for number in range(3)}  # the number of the first noise by round and place
        for number in range(1, 9):
            for place, parent in enumerate(steps[number - 1][4:]):
                near = rounds[number].near is not None and bool(rounds[number].near[3 * prompt])
                assert (parent >= 0) == near
                if near:
                    whence = made(number - 1, parent)
                    pivot = rounds[whence[0]].numbers[0][3 * prompt + whence[1]]
                    assert torch.equal(pivot, rounds[number].pivot[0][3 * prompt + place])
                first[number, place] = first[whence] if near else next(noises)
        restarts += row.noises > 3
        assert row.noises == 3 + sum(parent < 0 for moment in steps for parent in moment) == next(noises)
        kept = [made(8, lane) for lane in steps[8]]
        assert row.root == [first[one] for one in kept] and len(set(kept)) == 3
        assert row.reward == [row.moments[number].reward[place - 3] for number, place in kept]
        drawn = picture(row, steps=8)
        ends = [dot for dot in drawn.dots if dot.tip.startswith("particle")]
        assert [dot.color for dot in ends] == [root % 6 for root in row.root] and len(drawn.dots) == row.noises
        assert [text for _, text in drawn.ticks] == ["start", "2", "4", "6", "8", "end"]
        assert drawn.summary == f"{row.noises} first noises, of which {len(set(row.root))} live on", "a search has no effective size"
        coming = {tuple(link.path.split()[-2:]): link.color for link in drawn.links}
        for dot in ends:
            assert coming[str(dot.x), str(dot.y)] == dot.color, "the line that ends in a sample has the colour of its first noise"
    assert (restarts > 0) == (patience > 0)


def test_the_best_of_all_rounds_are_kept_with_their_samples():
    found = on_toy(ZeroOrder(particles=3, rounds=5), sampler=Ode(), prompts=2)
    assert torch.allclose(-(found.x0 - torch.tensor([2.0, 0.0])).norm(dim=1).double(), found.reward.flatten(), atol=1e-5)
    assert torch.equal(found.x0, found.media["points"]) and torch.equal(found.scores["near"].flatten(), found.reward.flatten().float())


def test_without_restarts_all_but_the_first_round_is_near_one_noise():
    never = on_toy(ZeroOrder(particles=4, rounds=8, patience=0), sampler=Ode(), prompts=6)
    assert (never.root < 4).all()
    restarts = on_toy(ZeroOrder(particles=4, rounds=8, patience=1), sampler=Ode(), prompts=6)
    assert (restarts.root >= 4).any()


def test_a_world_without_first_noise_is_refused():
    with pytest.raises(SteeringError, match="this process starts from no noise"):
        ZeroOrder().run(task(text(), text().reward, 1, 4))


@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
@pytest.mark.parametrize("index", [3, 6])
def test_noising_again_gives_the_law_of_the_level(parametrization, index):
    from dataclasses import replace

    from tropism.sampling import condition
    from tropism.steering.denoising import Denoising
    from tropism.toy import ToyPolicy

    policy = ToyPolicy(parametrization=parametrization)
    items = [{"prompt": "p"}] * 4000
    process = Denoising(policy, Ode(), 8, replace(condition(items, 0, 0, 1), encoded=policy.encode(items)))
    x0, eps, z = torch.randn(3, 4000, 2, generator=torch.Generator().manual_seed(3)).unbind()
    now, then = process.levels[index], process.levels[1]
    moved = process.renoise({"x": now.alpha * x0 + now.sigma * eps, "row": torch.arange(4000)}, index, 1, {"normal": z})["x"]
    kept = float((moved * x0).mean() / x0.square().mean())
    assert kept == pytest.approx(float(then.alpha), abs=4 / 8000**0.5)
    assert float((moved - then.alpha * x0).std()) == pytest.approx(float(then.sigma), rel=0.05)


def test_paths_count_their_forwards_and_find_more_than_as_many_samples():
    """Eight steps: 4, then twice back by 2 and on by 4, with one look more after the first."""
    found = on_toy(Paths(particles=2, copies=3), sampler=Ode(), prompts=30)
    assert found.forwards == 30 * (2 * 4 + 6 * 4 + 6 + 6 * 4)
    assert found.reward.shape == (30, 2) and found.root.amax() <= 1
    assert [point.index for point in found.points] == [6, 8, 8]
    assert torch.allclose(found.points[-2].reward.amax(1), found.reward.amax(1))
    assert found.reward.amax(1).mean() > on_toy(BestOfN(particles=2), sampler=Ode(), prompts=30).reward.amax(1).mean()


def test_paths_of_a_process_that_cannot_be_noised_again_are_refused():
    with pytest.raises(SteeringError, match="'paths' noises states again, which this process has no law for"):
        Paths().run(task(mixture(4), LINEAR, 1, 2))


@pytest.mark.parametrize("method", [ZeroOrder(particles=3, rounds=3), Paths()], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("sampler", [Ode(), FlowSde()], ids=["ode", "flow-sde"])
def test_a_prompt_is_searched_as_it_would_be_alone(method, sampler):
    together = on_toy(method, prompts=3, sampler=sampler, parametrization="flow")
    assert torch.equal(together.x0, torch.cat([on_toy(method, 1, sampler, parametrization="flow", first=number).x0 for number in range(3)]))


def test_rewards_that_are_no_numbers_never_win():
    def half(points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[:, 0] > 0, points[:, 1], torch.where(points[:, 1] > 0, torch.nan, torch.inf))

    for method in (ZeroOrder(particles=4, rounds=3), Paths(particles=2, copies=4)):
        found = on_toy(method, sampler=Ode(), prompts=8, reward=half)
        assert found.unscored > 0 and found.reward.gather(1, found.chosen).isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("zero-order", {"rounds": 0}, "rounds: 0; expected 1"),
        ("zero-order", {"cosine": 1.0}, "cosine: 1.0; expected 0"),
        ("zero-order", {"patience": -1}, "patience: -1; expected rounds"),
        ("paths", {"copies": 0}, "copies: 0; expected 1"),
        ("paths", {"gain": 0.0}, "gain: 0.0; expected a part of the steps"),
        ("paths", {"first": 0.25, "back": 0.5}, "back: 0.5 is more than first: 0.25"),
    ],
)
def test_arguments_are_refused_by_name(name, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        manager()[1].load("steering", name)(**arguments)
