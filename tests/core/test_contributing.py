"""CONTRIBUTING.md is followed to the letter: its files are written, its contract tests run, its commands obeyed (with less to do)."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tropism import plugins
from tropism.cli import cli
from tropism.diffusion.samplers import DDIM
from tropism.optimizers.base import batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.recipe import parse
from tropism.testing import scored
from tropism.toy import ToyPolicy
from tropism.types import Level

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()]
LESS = (
    "train.iterations=8",
    "train.micro=640",
    "rollout.samples=128",
    "rollout.batch=128",
    "evaluate.every=8",
    "evaluate.per_prompt=128",
    "save.every=8",
    "device=cpu",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with every file of the page, as the working directory and on the path; modules made from them are forgotten."""
    for name, code in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "test_my_", "tropism_plane")):
            del sys.modules[name]


def command(*words: str) -> list[str]:
    """The one command of the page that holds all of ``words``."""
    (line,) = [line for line in COMMANDS if all(word in line for word in words)]
    return shlex.split(line)


def obey(words: list[str], out: Path, *changes: str) -> dict[str, list[float]]:
    """Run a ``tropism run`` of the page with less to do. Returns the run's numbers by name."""
    assert words[0] == "tropism"
    done = CliRunner().invoke(cli, [*words[1:], *LESS, *changes, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {name: [row["value"] for row in rows if row["name"] == name] for name in {row["name"] for row in rows}}


class Passed:
    """Counts the tests of a pytest run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.names.append(report.nodeid.rpartition("::")[2])


@pytest.mark.parametrize(("part", "count"), [("reward", 5), ("optimizer", 6), ("generator", 8)])
def test_the_contract_tests_of_the_page_pass(folder, part, count):
    words, passed = command("pytest", f"test_my_{part}.py"), Passed()
    assert words[:3] == ["python", "-m", "pytest"]
    arguments = [*words[3:], "-q", "-c", "/dev/null", "--rootdir", str(folder), "-p", "no:cacheprovider"]
    assert pytest.main(arguments, plugins=[passed]) == 0
    assert len(passed.names) == len(set(passed.names)) == count


def test_the_reward_is_learned(folder):
    numbers = obey(command("run", "my_reward.py"), folder / "run", "train.lr=3e-3")
    before, after = numbers["eval/toy/right"]
    assert abs(before) < 0.3, "the modes are even about the origin"
    assert after > before + 0.2
    right = sys.modules["my_reward"].right
    assert right(torch.tensor([[1.5, 9.0], [-2.0, 9.0]])).tolist() == [1.5, -2.0]


def test_the_optimizer_learns_and_is_the_policy_gradient_at_ratio_one(folder):
    numbers = obey(command("run", "my_optimizer.py"), folder / "run", "train.lr=3e-3")
    before, after = numbers["eval/toy/near"]
    assert after > before + 0.2
    assert len(numbers["train/logp"]) == 8
    policy = ToyPolicy()
    rollout = scored(policy, [{"prompt": "p"}] * 8, DDIM(1.0), 5, torch.linspace(-2, 2, 8))
    (batch,) = batches(rollout, DDIM(1.0), 1, 100)[0]
    gradients = []
    for optimizer in (sys.modules["my_optimizer"].Reinforce(), PolicyGradient()):
        loss = optimizer.loss(policy, batch)[0]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.trainable().parameters()))]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    assert gradients[0].abs().max() > 0


def test_the_generator_is_exact_and_learns(folder):
    numbers = obey(command("run", "my_generator.py"), folder / "run")
    before, after = numbers["eval/toy/near"]
    assert after > before + 0.1
    policy = sys.modules["my_generator"].BlobPolicy()
    with torch.no_grad():
        policy.network.centre.copy_(torch.tensor([1.0, -1.0]))
        found = policy.predict(torch.tensor([[2.0, 0.0]]), Level(torch.tensor([3.0]), torch.tensor([0.6]), torch.tensor([0.8])), {})
    torch.testing.assert_close(found, torch.tensor([[0.8 * (2 - 0.6), 0.8 * 0.6]]))


def test_the_package_is_found_by_its_entry_point_and_its_recipe_runs(folder, monkeypatch):
    project = tomllib.loads(FILES["tropism-plane/pyproject.toml"])["project"]
    package = folder / "tropism-plane" / "src"
    monkeypatch.syspath_prepend(str(package))
    install(package, project)
    catalog = plugins.manager()[1]
    assert catalog.origin["rewards", "plane/ring"] == catalog.origin["recipes", "plane/ring-ddpo"] == "plane"
    assert catalog.distributions["plane"] == "tropism-plane 0.1.0"
    ring = catalog.load("rewards", "plane/ring")(radius=2.0)
    assert ring(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist() == [-3.0, 0.0]
    numbers = obey(command("run", "plane/ring-ddpo"), folder / "run", "train.lr=3e-3")
    before, after = numbers["eval/plane/ring"]
    assert -0.7 < before < -0.3, "the modes are half a unit from the circle"
    assert after > before


def install(package: Path, project: dict) -> None:
    """What pip would write: metadata and entry points beside the package."""
    info = package / "tropism_plane-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((name, target),) = project["entry-points"]["tropism"].items()
    (info / "entry_points.txt").write_text(f"[tropism]\n{name} = {target}\n")
    importlib.invalidate_caches()


def test_every_file_of_the_page_parses_and_python_files_say_what_they_are():
    assert len(FILES) == 11
    for name, code in FILES.items():
        if name.endswith(".py"):
            tree = ast.parse(code)
            assert name.startswith("test_") or ast.get_docstring(tree), name
        elif name.endswith(".yaml"):
            assert parse(code, name).rewards[0].weight == 1.0
        else:
            assert tomllib.loads(code)["project"]["dependencies"] == ["tropism"]
    assert all(len(line) <= 140 for line in PAGE.splitlines())
