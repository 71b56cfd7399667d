"""The command line as a person meets it: what is printed, what is written, and how each command exits."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
import torch
from click.testing import CliRunner, Result

from tropism import Entry, api, hookimpl, plugins, sampling
from tropism.cli import cli
from tropism.cli.group import COMMANDS

TINY = ("train.iterations=4", "rollout.samples=32", "rollout.batch=32", "evaluate.per_prompt=8", "evaluate.every=2", "save.every=2")

MISTAKEN = """\
name: five
sede: 3
policy: {use: toy/mixture}
data: {use: prompts, train: ["a point"]}
rollout:
  sampler: {use: ddim}
  steps: many
  smaples: 4
rewards:
  - {use: toy/near}
optimizer: {use: policy-gradient}
adapter: {kind: sometimes}
train: {iterations: -1}
"""

INTERRUPTING = """\
import os, signal
from tropism import hookimpl

@hookimpl
def on_metrics(step, metrics):
    if step == 1 and "reward/combined" in metrics:
        os.kill(os.getpid(), signal.SIGINT)
"""

FAILING_REWARD = """\
from tropism import Entry, hookimpl

def fail(points):
    raise ZeroDivisionError("no scores today")

@hookimpl
def register_rewards():
    return [Entry("mine/failing", "failing_reward:fail", "a reward that raises")]
"""


def tropism(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="tropism")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run of the toy recipe, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, tropism("run", "toy/ddpo", *TINY, "--out", folder)


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], ModuleType]], None]:
    """Make one plugin look installed, and let the command line find its plugins anew before and after."""

    def install(load: Callable[[], ModuleType]) -> None:
        point = SimpleNamespace(name="third", dist=SimpleNamespace(name="third-party", version="9"), load=load)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
        monkeypatch.setattr(plugins, "installed", lambda: plugins.manager())
        monkeypatch.setattr(cli, "_asked", False)
        monkeypatch.setattr(cli, "commands", {})

    return install


# --- looking ------------------------------------------------------------------------------------------------------------------


def test_ls_is_light() -> None:
    code = (
        "import sys, time; from tropism.cli import cli; cli(['ls'], standalone_mode=False); assert time.process_time() < 0.3;"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "toy/ddpo" in done.stdout and "\x1b" not in done.stdout


def test_ls_lists_in_columns_and_as_json() -> None:
    lines = tropism("ls", "samplers").output.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["samplers", "ddim"], ["samplers", "consistency"]]
    assert lines[0].index("DDIM") == lines[1].index("multistep")
    rows = json.loads(tropism("ls", "--json").output)
    assert {"kind": "rewards", "name": "toy/near", "plugin": "tropism"}.items() <= next(r for r in rows if r["name"] == "toy/near").items()


def test_ls_refuses_an_unknown_kind() -> None:
    result = tropism("ls", "rewrads")
    assert result.exit_code == 2 and "'rewards'" in result.stderr


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("toy/near", ["kind: rewards", "from: tropism", "scores from: points", "2.0", "Minus the distance"]),
        ("toy/mixture", ["kind: policies", "modes", "= 8"]),
        ("toy/ddpo", ["kind: recipes", "# toy/ddpo: the whole loop", "optimizer: {use: policy-gradient"]),
    ],
)
def test_show(name: str, parts: list[str]) -> None:
    result = tropism("show", name)
    assert result.exit_code == 0 and all(part in result.output for part in parts), result.output


def test_show_names_the_nearest() -> None:
    result = tropism("show", "toy/nera")
    assert result.exit_code == 1 and "did you mean 'toy/near'?" in result.stderr and "Traceback" not in result.output


def test_cp_copies_with_comments_and_refuses_to_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    assert tropism("cp", "toy/ddpo", target).exit_code == 0
    assert target.read_text().startswith("# toy/ddpo")
    target.write_text("precious")
    result = tropism("cp", "toy/ddpo", target)
    assert result.exit_code == 1 and "exists already" in result.stderr and target.read_text() == "precious"
    result = tropism("cp", "toy/ddpo", tmp_path / "no" / "such" / "folder.yaml")
    assert result.exit_code == 1 and "No such file" in result.stderr


def test_schema_describes_a_recipe() -> None:
    schema = json.loads(tropism("schema").output)
    assert schema["title"] == "Recipe" and {"policy", "rollout", "optimizer"} <= set(schema["required"])
    assert {"rewards", "offline"} <= set(schema["properties"]), "a run has one of the two"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples(name: str) -> None:
    result = tropism(name, "--help")
    examples = result.output.partition("Examples:\n")[2].splitlines()
    assert result.exit_code == 0 and len(examples) >= 2
    assert all(f"tropism {name}" in line for line in examples)


def test_unknown_command_suggests_the_nearest() -> None:
    result = tropism("resmue", "x")
    assert result.exit_code == 2 and "did you mean 'resume'?" in result.stderr


# --- checking -----------------------------------------------------------------------------------------------------------------


def test_check_prints_the_arithmetic() -> None:
    result = tropism("check", "toy/ddpo", *TINY)
    assert result.exit_code == 0 and result.output.endswith("toy/ddpo: ok\n")
    assert ["samples", "in", "all", "128"] in [line.split() for line in result.output.splitlines()]


def test_check_shows_every_mistake_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "five.yaml"
    recipe.write_text(MISTAKEN)
    result = tropism("check", recipe)
    assert result.exit_code == 1 and "5 mistakes" in result.stderr and "Traceback" not in result.output
    for part in ("line 2: unknown key 'sede' (did you mean 'seed'?)", "line 7: rollout.steps", "line 8: unknown key 'rollout.smaples'"):
        assert part in result.stderr
    assert "line 12: adapter.kind" in result.stderr and "line 13: train.iterations" in result.stderr


def test_check_refuses_what_cannot_work_together() -> None:
    result = tropism("check", "toy/ddpo", "rollout.sampler.eta=0.0")
    assert result.exit_code == 1 and "noisy steps" in result.stderr


def test_debug_keeps_the_stack_trace(tmp_path: Path) -> None:
    result = tropism("--debug", "check", tmp_path / "absent.yaml")
    assert type(result.exception).__name__ == "RecipeError"


# --- running ------------------------------------------------------------------------------------------------------------------


def test_run_writes_a_summary_and_prints_it(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "summary.json").read_text())
    keys = {"recipe", "seed", "status", "seconds", "phases", "iterations", "samples", "trained", "alarms", "metrics"}
    assert keys <= summary.keys()
    assert (summary["status"], summary["iterations"], summary["samples"], summary["trained"]) == ("finished", 4, 128, ["toy/near"])
    assert all(len(change[end]) == 3 for change in summary["metrics"].values() for end in ("before", "after"))
    lines = [line.split() for line in result.output.splitlines()]
    assert ["metric", "before", "after", "change"] in lines
    assert ["run", str(folder)] in lines and ["report", str(folder / "report.html")] in lines
    assert (folder / "report.html").is_file()


GUARDED = """\
from tropism import Entry, hookimpl

