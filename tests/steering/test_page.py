"""docs/steering.md: its program runs and prints what it says, and every argument of the methods is on it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from tropism import builtin
from tropism.steering.fk import Fk

PAGE = (Path(__file__).parents[2] / "docs/steering.md").read_text()


def test_its_program_prints_the_exact_answer_and_an_estimate_near_it(capsys):
    program = re.search(r"```python\n(import torch.*?)```", PAGE, re.DOTALL)
    exec_globals: dict[str, object] = {}
    exec(compile(program[1].replace("prompts=300", "prompts=40"), "docs/steering.md", "exec"), exec_globals)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "log Z, exact 1.227"
    assert abs(float(lines[1].split()[3]) - 1.227) < 0.2


def test_every_argument_and_every_default_is_told():
    for name, parameter in inspect.signature(Fk).parameters.items():
        told = "lambda" if name == "lam" else name
        row = re.search(rf"^\| `{told}` \| `?([^|]*?)`? \|", PAGE, re.MULTILINE)
        assert row, f"{told} is not on the page"
        if isinstance(parameter.default, str | int | float):
            assert row[1] == f"{parameter.default:g}" if isinstance(parameter.default, float) else str(parameter.default)
    assert f"`{{ess: {Fk().lam['ess']}}}`" in PAGE


def test_the_methods_of_the_page_are_registered():
    registered = {entry.name for entry in builtin.register_steering()}
    assert set(re.findall(r"^\| `([a-z-]+)` \| [^|]* \| (?:any|with noise) \|", PAGE, re.MULTILINE)) <= registered
