"""THE loop: it learns, it stops politely, it says what went wrong, and it resumes to the bit."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tropism import api, checkpoint, runfolder, sampling
from tropism.errors import CheckpointError, DivergedError, RecipeError, RewardError

RECIPE = """\
name: test/short
policy: {use: toy/mixture}
data: {use: prompts, train: [a, b, c, d, e]}
adapter: {kind: full, ema: 0.9}
rollout: {sampler: {use: ddim, eta: 1.0}, steps: 5, samples: 16, batch: 8}
rewards:
  - {use: toy/near, normalise: running}
credit: {use: per-prompt, buffer: 8, min_count: 4}
optimizer: {use: policy-gradient, clip: 1e-2}
train: {iterations: 12, lr: 1e-3, updates: 2, passes: 2}
evaluate: {every: 5, prompts: 2, per_prompt: 4, show: 1, evaluators: [{use: base-distance}]}
save: {every: 3, keep: 2}
"""
PLUGIN = """
    import math, os, signal, time
    import torch
    from tropism import Entry, hookimpl

    @hookimpl
    def register_rewards():
        return [
            Entry("mine/poison", "my_faults:Poison", ""),
            Entry("mine/explode", "my_faults:explode", ""),
            Entry("mine/down", "my_faults:down", ""),
            Entry("mine/right", "my_faults:right", ""),
        ]

    class Poison:
        "Not a number at its nth call."
        def __init__(self, at=4):
            self.at, self.calls = at, 0
        def __call__(self, points):
            self.calls += 1
            values = points[:, 0].clone()
            if self.calls == self.at:
                values[1] = math.nan
            return values

    def explode(points):
        return points[:, 0] * 1e30

    def right(points):
        return points[:, 0]

    def down(points):
        return 10 - points[:, 0]

    @hookimpl
    def on_rollout(run):
        if os.environ.get("STOP_AT") == str(run.step):
            os.kill(os.getpid(), getattr(signal, os.environ["STOP_BY"]))
            time.sleep(0.01)
"""
QUIET = Console(file=io.StringIO())


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "my_faults.py"
    file.write_text(textwrap.dedent(PLUGIN))
    yield file
    sys.modules.pop("my_faults", None)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return str(file)


def run(recipe: str, folder: Path, *overrides: str, plugins: tuple[Path, ...] = ()) -> tuple[Path, str]:
    return api.run(recipe, overrides, folder=folder, plugin_files=plugins, console=QUIET)


def state(folder: Path) -> dict:
    """The newest checkpoint without its clock."""
    newest = checkpoint.latest(folder / "checkpoints")
    assert newest is not None
    return {key: value for key, value in checkpoint.load(newest).items() if key not in ("seconds", "phases", "metrics")}


def metrics(folder: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["samples"], row["name"], row["value"]) for row in rows]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(one: Path, other: Path) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for key in first:
        assert same(first[key], second[key]), f"'{key}' differs"
    assert metrics(one) == metrics(other)
    index = "samples/step-00000012/index.json"
    assert (one / index).read_text() == (other / index).read_text()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of twelve iterations that nothing has disturbed."""
    root = tmp_path_factory.mktemp("unbroken")
    (root / "recipe.yaml").write_text(RECIPE)
    folder, status = run(str(root / "recipe.yaml"), root / "run")
    assert status == "finished"
    return folder


def child(*arguments: str, **environment: str) -> subprocess.Popen:
    """The same in a process of its own, which may be killed."""
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom tropism import api\ntorch.set_num_threads(1)\n"
        "what, folder, recipe, *files = sys.argv[1:]\n"
        "if what == 'run':\n    status = api.run(recipe, folder=Path(folder), plugin_files=[Path(f) for f in files])[1]\n"
        "else:\n    status = api.resume(Path(folder))\n"
        "print('status', status)\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# --- it learns ------------------------------------------------------------------------------------------------------------------------