def down(points):
    return 10 - points[:, 0]

@hookimpl
def register_rewards():
    return [Entry("mine/down", "guarded_reward:down", "")]
"""


def test_a_guarded_run_says_which_weights_it_kept(tmp_path: Path) -> None:
    (tmp_path / "guarded_reward.py").write_text(GUARDED)
    watched = ("evaluate.rewards=[{use: mine/down}]", "guard={metric: mine/down, keep: 0.999}", "train.lr=1e-2", "evaluate.per_prompt=64")
    changed = (*TINY[:3], "train.iterations=60", *watched)
    result = tropism("run", "toy/ddpo", *changed, "--out", tmp_path / "run", "--plugin", tmp_path / "guarded_reward.py")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert result.exit_code == 0 and summary["status"] == "guarded" and summary["kept_step"] < summary["iterations"]
    assert f"guarded; the weights are those of iteration {summary['kept_step']}\n" in result.output


def test_several_processes_within_one_of_several_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = tropism("run", "toy/ddpo", "rollout.batch=256", "--nproc", "2", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "already one of several" in result.stderr


def test_run_refuses_a_folder_that_holds_a_run(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    before = contents(folder)
    result = tropism("run", "toy/ddpo", *TINY, "--out", folder)
    assert result.exit_code == 1 and "already holds a run" in result.stderr and contents(folder) == before


def test_interrupted_run_exits_130_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)
    folder = tmp_path / "run"
    result = tropism("run", "toy/ddpo", *TINY, "--out", folder, "--plugin", tmp_path / "interrupting.py")
    assert result.exit_code == 130 and f"tropism resume {folder}" in result.output
    assert json.loads((folder / "summary.json").read_text())["iterations"] == 1
    assert tropism("resume", folder).exit_code == 0
    assert json.loads((folder / "summary.json").read_text())["iterations"] == 4
    assert tropism("resume", folder, "--iterations", "6").exit_code == 0
    assert json.loads((folder / "summary.json").read_text())["iterations"] == 6
    refused = tropism("resume", folder, "--iterations", "5")
    assert refused.exit_code == 1 and "step-00000006" in refused.stderr


def test_keyboard_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tropism.api.run", stop)
    assert tropism("run", "toy/ddpo", "--runs", tmp_path).exit_code == 130


def test_failing_reward_is_a_message_and_a_trace_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "failing_reward.py").write_text(FAILING_REWARD)
    plugin, folder = ("--plugin", tmp_path / "failing_reward.py"), tmp_path / "run"
    assert "mine/failing" in tropism("ls", "rewards", *plugin).output
    result = tropism("run", "toy/ddpo", *TINY, "rewards.0.use=mine/failing", "--out", folder, *plugin)
    assert result.exit_code == 1 and "no scores today" in result.stderr and "Traceback" not in result.output
    assert str(folder / "log.txt") in result.stderr
    assert "Traceback" in (folder / "log.txt").read_text()


def test_unexpected_exceptions_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("tropism.api.run", fault)
    assert isinstance(tropism("run", "toy/ddpo").exception, LookupError)


# --- afterwards ---------------------------------------------------------------------------------------------------------------


def test_eval_repeats_the_run_and_writes_nothing(finished: tuple[Path, Result]) -> None:
    folder, ran = finished
    before = contents(folder)
    result = tropism("eval", folder)
    assert result.exit_code == 0 and result.output and contents(folder) == before
    assert set(result.output.splitlines()) <= set(ran.output.splitlines())  # the same table, digit for digit


def test_eval_writes_a_page_of_both_models_where_it_is_told_to(finished: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = finished
    before, out = contents(folder), tmp_path / "again"
    result = tropism("eval", folder, "--out", out)
    assert result.exit_code == 0 and f"report  {out / 'report.html'}" in result.output and contents(folder) == before
    summary, whole = (json.loads((place / "summary.json").read_text()) for place in (out, folder))
    assert summary["metrics"] == whole["metrics"] and summary["trained"] == whole["trained"] and summary["status"] == "evaluated"
    steps = sorted(path.name for path in (out / "samples").iterdir())
    assert steps == ["step-00000000", "step-00000004"]
    for step in steps:
        assert contents(out / "samples" / step) == contents(folder / "samples" / step)
    page = (out / "report.html").read_text()
    assert "update 4" in page and "base model" in page and summary["recipe"] in page
    assert summary["samples"] == 2 * 8 < whole["samples"], "those of this evaluation, not of training"
    assert "policy-gradient" in page and "<summary>Environment</summary>" in page and not (out / "recipe.yaml").exists(), "no run to resume"
    again = tropism("eval", folder, "--out", out)
    assert (
        again.exit_code == 1 and "exists and is not an empty folder (it holds env.json, evaluated.yaml, report.html, ...)" in again.stderr
    )
    assert "remove it, or name another with --out" in again.stderr


def test_eval_on_prompts_that_no_evaluation_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    heldout = ("data.heldout=[seen, fresh, fresher]", "evaluate.prompts=1", "evaluate.per_prompt=4")
    assert tropism("run", "toy/ddpo", *TINY, "train.iterations=1", *heldout, "--out", folder).exit_code == 0
    asked: list[list[str]] = []
    score = sampling.scored
    monkeypatch.setattr(sampling, "scored", lambda run, cond: asked.append([item["prompt"] for item in cond.items]) or score(run, cond))
    result = tropism("eval", folder, "--fresh", "2")
    assert result.exit_code == 0 and asked == [["fresh"] * 4 + ["fresher"] * 4] * 2
    refused = tropism("eval", folder, "--fresh", "3")
    assert refused.exit_code == 1 and "3 fresh held-out items asked for; beyond the 1 of its evaluations there are 2" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.train=[a, b, c]",), "the recipe's 3 held-out items are those that are trained on"),
        (("data.train=[a, b]", "data.heldout=[c, a, d]"), "beyond the 1 of its evaluations there are 2, of which 1 are trained on"),
    ],
)
def test_what_is_trained_on_is_not_fresh(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    folder = tmp_path / "run"
    assert tropism("run", "toy/ddpo", *TINY, "train.iterations=1", "evaluate.prompts=1", *words, "--out", folder).exit_code == 0
    refused = tropism("eval", folder, "--fresh", "2")
    assert refused.exit_code == 1 and message in refused.stderr


def test_the_page_of_weights_of_no_update_has_the_samples_of_both(tmp_path: Path) -> None:
    job = api.base("toy/ddpo")
    job.recipe = job.recipe.model_copy(update={"evaluate": job.recipe.evaluate.model_copy(update={"per_prompt": 4})})
    with torch.no_grad():
        job.policy.network.layers[-1].bias.add_(1.0)  # weights from elsewhere
    api.evaluate(job, folder=tmp_path / "out")
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "samples").glob("step-*/index.json"))]
    base, moved = ([tile["scores"]["toy/near"] for tile in one["tiles"]] for one in found)
    assert len(base) == len(moved) == 4 and base != moved
    page = (tmp_path / "out" / "report.html").read_text()
    assert "base model" in page and "update 0" in page


def test_sample_from_run_base_and_recipe(finished: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = finished
    before = contents(folder)
    scores = {}
    for name, args in {"run": (folder,), "base": (folder, "--base"), "recipe": ("toy/ddpo", "--prompt", "a point")}.items():
        result = tropism("sample", *args, "--count", "3", "--seed", "7", "--out", tmp_path / name)
        assert result.exit_code == 0 and "toy/near" in result.output, result.output
        tiles = json.loads((tmp_path / name / "index.json").read_text())["tiles"]
        assert [(tmp_path / name / tile["file"]).is_file() for tile in tiles] == [True] * 3
        scores[name] = [tile["scores"]["toy/near"] for tile in tiles]
    assert scores["base"] == scores["recipe"] != scores["run"]
    assert contents(folder) == before
    full = tropism("sample", folder, "--out", tmp_path / "run")
    assert full.exit_code == 1 and "not an empty folder (it holds 0000." in full.stderr and "name another with --out" in full.stderr
    (tmp_path / "file").write_text("")
    assert "(it is a file); remove it, or name another with --out" in tropism("sample", folder, "--out", tmp_path / "file").stderr


def test_report_and_compare(finished: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = finished
    assert tropism("report", folder).output.strip() == str(folder / "report.html")
    result = tropism("compare", folder, folder, "--out", tmp_path / "both.html")
    assert result.exit_code == 0 and (tmp_path / "both.html").is_file()
    assert [line.split()[0] for line in result.output.splitlines()[:5]] == [
        "metric",
        "toy/near",
        "toy/near",
        "base-distance",
        "base-distance",
    ]
    assert "two or more" in tropism("compare", folder).stderr


@pytest.mark.parametrize("name", ["resume", "eval", "report"])
def test_a_folder_that_is_no_run_is_refused(name: str, tmp_path: Path) -> None:
    result = tropism(name, tmp_path)
    assert result.exit_code == 1 and "is not a run folder" in result.stderr


def test_doctor_passes_here_and_fails_for_what_is_no_pipeline(tmp_path: Path) -> None:
    result = tropism("doctor", "--pipeline", tmp_path)
    marks = {line.split()[1]: line.split()[0] for line in result.output.splitlines() if line.startswith(("ok", "--", "FAIL"))}
    assert (marks["python"], marks["torch"], marks["device"], marks["pipeline"]) == ("ok", "ok", "ok", "FAIL")
    assert result.exit_code == 1


# --- plugins ------------------------------------------------------------------------------------------------------------------


def test_broken_plugin_is_one_line(entry_point: Callable[[Callable[[], ModuleType]], None]) -> None:
    def load() -> ModuleType:
        raise ImportError("no module named zzz\nand more")

    entry_point(load)
    for name, shown in {"ls": "toy/ddpo", "plugins": "built in"}.items():
        result = tropism(name)
        assert result.exit_code == 0 and shown in result.stdout
        assert result.stderr == "tropism: plugin third (third-party 9) is broken: ImportError: no module named zzz\n"


def test_broken_plugin_file_does_not_break_ls_but_stops_run(tmp_path: Path) -> None:
    broken = tmp_path / "broken_file.py"
    broken.write_text("raise RuntimeError('boom')")
    listed, ran = tropism("ls", "--plugin", broken), tropism("run", "toy/ddpo", "--runs", tmp_path / "runs", "--plugin", broken)
    assert listed.exit_code == 0 and "toy/ddpo" in listed.stdout and listed.stderr.count("\n") == 1
    assert ran.exit_code == 1 and "RuntimeError: boom" in ran.stderr and not (tmp_path / "runs").exists()


def test_plugins_add_commands_but_replace_none(entry_point: Callable[[Callable[[], ModuleType]], None]) -> None:
    module = ModuleType("third")

    @hookimpl
    def register_commands(cli: click.Group) -> None:
        cli.add_command(click.Command("greet", callback=lambda: click.echo("hello"), help="Say hello."))
        cli.add_command(click.Command("run"))

    @hookimpl
    def register_rewards() -> list[Entry]:
        return [Entry("third/zero", "third:zero", "nothing")]

    vars(module).update(register_commands=register_commands, register_rewards=register_rewards)
    entry_point(lambda: module)
    result = tropism("greet")
    assert result.exit_code == 0 and result.stdout == "hello\n"
    assert "there is a command 'run' already" in result.stderr
    assert "Say hello." in tropism("--help").output
    assert ["third", "third-party", "9", "1", "rewards"] in [line.split() for line in tropism("plugins").output.splitlines()]
