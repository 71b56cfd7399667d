"""The benchmarks measure what they say: calls are counted, kills are real, curves are averaged and runs are made once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import tiny
from tropism import api, assemble
from tropism.errors import RecipeError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BRIGHT = """
from tropism import Entry, hookimpl

@hookimpl
def register_rewards():
    return [Entry("image/bright", "bright_reward:bright", "")]

def bright(image):
    return image.flatten(1).mean(1)
"""
TOY = """
name: toy/NAME
device: cpu
policy: {use: toy/mixture}
data: {use: prompts, train: ["a point"]}
adapter: {kind: full}
rollout: {sampler: SAMPLER, steps: 4, samples: 32, batch: 32}
rewards: [{use: toy/near, weight: 2}]
optimizer: {use: policy-gradient, clip: 1e-2}
train: {iterations: 4, lr: 1e-3}
evaluate: {every: 2, prompts: 1, per_prompt: 32, evaluators: [{use: base-distance}]}
"""


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmarks as modules, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if name in {file.stem for file in BENCHMARKS.glob("*.py")} | {"bright_reward"}:
            del sys.modules[name]


# --- overhead ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        # Of 5 steps the last has no noise and is not trained.
        (["rollout.batch=16", "train.micro=16", "train.updates=2"], [2 * 5, 2 * 4]),
        (["rollout.batch=8", "train.micro=null", "train.updates=1"], [4 * 5, 4 * 4]),
        (["rollout.batch=32", "train.micro=8", "train.updates=2", "train.passes=3"], [5, 2 * 3 * 2 * 4]),
        (["rollout.batch=32", "train.micro=1000", "rollout.sampler={use: consistency}"], [5, 2]),
    ],
)
def test_the_bare_work_has_as_many_forwards_as_the_epoch_makes(benchmark, changes, calls):
    overrides = ["device=cpu", "rollout.samples=32", "rollout.steps=5", *changes]
    found = benchmark("overhead").measure("toy/ddpo", overrides, 1)
    assert found["calls"]["needed"] == found["calls"]["made"] == calls
    (row,) = found["rounds"]
    assert found["ratio"]["median"] == (row["epoch"] - row["decode"] - row["reward"]) / row["bare"]
    assert found["ratio with decode and reward"]["median"] == row["epoch"] / row["bare"] > found["ratio"]["median"]


def test_batches_of_unequal_shapes_are_refused(benchmark):
    overrides = ["device=cpu", "rollout.samples=32", "rollout.batch=32", "rollout.steps=5", "train.micro=12", "train.updates=2"]
    with pytest.raises(RecipeError, match=r"batches of \[4, 12\] steps in an update"):
        benchmark("overhead").measure("toy/ddpo", overrides, 1)


def test_a_pipeline_is_measured_with_its_guidance_and_adapter(benchmark, tmp_path, capsys):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    (tmp_path / "bright_reward.py").write_text(BRIGHT)
    overrides = [
        f"policy={{use: pipeline, source: {tmp_path}/model, call: {{guidance_scale: 3.0}}}}",
        "data={use: prompts, train: [a dog, the sea]}",
        "adapter={kind: lora, rank: 2}",
        "rewards=[{use: image/bright}]",
        "rollout={sampler: {use: ddim}, steps: 3, samples: 4, batch: 4}",
        "train={iterations: 1}",
        "device=cpu",
    ]
    arguments = ["--recipe", "toy/ddpo", *overrides, "--rounds", "3", "--plugin", str(tmp_path / "bright_reward.py")]
    benchmark("overhead").main([*arguments, "--json", str(tmp_path / "found.json")])
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["calls"]["needed"] == found["calls"]["made"]
    assert found["calls"]["shapes"][0] == [8, 4, tiny.SIDE, tiny.SIDE], "guidance doubles the batch"
    assert len(found["rounds"]) == 3
    overhead = sys.modules["overhead"]
    for row in found["rounds"]:
        assert all(row[name] > 0 for name in ("network forward", "network backward", "decode", "reward", "torch optimizer", "bare"))
        assert 0 < row["everything else"] == pytest.approx(row["epoch"] - sum(row.get(name, 0) for name in overhead.PARTS))
    assert f"{found['ratio']['median']:.3f}" in capsys.readouterr().out


# --- kill and resume --------------------------------------------------------------------------------------------------------

# A run in miniature, without torch: six steps, a line and a checkpoint each, going on from the newest checkpoint.
STUB = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[-1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "recipe.yaml").write_text("")
done = sorted(folder.glob("checkpoints/step-*/state.json"))
for step in range(len(done) + 1, 7):
    time.sleep(0.01)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds": step * 0.02}) + "\\n")
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True, exist_ok=True)  # a kill may have come between the folder and its file
    (place / "state.json").write_text("{}")
"""