def test_the_toy_recipe_raises_its_reward_by_a_third_of_the_way_to_the_best(tmp_path):
    """From minus 2.6 (an even choice among eight modes) by at least 0.7, with the seed of the recipe."""
    folder, status = api.run("toy/ddpo", folder=tmp_path / "run", console=QUIET)
    assert status == "finished"
    summary = json.loads((folder / "summary.json").read_text())
    before, after = (summary["metrics"]["toy/near"][when] for when in ("before", "after"))
    assert -2.9 < before[0] < -2.3
    assert after[0] > before[0] + 0.7
    assert after[1] > before[2], "the intervals are apart"
    assert summary["metrics"]["base-distance"]["before"][0] == 0 and summary["metrics"]["base-distance"]["after"][0] > 0.1
    first = [value for _, _, name, value in metrics(folder) if name == "train/first_ratio_error"]
    assert len(first) == 60 and max(first) < 1e-5


def test_the_first_ratio_is_exactly_one_when_batches_are_the_rollouts_own(unbroken):
    first = [value for _, _, name, value in metrics(unbroken) if name == "train/first_ratio_error"]
    assert first == [0.0] * 12
    moved = [value for _, _, name, value in metrics(unbroken) if name == "train/ratio_error"]
    assert min(moved) > 0


def test_a_run_folder_holds_everything_of_a_run(unbroken):
    assert {p.name for p in unbroken.iterdir()} >= {
        "recipe.yaml",
        "env.json",
        "plugins.json",
        "metrics.jsonl",
        "summary.json",
        "samples",
        "checkpoints",
        "log.txt",
        "report.html",
    }
    assert [p.name for p in checkpoint.steps(unbroken / "checkpoints")] == ["step-00000009", "step-00000012"]
    assert sorted(p.name for p in (unbroken / "samples").iterdir()) == [f"step-{step:08d}" for step in (0, 5, 10, 12)]
    names = {name for _, _, name, _ in metrics(unbroken)}
    assert {
        "reward/toy/near",
        "reward/combined",
        "train/loss",
        "train/grad_norm",
        "eval/toy/near",
        "eval/toy/near/low",
        "eval/base-distance",
    } <= names
    assert [(step, samples) for step, samples, name, _ in metrics(unbroken) if name == "reward/toy/near"] == [
        (i, 16 * i) for i in range(1, 13)
    ]


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(unbroken, recipe, tmp_path):
    again, _ = run(recipe, tmp_path / "again")
    assert_same_run(unbroken, again)
    other, _ = run(recipe, tmp_path / "other", "seed=1")
    assert not same(state(unbroken)["trainable"], state(other)["trainable"])


