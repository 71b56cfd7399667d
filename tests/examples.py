"""What the tests of examples share: an example as a module, and the command that its head gives."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType


def load(file: Path) -> ModuleType:
    """A script as a module, without running what is under its ``__main__``."""
    spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(head: str) -> tuple[str, list[str], list[str]]:
    """The ``tropism run`` of a docstring: the recipe, its changes, and the two last words."""
    line = re.search(r"^ +tropism run (.*?)\n\n", head, re.DOTALL | re.MULTILINE)
    assert line is not None
    name, *words = shlex.split(line[1].replace("\\\n", ""))
    return name, words[:-2], words[-2:]