def test_a_process_is_killed_at_its_moment_or_told_to_have_finished(benchmark, tmp_path):
    module, log = benchmark("kill_resume"), tmp_path / "log"
    python = [sys.executable, "-S", "-c"]
    assert module.killed([*python, "pass"], log, 600, False) is None
    lived = module.killed([*python, "import time; time.sleep(600)"], log, 0.05, False)
    assert 0.05 <= lived < 300
    writes = f"import time; open({str(log)!r}, 'w').write('x'); time.sleep(600)"
    assert module.killed([*python, writes], log, 0.0, True) < 300
    assert log.exists(), "it was killed after it had begun to work"
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)failed by itself:.*ZeroDivisionError"):
        module.killed([*python, "1 / 0"], log, 600, True)
    assert time.monotonic() - begin < 300


def test_every_kill_is_made_and_every_run_is_finished(benchmark, tmp_path, monkeypatch):
    module = benchmark("kill_resume")
    monkeypatch.setattr(module, "TROPISM", (sys.executable, "-S", "-c", STUB))
    events = list(module.trials("any", [], tmp_path, 7, 0))
    kills, folders = [e for e in events if isinstance(e, module.Kill)], [e for e in events if isinstance(e, Path)]
    assert len(kills) == 7
    assert [not kill.at_work for kill in kills] == [False, False, False, False, True, False, False]
    assert folders[0].name == "unbroken" and events[-1] == folders[-1]
    assert len(folders) - 1 == kills[-1].trial >= 1
    for folder in folders:
        assert len(list(folder.glob("checkpoints/*/state.json"))) == 6


def test_equal_runs_have_no_differences_and_unequal_ones_are_told_where(benchmark, tmp_path):
    module = benchmark("kill_resume")
    (tmp_path / "toy.yaml").write_text(TOY.replace("NAME", "a").replace("SAMPLER", "{use: ddim}"))
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    for folder, seed in ((one, 0), (other, 0), (third, 1)):
        assert api.run(str(tmp_path / "toy.yaml"), [f"seed={seed}", "train.iterations=2"], folder=folder) == (folder, "finished")
    found = module.differences(one, other)
    assert not any(found.values())
    assert {"trainable", "optimizer", "credit", "random", "step", "metrics.jsonl", "samples"} <= set(found)
    unequal = module.differences(one, third)
    assert all(unequal[name] > 0 for name in ("trainable", "optimizer", "metrics.jsonl", "samples"))
    assert unequal["step"] == unequal["credit"] == 0
    metrics = other / "metrics.jsonl"
    changed = metrics.read_text().replace('"step": 2, "samples": 64', '"step": 2, "samples": 65', 1)
    metrics.write_text(changed)
    assert module.differences(one, other) == {**found, "metrics.jsonl": 1}


def test_leaves_are_compared_to_the_bit(benchmark):
    different = benchmark("kill_resume")._different
    nan = torch.tensor([float("nan"), 1.0])
    assert different({"a": [nan, 1.5]}, {"a": [nan.clone(), 1.5]}) == 0
    assert different({"a": [nan, 1.5]}, {"a": [nan.double(), 1.5000000000000002]}) == 2
    assert different(torch.tensor(0.0), torch.tensor(-0.0)) == 1
    assert different({"a": 1}, {"a": 1, "b": None}) == 1
    assert different([1, 2], [1]) == 1


# --- RLCM against DDPO ------------------------------------------------------------------------------------------------------