def test_the_learning_rate_falls_as_the_recipe_says(recipe, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", "train.iterations=4", "train.decay=0.5", "train.lr=4e-3")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines if line["name"] == "train/lr"] == [4e-3, 4e-3, 4e-3, 2e-3]
    assert [group["lr"] for group in state(folder)["optimizer"]["param_groups"]] == [2e-3]


def test_the_average_lags_behind_the_weights(unbroken):
    trainable = state(unbroken)["trainable"]
    assert trainable["weights"].keys() == trainable["average"].keys()
    assert not same(trainable["weights"], trainable["average"])


# --- it resumes -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_is_the_unbroken_run(unbroken, recipe, tmp_path):
    folder, moments = tmp_path / "run", random.Random(5)
    killed = 0
    process = child("run", str(folder), recipe)
    for _ in range(3):
        progress = folder / "metrics.jsonl"
        seen, deadline = progress.stat().st_size if progress.exists() else 0, time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not (progress.exists() and progress.stat().st_size > seen):
            time.sleep(0.005)  # the program is being imported; a kill here would only test Python
        time.sleep(moments.uniform(0, 0.08))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = child("resume", str(folder), "")
    output, _ = process.communicate(timeout=120)
    assert "status finished" in output, output
    assert killed >= 1, "no kill hit the run while it went on"
    assert_same_run(unbroken, folder)


@pytest.mark.parametrize("step", [0, 1, 4, 8])
def test_killed_in_the_middle_of_an_iteration_and_resumed_it_is_the_unbroken_run(unbroken, recipe, plugin, tmp_path, step):
    folder = tmp_path / "run"
    process = child("run", str(folder), recipe, str(plugin), STOP_AT=str(step), STOP_BY="SIGKILL")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert api.resume(folder, console=QUIET) == "finished"
    assert_same_run(unbroken, folder)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_ctrl_c_finishes_the_iteration_saves_and_resumes_exactly(unbroken, recipe, plugin, tmp_path, name):
    folder = tmp_path / "run"
    process = child("run", str(folder), recipe, str(plugin), STOP_AT="4", STOP_BY=name)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "status interrupted" in output, output
    assert "stopping after this iteration" in output
    assert checkpoint.latest(folder / "checkpoints").name == "step-00000005"
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert api.resume(folder, console=QUIET) == "finished"
    assert_same_run(unbroken, folder)


def test_a_run_extended_is_the_longer_run(unbroken, recipe, tmp_path):
    folder, status = run(recipe, tmp_path / "run", "train.iterations=7")
    assert (status, state(folder)["step"]) == ("finished", 7)
    assert api.resume(folder, iterations=12, console=QUIET) == "finished"
    first, second = state(unbroken), state(folder)
    for key in ("step", "trainable", "optimizer", "combined", "credit", "random"):
        assert same(first[key], second[key]), key
    # The shorter run evaluated its own end, iteration 7, which the longer one passes over.
    assert [row for row in metrics(folder) if not (row[0] == 7 and row[2].startswith("eval/"))] == metrics(unbroken)


def test_resuming_a_finished_run_changes_nothing(recipe, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", "train.iterations=3")
    before, rows = state(folder), metrics(folder)
    assert api.resume(folder, console=QUIET) == "finished"
    assert same(state(folder), before) and metrics(folder) == rows


def test_a_damaged_checkpoint_is_named_and_without_it_the_one_before_is_taken(unbroken, recipe, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", "save.keep=3")
    newest = checkpoint.latest(folder / "checkpoints")
    (newest / checkpoint.TENSORS).write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"step-00000012 cannot be read(.*\n)*.*remove that folder"):
        api.resume(folder, console=QUIET)
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    assert api.resume(folder, console=QUIET) == "finished"
    assert_same_run(unbroken, folder)


def test_a_metrics_file_that_was_cut_is_named(recipe, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", "train.iterations=3")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="the file was cut"):
        api.resume(folder, console=QUIET)


def test_a_folder_with_a_run_is_not_overwritten_and_one_without_is_no_run(recipe, tmp_path):
    run(recipe, tmp_path / "run", "train.iterations=0")
    with pytest.raises(RecipeError, match="already holds a run"):
        run(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="is not a run folder"):
        api.resume(tmp_path / "other", console=QUIET)


# --- it says what went wrong ----------------------------------------------------------------------------------------------------------


def test_a_reward_that_is_not_a_number_stops_the_run_with_iteration_seeds_and_a_checkpoint(recipe, plugin, tmp_path):
    from tropism.diffusion.noise import sample_seed

    with pytest.raises(
        RewardError, match=r"iteration \d+: reward 'mine/poison' returned \[nan\] for 1 of 8 samples; seeds \[\d+\]"
    ) as told:
        run(recipe, tmp_path / "run", "rewards=[{use: toy/near, normalise: running}, {use: mine/poison}]", plugins=(plugin,))
    iteration = int(str(told.value).split("iteration ")[1].split(":")[0])
    assert f"seeds [{sample_seed(0, (iteration - 1) * 16 + 1)}]" in str(told.value)
    assert checkpoint.latest(tmp_path / "run/checkpoints") == tmp_path / f"run/checkpoints/step-{iteration - 1:08d}"
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
    assert json.loads((tmp_path / "run/summary.json").read_text())["iterations"] == iteration - 1


def test_after_a_faulty_reward_is_mended_the_run_goes_on_exactly(recipe, plugin, tmp_path):
    rewards = "rewards=[{use: toy/near, normalise: running}, {use: mine/poison, at: %d, normalise: running}]"
    whole, _ = run(recipe, tmp_path / "whole", rewards % 1000, plugins=(plugin,))
    with pytest.raises(RewardError):
        run(recipe, tmp_path / "run", rewards % 6, plugins=(plugin,))
    file = tmp_path / "run/recipe.yaml"
    file.write_text(file.read_text().replace("at: 6", "at: 1000"))
    assert api.resume(tmp_path / "run", console=QUIET) == "finished"
    assert_same_run(whole, tmp_path / "run")


def test_a_faulty_reward_ends_the_process_with_an_error(recipe, plugin, tmp_path):
    file = tmp_path / "faulty.yaml"
    file.write_text(RECIPE.replace("toy/near, normalise: running", "mine/poison"))
    process = child("run", str(tmp_path / "run"), str(file), str(plugin))
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "mine/poison" in output and "seeds [" in output


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(recipe, tmp_path, monkeypatch):
    from tropism.optimizers.policy_gradient import PolicyGradient

    original, calls = PolicyGradient.loss, []

    def broken(self, policy, batch):
        loss, numbers = original(self, policy, batch)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 90 else loss), numbers  # 16 batches an iteration: in the third update of the sixth one

    whole, _ = run(recipe, tmp_path / "whole", "save.every=2", "save.keep=99")
    with monkeypatch.context() as patch:
        patch.setattr(PolicyGradient, "loss", broken)
        with pytest.raises(DivergedError, match=r"iteration 6: the gradient norm is nan; samples with seeds \[\d+, "):
            run(recipe, tmp_path / "run", "save.every=2", "save.keep=99")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
    assert checkpoint.latest(tmp_path / "run/checkpoints").name == "step-00000004"
    assert all(p.isfinite().all() for p in state(tmp_path / "run")["trainable"]["weights"].values())
    assert api.resume(tmp_path / "run", console=QUIET) == "finished"
    assert_same_run(whole, tmp_path / "run")


def test_a_recipe_with_a_relative_prompt_file_resumes_from_another_directory(tmp_path, monkeypatch):
    (tmp_path / "here/lists").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "here/lists/train.txt").write_text("a\nb\nc\n")
    (tmp_path / "here/held.txt").write_text("d\n")
    text = RECIPE.replace("train: [a, b, c, d, e]", "train: lists/train.txt, heldout: held.txt")
    (tmp_path / "here/recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/per-prompt").mkdir()  # a name that is no path stays a name
    folder, _ = run("recipe.yaml", tmp_path / "run", "train.iterations=2", "evaluate.prompts=1")
    monkeypatch.chdir(tmp_path / "there")
    assert api.resume(folder, iterations=4, console=QUIET) == "finished"
    monkeypatch.chdir(tmp_path / "here")
    whole, _ = run("recipe.yaml", tmp_path / "whole", "train.iterations=4", "evaluate.prompts=1")
    assert same(state(folder)["trainable"], state(whole)["trainable"])
    kept = runfolder.open_run(folder)[0]
    assert kept.data.arguments["train"] == str(tmp_path / "here/lists/train.txt") and kept.credit.use == "per-prompt"


def test_media_leave_the_device_after_decoding_and_an_evaluation_keeps_no_trajectory(recipe, tmp_path):
    job = api.base(recipe)
    moved = []

    class Media:
        def __init__(self, points):
            self.points = points

        def cpu(self):
            moved.append(len(self.points))
            return self.points

    decode = job.policy.decode
    job.policy.decode = lambda x0: {kind: Media(value) for kind, value in decode(x0).items()}
    samples = sampling.evaluation(job)
    assert moved == [8], "once for the one batch of two prompts with four samples each"
    assert samples.steps.x.shape == (8, 0, 2) and samples.steps.x.untyped_storage().nbytes() == 0
    assert len(samples.scores["toy/near"]) == len(samples.media["points"]) == 8
    assert job.source.collect().steps.x.shape == (16, 6, 2), "what is learned from keeps its trajectory"


def test_a_reward_sees_no_more_samples_than_a_batch_of_the_rollout(recipe, plugin, tmp_path):
    job = api.base(recipe)
    seen = []
    (part,) = job.combined.parts
    reward = part.reward
    part.reward = lambda points: (seen.append(len(points)), reward(points))[1]
    job.source.score(job.source.collect())
    assert seen == [8, 8]


def test_samples_of_one_seed_share_no_noise_with_training_or_evaluation(recipe):
    job = api.base(recipe)
    sampled = api.sample(job, [{"prompt": "a"}], count=16, seed=0)
    trained, evaluated = job.source.collect(), sampling.evaluation(job)
    seeds = [set(rollout.cond.seed.tolist()) for rollout in (sampled, trained, evaluated)]
    assert [len(found) for found in seeds] == [16, 16, 8]
    assert not seeds[0] & seeds[1] and not seeds[0] & seeds[2] and not seeds[1] & seeds[2]
    assert api.sample(job, [{"prompt": "a"}], count=16, seed=0).cond.seed.tolist() == sampled.cond.seed.tolist()
    assert not seeds[0] & set(api.sample(job, [{"prompt": "a"}], count=16, seed=1).cond.seed.tolist())


def test_an_impossible_recipe_writes_nothing(recipe, tmp_path):
    with pytest.raises(RecipeError, match="learns from noisy steps"):
        run(recipe, tmp_path / "run", "rollout.sampler.eta=0")
    assert not (tmp_path / "run").exists()


# --- guard and alarms -----------------------------------------------------------------------------------------------------------------

TOWARD = (
    "rewards=[{use: mine/right}]",
    "train.lr=1e-2",
    "train.iterations=60",
    "evaluate.every=3",
    "evaluate.per_prompt=64",
    "rollout.samples=64",
)


def watched(reward: str) -> str:
    return f"evaluate.rewards=[{{use: {reward}}}]"


@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_the_guard_stops_the_run_and_goes_back_to_the_last_good_weights(recipe, plugin, tmp_path, ema):
    guard = "guard={metric: mine/down, keep: 0.88}"
    folder, status = run(recipe, tmp_path / "run", *TOWARD, watched("mine/down"), guard, f"adapter.ema={ema}", plugins=(plugin,))
    assert status == "guarded"
    rows = [(step, value) for step, _, name, value in metrics(folder) if name == "eval/mine/down"]
    floor = 0.88 * rows[0][1]
    assert rows[-1][1] < floor and all(value >= floor for _, value in rows[:-1])
    assert rows[-1][0] < 60
    end = state(folder)
    good = end["guard"]["good"]
    assert good["step"] == rows[-2][0] > 0
    assert same(end["trainable"], good["trainable"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "guarded"
    assert (summary["kept_step"], summary["iterations"]) == (rows[-2][0], rows[-1][0])
    assert f"the weights are those of iteration {rows[-2][0]}" in (folder / "report.html").read_text()
    assert summary["metrics"]["mine/down"]["after"][0] == rows[-2][1]


def test_the_guarded_weights_are_those_that_were_evaluated(recipe, plugin, tmp_path):
    """With an average: run only to the good evaluation; its weights and its average are what the guard went back to."""
    overrides = (*TOWARD, watched("mine/down"), "adapter.ema=0.5")
    folder, _ = run(recipe, tmp_path / "run", *overrides, "guard={metric: mine/down, keep: 0.88}", plugins=(plugin,))
    end = state(folder)
    short, _ = run(recipe, tmp_path / "short", *overrides, f"train.iterations={end['guard']['good']['step']}", plugins=(plugin,))
    assert same(state(short)["trainable"], end["trainable"])


def test_a_guard_on_a_negative_metric_lets_it_rise(recipe, tmp_path):
    _, status = run(recipe, tmp_path / "run", "guard={metric: toy/near, keep: 0.5}", "evaluate.every=2")
    assert status == "finished", "minus 2.6 may fall to minus 3.9 before the guard acts"


def test_a_trained_reward_that_rises_while_a_watched_one_falls_gives_an_alarm(recipe, plugin, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", *TOWARD, watched("mine/down"), "train.iterations=30", plugins=(plugin,))
    summary = json.loads((folder / "summary.json").read_text())
    assert any("mine/right improved while mine/down fell from" in alarm["text"] for alarm in summary["alarms"])


def test_no_alarm_when_both_rise(recipe, plugin, tmp_path):
    folder, _ = run(recipe, tmp_path / "run", *TOWARD, watched("toy/near"), "train.iterations=15", plugins=(plugin,))
    assert json.loads((folder / "summary.json").read_text())["alarms"] == []
