"""Several processes compute what one computes: the same samples to the bit, the same updates but for the rounding of sums.

The processes are forks of this one, with the places that ``tropism run --nproc`` and ``torchrun`` give them.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tropism import api, checkpoint, plugins
from tropism.errors import ElsewhereError, ProcessError, RecipeError, RewardError
from tropism.loop import Run
from tropism.progress import Progress
from tropism.recipe import parse
from tropism.rollouts import Rollouts
from tropism.scale import launch
from tropism.scale.processes import Processes
from tropism.scale.spread import merged, own_batches, own_samples, refuse_uneven

RECIPE = """\
name: test/several
policy: {use: toy/mixture}
data: {use: prompts, train: [a, b, c, d, e]}
adapter: {kind: full, ema: 0.9}
rollout: {sampler: {use: ddim, eta: 1.0}, steps: 4, samples: 32, batch: 4, group: 2}
rewards: [{use: toy/near, normalise: running}]
credit: {use: per-prompt, buffer: 8, min_count: 4}
optimizer: {use: policy-gradient, clip: 1e-2}
train: {iterations: 6, lr: 1e-3, updates: 2, passes: 2}
evaluate: {every: 3, prompts: 3, per_prompt: 3, show: 3, evaluators: [{use: base-distance}]}
save: {every: 2, keep: 9}
"""
QUIET = Console(file=io.StringIO())


def together(function: Callable[[], Any], size: int = 2) -> list[tuple[str, Any]]:
    """What ``function`` returned ('ok', value) or raised (its class, its text) in each of ``size`` processes."""
    context = multiprocessing.get_context("fork")
    results, port = context.Queue(), str(launch._free_port())

    def one(rank: int) -> None:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        try:
            results.put((rank, "ok", function()))
        except BaseException as error:
            results.put((rank, type(error).__name__, str(error)))

    children = [context.Process(target=one, args=(rank,)) for rank in range(size)]
    for child in children:
        child.start()
    found = {}
    try:
        for _ in children:
            rank, how, what = results.get(timeout=120)
            found[rank] = (how, what)
    except queue.Empty:
        pytest.fail(f"only {found} answered")
    finally:
        for child in children:
            child.join(5)
            child.kill()
    return [found[rank] for rank in range(size)]


def values(found: list[tuple[str, Any]]) -> list[Any]:
    assert all(how == "ok" for how, _ in found), found
    return [value for _, value in found]


def state(folder: Path, step: int = 6) -> dict[str, Any]:
    return checkpoint.load(checkpoint.step_folder(folder / "checkpoints", step))


def weights(folder: Path, step: int = 6) -> torch.Tensor:
    return torch.cat([value.flatten() for part in state(folder, step)["trainable"].values() for value in part.values()])


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len({(row["step"], row["name"]) for row in rows}) == len(rows), "a value was written twice"
    return {(row["step"], row["name"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(RECIPE)
    return str(file)


def run(recipe: str, folder: Path, *overrides: str) -> str:
    return api.run(recipe, overrides, folder=folder, console=QUIET)[1]


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    assert run(recipe, folder) == "finished"
    return folder


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "run"
    assert values(together(lambda: run(recipe, folder))) == ["finished", "finished"]
    return folder


# --- a run --------------------------------------------------------------------------------------------------------------------


def test_two_processes_make_the_samples_of_one_to_the_bit(recipe, tmp_path):
    def collected() -> tuple[list[int], list[int], Any]:
        processes = Processes.join()
        made = parse(Path(recipe).read_text(), "recipe")
        job = Run(made, tmp_path, plugins.silent(), plugins.installed()[1], Progress(Console(quiet=True)), processes)
        job.step = 3
        rollout = job.source.collect()
        processes.leave()
        return job.source.mine, rollout.cond.group.tolist(), (rollout.x0.tolist(), rollout.steps.x.tolist(), rollout.steps.logp.tolist())

    _, groups, (x0, states, logp) = collected()
    shares = values(together(collected))
    assert [len(mine) for mine, _, _ in shares] == [16, 16]
    assert sorted(shares[0][0] + shares[1][0]) == list(range(32))
    assert not set(shares[0][1]) & set(shares[1][1]), "a group is split"
    for mine, of_group, tensors in shares:
        assert of_group == [groups[row] for row in mine]
        for found, whole in zip(tensors, (x0, states, logp), strict=True):
            assert found == [whole[row] for row in mine]


def test_two_processes_learn_what_one_learns(one, two):
    assert torch.equal(weights(one, 2), weights(one, 2)) and not torch.equal(weights(one, 2), weights(one, 6))
    for step in (2, 4, 6):
        assert (weights(one, step) - weights(two, step)).abs().max() < 1e-5
    first, second = metrics(one), metrics(two)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, abs=2e-5, rel=1e-4), key
    assert first[1, "reward/toy/near"] == second[1, "reward/toy/near"]
    assert second[1, "train/first_ratio_error"] == 0
    mine, other = state(one), state(two)
    assert other["combined"]["toy/near"] == pytest.approx(mine["combined"]["toy/near"], rel=1e-5), "statistics of all samples"
    assert {prompt: len(seen) for prompt, seen in other["credit"].items()} == {prompt: len(seen) for prompt, seen in mine["credit"].items()}


def test_an_evaluation_is_spread_and_comes_together_in_order(one, two):
    for step in (0, 6):
        first, second = (json.loads((folder / f"samples/step-{step:08d}/index.json").read_text()) for folder in (one, two))
        assert len(first["tiles"]) == 9, "three batches of four, four and one: an uneven number for two"
        assert [(tile["prompt"], tile["seed"]) for tile in first["tiles"]] == [(tile["prompt"], tile["seed"]) for tile in second["tiles"]]
        for mine, other in zip(first["tiles"], second["tiles"], strict=True):
            assert mine["scores"]["toy/near"] == pytest.approx(other["scores"]["toy/near"], abs=1e-5 if step else 0)


def test_only_the_main_process_writes(one, two):
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) for folder in (one, two)]
    assert names[0] == names[1]
    log = (two / "log.txt").read_text()
    assert log.count("evaluation at 6") == 1 and "2 processes" in log


def test_interrupted_in_one_process_all_stop_at_one_iteration_and_go_on_exactly(two, recipe, tmp_path):
    folder = tmp_path / "run"

    def stopped() -> str:
        update = Run.update

        def interrupting(self: Run, rollout: Any) -> dict[str, float]:
            if self.step == 2 and self.processes.rank == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return update(self, rollout)

        Run.update = interrupting
        return run(recipe, folder)

    assert values(together(stopped)) == ["interrupted", "interrupted"]
    assert checkpoint.latest(folder / "checkpoints").name == "step-00000003"
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert values(together(lambda: api.resume(folder, console=QUIET))) == ["finished", "finished"]
    assert torch.equal(weights(two), weights(folder))
    assert metrics(two) == metrics(folder)
    for name in ("optimizer", "random", "credit", "combined", "evaluations"):
        assert str(state(folder)[name]) == str(state(two)[name])


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_a_run_may_go_on_in_another_number_of_processes(one, recipe, tmp_path, sizes):
    folder = tmp_path / "run"

    def started() -> str:
        return run(recipe, folder, "train.iterations=3")

    def resumed() -> str:
        return api.resume(folder, 6, console=QUIET)

    for size, work in zip(sizes, (started, resumed), strict=True):
        assert ([work()] if size == 1 else values(together(work))) == ["finished"] * size
    assert (weights(one) - weights(folder)).abs().max() < 1e-5


def test_a_number_of_processes_that_does_not_fit_is_refused_at_the_start_and_on_resume(one, recipe, tmp_path):
    for found in (together(lambda: run(recipe, tmp_path / "run"), 3), together(lambda: api.resume(one, 9, console=QUIET), 3)):
        assert [how for how, _ in found] == ["RecipeError", "ElsewhereError", "ElsewhereError"]
        assert "rollout.samples=32 does not divide over 3 processes" in found[0][1]
    assert not (tmp_path / "run").exists()
    assert "iterations: 6" in (one / "recipe.yaml").read_text(), "refused before its end was moved"


def test_a_reward_that_fails_in_one_process_ends_all_with_its_message_and_a_checkpoint(recipe, tmp_path):
    folder = tmp_path / "run"

    def failing() -> str:
        score = Rollouts.score

        def broken(self: Rollouts, rollout: Any) -> Any:
            if self.run.step == 3 and self.run.processes.rank == 1:
                (part,) = self.run.combined.parts
                part.reward = lambda points: [float("nan")] * len(points)
            return score(self, rollout)

        Rollouts.score = broken
        return run(recipe, folder)

    main, other = together(failing)
    assert main[0] == "ProcessError" and other[0] == "ElsewhereError"
    assert "iteration 4: process 1: reward 'toy/near' returned [nan, nan, nan] for 4 of 4 samples; seeds [" in main[1]
    assert checkpoint.latest(folder / "checkpoints").name == "step-00000003"
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"


def test_a_process_that_dies_ends_the_others_with_a_message(recipe, tmp_path):
    def dying() -> str:
        collect = Rollouts.collect

        def broken(self: Rollouts) -> Any:
            if self.run.step == 1 and self.run.processes.rank == 1:
                raise MemoryError("no more")
            return collect(self)

        Rollouts.collect = broken
        return run(recipe, tmp_path / "run")

    main, other = together(dying)
    assert other == ("MemoryError", "no more")
    assert main[0] == "ProcessError" and "another process of this run has ended or does not answer" in main[1]


# --- what they tell each other ------------------------------------------------------------------------------------------------


def test_values_and_rows_come_by_rank():
    def told() -> Any:
        processes = Processes.join()
        rank = processes.rank
        rows = torch.arange(rank + 1) + 10 * rank
        return (
            processes.every({"rank": rank, "text": "ü" * rank, "none": None}),
            [processes.any(False), processes.any(rank == 2)],
            processes.rows(rows, [1, 2, 3]).tolist(),
            processes.rows(rows, [1, 2, 3], everywhere=False).tolist(),
            processes.from_main(lambda: f"made by {rank}"),
        )

    every = [{"rank": rank, "text": "ü" * rank, "none": None} for rank in range(3)]
    whole = [0, 10, 11, 20, 21, 22]
    for rank, found in enumerate(values(together(told, 3))):
        assert found == (every, [False, True], whole, whole if rank == 0 else [10 * rank + i for i in range(rank + 1)], "made by 0")


def test_gradients_meet_as_their_mean_and_weights_become_those_of_the_main_process():
    def met() -> Any:
        processes = Processes.join()
        both, late, never = (torch.nn.Parameter(torch.full((2,), float(processes.rank))) for _ in range(3))
        processes.equalise([both, late])
        both.grad = torch.tensor([1.0, 3.0]) * (processes.rank + 1)
        if processes.rank:
            late.grad = torch.tensor([4.0, 0.0])
        processes.average_gradients([both, late, never])
        return [both.tolist(), never.tolist(), both.grad.tolist(), late.grad.tolist(), never.grad]

    first, second = values(together(met))
    assert first == [[0, 0], [0, 0], [1.5, 4.5], [2, 0], None]
    assert second == [[0, 0], [1, 1], [1.5, 4.5], [2, 0], None]


def test_where_the_main_process_fails_all_fail():
    def failing() -> Any:
        def make() -> None:
            raise RecipeError("no such thing")

        return Processes.join().from_main(make)

    assert together(failing) == [("RecipeError", "no such thing"), ("ElsewhereError", "RecipeError: no such thing")]


def test_alone_everything_is_trivial():
    alone, tensor = Processes.join(), torch.ones(3)
    assert alone == Processes(0, 1, 0) and alone.main
    assert alone.rows(tensor, [3]) is tensor and alone.every(7) == [7] and alone.from_main(lambda: 5) == 5
    alone.agree(None)
    with pytest.raises(RewardError, match="mine"):
        alone.agree(RewardError("mine"))
    assert alone.device("cuda") == "cuda"


def test_each_process_has_a_gpu_of_its_own_or_is_told_how_many_there_are(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert Processes(1, 4, 1).device("cuda") == "cuda:1" and taken == [1]
    assert Processes(1, 4, 1).device("cpu") == "cpu"
    with pytest.raises(ProcessError, match="asks for GPU 2, but there are 2 here"):
        Processes(2, 4, 2).device("cuda")


def test_a_world_that_cannot_be_joined_is_explained(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProcessError, match=r"WORLD_SIZE is 2, but this process cannot join .* start with 'tropism run --nproc'"):
        Processes.join()


def test_what_another_process_tells_is_a_fault_of_its_own_kind():
    assert not issubclass(ElsewhereError, RecipeError)


# --- arithmetic ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "updates", "size"), [(32, 2, 2), (24, 1, 3), (64, 4, 4), (8, 2, 1)])
def test_every_update_takes_the_same_samples_however_many_processes_there_are(samples, updates, size):
    shares = [own_samples(samples, updates, rank, size) for rank in range(size)]
    part = samples // size // updates
    for update in range(updates):
        together = sorted(row for share in shares for row in share[update * part : (update + 1) * part])
        assert together == list(range(update * samples // updates, (update + 1) * samples // updates))


@pytest.mark.parametrize(("count", "batch", "size"), [(9, 4, 2), (4, 4, 3), (16, 4, 2), (7, 3, 1), (1, 8, 4)])
def test_an_evaluation_is_made_once_and_in_equally_many_batches(count, batch, size):
    shares = [own_batches(count, batch, rank, size) for rank in range(size)]
    assert sorted(row for _, rows in shares for row in rows) == list(range(count))
    assert len({len(runs) for runs, _ in shares}) == 1
    assert all(rows == [row for run in runs for row in run][: len(rows)] for runs, rows in shares)


def test_what_is_logged_is_the_mean_over_those_that_have_it():
    found = merged([{"train/loss": 1.0, "train/first_ratio_error": 0.5}, {"train/loss": 2.0, "train/first_ratio_error": 0.1, "only": 3.0}])
    assert found == {"train/loss": 1.5, "train/first_ratio_error": 0.5, "only": 3.0}


@pytest.mark.parametrize(
    ("change", "size", "nearest"),
    [
        ("", 3, "rollout.samples=24 or 36, or 2 processes"),
        ("batch: 4, group: 2|batch: 32, group: 2", 2, "rollout.samples=64, or rollout.batch=16, or 1 process"),
        ("batch: 4, group: 2|batch: 4, group: 16", 2, "rollout.samples=64, or 1 process"),
        ("", 2, None),
        ("", 1, None),
    ],
)
def test_samples_that_do_not_divide_are_refused_with_the_nearest_numbers_that_do(change, size, nearest):
    recipe = parse(RECIPE.replace(*change.split("|")) if change else RECIPE, "recipe")
    if nearest is None:
        refuse_uneven(recipe, size)
        return
    with pytest.raises(RecipeError) as told:
        refuse_uneven(recipe, size)
    assert f"does not divide over {size} processes" in str(told.value) and str(told.value).endswith(f"nearest that does: {nearest}")
    options = str(told.value).rpartition(": ")[2].split(", or ")
    for number in options[0].removeprefix("rollout.samples=").split(" or "):
        rollout = recipe.rollout.model_copy(update={"samples": int(number)})
        refuse_uneven(recipe.model_copy(update={"rollout": rollout}), size)