def test_seconds_of_a_curve_are_those_of_training(benchmark, tmp_path):
    rows = [
        *((0, 0, 10.0, name, 1.0) for name in ("eval/r", "eval/r/low", "eval/w")),
        (1, 8, 13.0, "train/loss", 0.1),
        (2, 16, 17.0, "train/loss", 0.1),
        *((2, 16, 22.0, name, 3.0) for name in ("eval/r", "eval/r/high", "eval/w")),
        (3, 24, 26.5, "reward/r", 0.1),
        *((3, 24, 30.0, name, 4.0) for name in ("eval/r", "eval/w")),
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(dict(zip(("step", "samples", "seconds", "name", "value"), row))) + "\n" for row in rows))
    curve = benchmark("rlcm_vs_ddpo").evaluations(file)
    assert curve == {"step": [0, 2, 3], "samples": [0, 16, 24], "seconds": [0.0, 7.0, 11.5], "r": [1.0, 3.0, 4.0], "w": [1.0, 3.0, 4.0]}


def test_curves_are_averaged_with_students_interval_and_read_between_evaluations(benchmark):
    curves = benchmark("curves")
    runs = [{"step": [0, 2], "samples": [0, 8], "seconds": [0.0, s], "r": [1.0, v]} for s, v in ((2.0, 3.0), (4.0, 5.0), (6.0, 7.0))]
    found = curves.average(runs)
    assert found["seconds"] == [0.0, 4.0] and found["r"][0] == [1.0, 1.0, 1.0]
    half = 4.302652729911275 * 2 / 3**0.5  # t of 2 degrees of freedom, deviation 2, three runs
    assert found["r"][1] == pytest.approx([5.0, 5.0 - half, 5.0 + half])
    assert curves.reached(found, "r", 2.0, 1.0, "seconds") == 1.0
    assert curves.reached(found, "r", 6.0, 1.0, "samples") is None
    assert curves.reached(found, "r", 6.0, -1.0, "samples") == 0.0
    told = {"rlcm": {"recipe": "a", "lr": 1e-3, "curves": found}, "ddpo": {"recipe": "b", "lr": 3e-3, "curves": found}}
    told["ddpo"]["curves"] = {**found, "r": [[6.0, 6.0, 6.0], [2.0, 2.0, 2.0]]}
    assert curves._told("rlcm", told["rlcm"], told, "r", 1.0).endswith("2 after 1 s and 2 queries; ddpo took 4 s.")
    assert curves._told("ddpo", told["ddpo"], told, "r", 1.0) == "- ddpo: `b`, learning rate 0.003; begins beyond rlcm's last value of 5."
    with pytest.raises(ValueError, match="different steps"):
        curves.average([runs[0], {**runs[1], "step": [0, 3]}])


@pytest.fixture
def recipes(tmp_path):
    for method, sampler in (("rlcm", "{use: consistency}"), ("ddpo", "{use: ddim}")):
        (tmp_path / f"{method}-near.yaml").write_text(TOY.replace("NAME", method).replace("SAMPLER", sampler))
    return [
        "--recipes",
        f"{tmp_path}/{{method}}-{{task}}.yaml",
        "--tasks",
        "near",
        "--runs",
        f"{tmp_path}/runs",
        "--out",
        f"{tmp_path}/out",
    ]


def test_methods_are_compared_at_their_best_rate_and_runs_are_used_again(benchmark, recipes, tmp_path, monkeypatch, capsys):
    module, out = benchmark("rlcm_vs_ddpo"), tmp_path / "out"
    words = [*recipes, "--seeds", "0", "1", "--lr", "1e-5", "1e-2"]
    module.main(words)
    task = json.loads((out / "rlcm_vs_ddpo.json").read_text())["tasks"]["near"]
    assert (task["trained"], task["weight"]) == ("toy/near", 2.0)
    for method in task["methods"].values():
        slow, fast = method["lr grid"]
        assert method["lr"] == fast["lr"] == 1e-2 and fast["reached"] > slow["reached"]
        assert method["curves"]["samples"] == [0.0, 64.0, 128.0]
        seeds = [curve["toy/near"] for curve in method["seeds"].values()]
        assert len(seeds) == 2
        for number, (mean, low, high) in enumerate(method["curves"]["toy/near"]):
            assert mean == pytest.approx((seeds[0][number] + seeds[1][number]) / 2) and low <= mean <= high
    text, pictures = (out / "rlcm_vs_ddpo.md").read_text(), (out / "rlcm_vs_ddpo.svg").read_text()
    assert "128 reward queries a run; 2 seeds" in text and "| `toy/near` |" in text and "--seeds 0 1 --lr 1e-5 1e-2" in text
    assert "<svg" in pictures
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("metrics.jsonl")}
    assert len(first) == 2 * (2 + 2)
    monkeypatch.setattr(module.api, "run", None)
    module.main(words)
    assert first == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("metrics.jsonl")}
    assert (out / "rlcm_vs_ddpo.md").read_text() == text
    with pytest.raises(RecipeError, match="holds a run with other settings"):
        module.main(["train.iterations=2", *words])
    capsys.readouterr()


