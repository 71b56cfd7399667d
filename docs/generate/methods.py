"""Write docs/methods/README.md: every optimizer with its page and its arguments. ``python docs/generate/methods.py`` from the root."""

from __future__ import annotations

import inspect
from pathlib import Path

from tropism import builtin
from tropism.entry import Entry

PAGES = Path(__file__).parents[1] / "methods"
HEAD = """# Methods

Written by `python docs/generate/methods.py` from the optimizers; do not edit. Each page has the formula, the papers, what the arguments
mean and the details that matter. [Samplers of flow and windows of trained steps](flow-samplers.md) have a page too.

| optimizer | learns from | page | arguments and their defaults |
|---|---|---|---|
{rows}

## What keeps them from running away

Options of the methods that learn from preferences: `anchor`, plain training on what is preferred; `keep`, Diffusion-SDPO's safe push on the
loser; `average`, a moving average of the policy as the reference. Where one makes no sense, `tropism check` gives the reason:

{without}
"""


def page_of(entry: Entry) -> str:
    """The page that links an optimizer's file."""
    link = "core/src/tropism/optimizers/" + entry.load().__module__.rpartition(".")[2] + ".py"
    return next((page.name for page in sorted(PAGES.glob("*.md")) if page.name != "README.md" and link in page.read_text()), "")


def arguments(entry: Entry) -> dict[str, object]:
    """The names of an optimizer's arguments with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(entry.load()).parameters.items()}


def text(entries: list[Entry]) -> str:
    rows, without = [], []
    for entry in entries:
        made, page = entry.load(), page_of(entry)
        given = ", ".join(f"`{name}` {str(value).lower()}" for name, value in arguments(entry).items())
        rows.append(f"| `{entry.name}` | {', '.join(sorted(made.needs))} | [{page}]({page}) | {given} |")
        without.extend(f"- `{entry.name}` has no `{name}`: {why}." for name, why in made.without.items())
    return HEAD.format(rows="\n".join(rows), without="\n".join(without))


def optimizers() -> list[Entry]:
    """Those of the core."""
    return list(builtin.register_optimizers())


if __name__ == "__main__":
    (PAGES / "README.md").write_text(text(optimizers()))
