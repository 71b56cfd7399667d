"""Every optimizer has a page that names its arguments, the index is what the code says, and stabilisers are there or refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tropism.builtin import register_optimizers

ROOT = Path(__file__).parents[2]
NAMES = [entry.name for entry in register_optimizers()]


@pytest.fixture(scope="module")
def index():
    """The module that writes docs/methods/README.md."""
    spec = importlib.util.spec_from_file_location("write_methods", ROOT / "docs/generate/methods.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=NAMES)
def entry(request):
    return next(entry for entry in register_optimizers() if entry.name == request.param)


def test_every_optimizer_has_a_page_that_names_its_arguments(index, entry):
    page = index.page_of(entry)
    assert page, f"no page in docs/methods links the file of '{entry.name}'"
    text = (ROOT / "docs/methods" / page).read_text()
    assert [name for name in index.arguments(entry) if f"`{name}`" not in text] == [], (
        f"{page} does not name these arguments of '{entry.name}'"
    )


def test_the_index_is_what_the_code_says(index):
    assert (ROOT / "docs/methods/README.md").read_text() == index.text(index.optimizers()), "run python docs/generate/methods.py"


def test_what_learns_from_preferences_has_every_stabiliser_or_says_why_not(index, entry):
    made = entry.load()
    if made.needs & {"pairs", "labels"}:
        options = index.arguments(entry)
        assert all((name in options) != (name in made.without) for name in ("anchor", "keep", "average"))
    assert not made.without.keys() & index.arguments(entry).keys()