def test_methods_that_do_not_ask_as_many_rewards_are_refused(benchmark, recipes, tmp_path):
    file = tmp_path / "ddpo-near.yaml"
    file.write_text(file.read_text().replace("samples: 32", "samples: 64"))
    with pytest.raises(RecipeError, match="cannot be compared; reward queries: 128 and 256"):
        benchmark("rlcm_vs_ddpo").main(recipes)


# --- the online methods -----------------------------------------------------------------------------------------------------


@pytest.fixture
def methods(benchmark, tmp_path, monkeypatch):
    """methods.py on the toy: two models, and rates of which the larger is the better one."""
    module = benchmark("methods")
    base = TOY.replace("NAME", "methods").replace("SAMPLER", "{use: ddim}").replace("samples: 32", "samples: 16")
    (tmp_path / "base.yaml").write_text(base.replace("batch: 32", "batch: 16"))
    gradient = module.Method("policy gradient", 1e-3, ("optimizer={use: policy-gradient, clip: 1e-2}",))
    direct = module.Method("last step", 1e-3, ("optimizer={use: direct, last: 1}",))
    nft = module.Method("forward process", 1e-3, ("rollout.sampler={use: ode}", "optimizer={use: nft, draws: 2}"))
    flow = ("policy={use: toy/mixture, parametrization: flow}", "evaluate.sampler={use: ode}")
    models = {
        "plain": module.Model("the toy", (), {"gradient": gradient, "direct": direct}),
        "flow": module.Model("a flow", flow, {"nft": nft}),
    }
    monkeypatch.setattr(module, "BASE", str(tmp_path / "base.yaml"))
    monkeypatch.setattr(module, "SHARED", ("evaluate.rewards=[{use: toy/near, x: -2.0}]",))
    monkeypatch.setattr(module, "TRAINED", {"toy/near": 2.0})
    monkeypatch.setattr(module, "HELD_OUT", {"base-distance": 1.0})
    monkeypatch.setattr(module, "RATES", (1e-5, 1e-2))
    monkeypatch.setattr(module, "MODELS", models)
    return module


def test_online_methods_are_compared_at_equal_queries_and_runs_are_used_again(methods, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["--model", "plain", "flow", "--seeds", "0", "1", "--queries", "64", "--evaluations", "2", "--sweep", "--", str(out)]
    methods.main(words)
    found = json.loads((out / "methods.json").read_text())
    assert (found["queries"], found["sweep seed"]) == (64, 10)
    assert found["command"] == f"python benchmarks/methods.py --model plain flow --seeds 0 1 --queries 64 --evaluations 2 --sweep -- {out}"
    plain, flow = found["models"]["plain"]["methods"], found["models"]["flow"]["methods"]
    assert list(plain) == ["gradient", "direct"] and list(flow) == ["nft"]
    # Four steps, of which the last has no noise; NFT draws two states, each by the old, the base and the learning weights.
    assert plain["gradient"]["forwards"] == {"without gradient": 4, "with gradient": 3}
    assert plain["direct"]["forwards"] == {"without gradient": 4, "with gradient": 1}
    assert flow["nft"]["forwards"] == {"without gradient": 4 + 2 * 2, "with gradient": 2}
    for method in (*plain.values(), *flow.values()):
        assert method["curves"]["samples"] == [0.0, 32.0, 64.0]
        slow, fast = method["lr grid"]
        assert method["lr"] == max(slow, fast, key=lambda row: row["trained"])["lr"] and slow["trained"] != fast["trained"]
        ends = [curve["reward"][-1] for curve in method["seeds"].values()]
        assert method["curves"]["reward"][-1][0] == pytest.approx(sum(ends) / 2) and ends[0] != ends[1]
        assert method["curves"]["reward"][-1][0] == pytest.approx(2 * method["curves"]["toy/near"][-1][0])
    assert "<svg" in (out / "methods.svg").read_text()
    text = (out / "methods.md").read_text()
    mean, low, high = plain["direct"]["curves"]["reward"][-1]
    assert (
        "+2 `toy/near`" in text
        and f"| direct | {mean:.4f} ± {(high - low) / 2:.4f} |" in text
        and "| 4 + 1 |" in text
        and "| base model |" in text
    )
    ends = sorted(curve["seconds"][-1] for curve in plain["direct"]["seeds"].values())
    assert f"| 64 | {ends[0]:.0f} to {ends[1]:.0f} | 4 + 1 |" in text
    written = {file: file.stat().st_mtime_ns for file in out.rglob("metrics.jsonl")}
    assert len(written) == 3 * (2 + 2)
    monkeypatch.setattr(methods.api, "run", None)
    monkeypatch.setattr(methods.api, "resume", None)
    methods.main(words)
    assert written == {file: file.stat().st_mtime_ns for file in out.rglob("metrics.jsonl")}
    assert (out / "methods.md").read_text() == text
    with pytest.raises(RecipeError, match="holds a run with other settings"):
        methods.main(["--set", "rollout.steps=5", *words])
    capsys.readouterr()


def test_a_stopped_run_of_a_method_goes_on(methods, tmp_path, capsys):
    comparison = methods.Comparison(tmp_path / "out", 64, 2, [])
    whole = comparison.curve("plain", "gradient", 1e-3, 0)
    folder = comparison.folder("plain", "gradient", 1e-3, 0)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    assert comparison.curve("plain", "gradient", 1e-3, 0) == whole
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    capsys.readouterr()


def test_methods_that_cannot_be_compared_are_refused(methods, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="--queries 40 is no multiple of the 16 samples of an iteration of plain gradient"):
        methods.main(["--model", "plain", "--queries", "40", "--", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        methods.main(["--model", "flow", "--methods", "gradient", "--", str(tmp_path / "out")])
    for change, what in (
        ("rollout.steps=3", "rollout.steps"),
        ("evaluate.per_prompt=4", "evaluate"),
        ("rewards=[{use: toy/near}]", "rewards"),
    ):
        plain = methods.MODELS["plain"]
        other = methods.Method("", 1e-3, (*plain.methods["direct"].changes, change))
        changed = methods.Model("", (), {"gradient": plain.methods["gradient"], "direct": other})
        monkeypatch.setitem(methods.MODELS, "changed", changed)
        with pytest.raises(RecipeError, match=f"changed: gradient and direct cannot be compared; they differ in {what}"):
            methods.compare(methods.Comparison(tmp_path, 64, 2, []), ["changed"], ["gradient", "direct"], [0], False)
    assert not (tmp_path / "out").exists(), "refused before anything runs"


def test_runs_of_other_weights_are_not_mixed_with_new_ones(benchmark):
    refuse = benchmark("methods").refuse_other_weights
    found = {"trained": "r", "methods": {"a": {"seeds": {"0": {"r": [0.5, 0.6]}, "1": {"r": [0.5005, 0.9]}}}}}
    refuse("student", found)
    found["methods"]["b"] = {"seeds": {"0": {"r": [0.4, 0.6]}}}
    with pytest.raises(
        RecipeError, match=r"student: the base model has r 0.4000 in b seed 0, but 0.5005 in a seed 1: the weights have changed"
    ):
        refuse("student", found)


@pytest.mark.parametrize("model", ["student", "flow", "teacher"])
def test_the_methods_of_the_shipped_models_can_run_and_be_compared(benchmark, model, tmp_path):
    module = benchmark("methods")
    comparison = module.Comparison(tmp_path, 2560, 5, [])
    names = list(module.MODELS[model].methods)
    comparison.refuse_unequal(model, names)
    for name in names:
        recipe = comparison.recipe(model, name)
        assemble.check(recipe, comparison.catalog)
        assert recipe.arithmetic()["samples in all"] == 2560 and recipe.evaluate.every == 8
        assert {part.use: part.weight for part in recipe.rewards} == module.TRAINED
        assert {part.use: 1 if part.better == "higher" else -1 for part in recipe.evaluate.rewards} == {
            name: 1 if weight > 0 else -1 for name, weight in module.HELD_OUT.items()
        }


def test_words_on_intervals(benchmark):
    told = benchmark("methods_page").told
    values = {"a": (3.0, 2.0, 4.0), "b": (3.5, 2.9, 4.1), "c": (4.6, 2.8, 6.4), "d": (1.0, 0.5, 1.4)}
    assert told(values, 1.5, 1.0) == (
        "each within the other's interval: b and a; "
        "one mean within the other's interval, but not the reverse: c and b, c and a; "
        "outside each other's: c over d, b over d, a over d; "
        "better than the base model beyond the interval: c, b, a; worse than it: d."
    )
    assert told({"a": values["a"], "d": values["d"]}, 1.5, -1.0) == (
        "no two methods are within each other's interval; outside each other's: d over a; "
        "better than the base model beyond the interval: d; worse than it: a."
    )
    assert told({"a": (3.0, 3.0, 3.0)}, 1.0, 1.0) == "one seed tells nothing apart."


def test_tradeoff_is_told_relative_to_the_base_model(benchmark, tmp_path):
    tradeoff = benchmark("tradeoff")
    values = {(0, "a"): 4.0, (0, "b"): 2.0, (5, "a"): 3.0, (5, "b"): 1.0}
    rows = [json.dumps({"step": s, "samples": 0, "seconds": 0, "name": f"eval/{n}", "value": v}) for (s, n), v in values.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, json.dumps({"step": 5, "name": "eval/a/low", "value": 9.0})]) + "\n")
    points = tradeoff.evaluations(tmp_path, ["a", "b"])
    assert points == [{"step": 0, "a": 1.0, "b": 1.0}, {"step": 5, "a": 0.75, "b": 0.5}]
    assert tradeoff.table({"seed 0": points}, ["a"]).splitlines()[-1] == "| seed 0 | 5 | 0.750 |"


# --- preferences ------------------------------------------------------------------------------------------------------------


def test_curves_are_read_at_equal_seconds(benchmark):
    page = benchmark("preferences_page")
    runs = [{"step": [0, 2], "samples": [0, 2], "seconds": [0.0, s], "r": [1.0, v]} for s, v in ((2.0, 3.0), (4.0, 5.0))]
    assert page.at_seconds(runs, 2.0)["r"][0] == pytest.approx((3.0 + 3.0) / 2)
    assert page._between([0.0, 2.0, 4.0], [1.0, 3.0, 4.0], 3.0) == 3.5 and page._between([0.0, 2.0], [1.0, 3.0], 9.0) == 3.0


def test_shuffled_labels_turn_some_and_keep_the_pictures(benchmark, tmp_path):
    lines = [{"prompt": "x", "a": f"media/{n}.png", "b": f"media/{n}b.png", "choice": "a", "annotator": "", "seed": n} for n in range(64)]
    lines[0]["choice"] = 0.75
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged/feedback.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark("preferences").shuffle(tmp_path / "judged", tmp_path / "shuffled")
    found = [json.loads(line) for line in (tmp_path / "shuffled/feedback.jsonl").read_text().splitlines()]
    turned = [line["choice"] for line in found[1:]]
    assert set(turned) == {0.0, 1.0} and 16 < sum(turned) < 48 and found[0]["choice"] in (0.25, 0.75)
    assert (tmp_path / "shuffled" / found[3]["a"]).resolve() == (tmp_path / "judged/media/3.png").resolve()


def test_preferences_in_a_few_steps(benchmark, tmp_path, capsys):
    """All of it on the shipped model, small: pairs are made and judged, shuffled, learned from by six methods, and told on a page."""
    module = benchmark("preferences")
    module.main(["--quick", "--", str(tmp_path)])
    found = json.loads((tmp_path / "preferences.json").read_text())
    assert {name: list(one["methods"]) for name, one in found["studies"].items()} == {
        name: list(study.methods) for name, study in module.STUDIES.items()
    }
    assert len((tmp_path / "pairs/judged/feedback.jsonl").read_text().splitlines()) == 4
    offline = found["studies"]["offline"]["methods"]
    assert offline["dpo"]["curves"]["samples"] == [0, 8] and offline["kto"]["curves"]["samples"] == [0, 16]
    bases = {tuple(method["curves"]["image/alignment-b"][0]) for method in offline.values()}
    assert len(bases) == 1 and len({method["curves"]["image/alignment-b"][-1][0] for method in offline.values()}) > 3
    text = (tmp_path / "preferences.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip() and "## online" in text and "| shuffled |" in text
    assert "`held-out reward`, which made none, at equal steps" in text and "<svg" in (tmp_path / "preferences.svg").read_text()
