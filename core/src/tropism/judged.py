"""Why an offline run cannot be: what an optimizer, a policy, a view and a data set must be to learn from judged media."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tropism.data.layout import Layout
from tropism.data.records import Label, Preference, Record
from tropism.data.stream import Stream
from tropism.data.unpaired import Unpaired
from tropism.errors import TropismError
from tropism.optimizers.base import Optimizer
from tropism.plugins import Catalog, views
from tropism.recipe import Recipe

Problems = Iterator[tuple[tuple[str | int, ...], str]]
LOOK = 64  # rows that are read of a data set before a run, to see what kind of records it has


def reader(layout: Any, optimizer: Any) -> Any:
    """The reader as the optimizer needs it: an optimizer of labels is given pairs as two labels each."""
    return Unpaired(layout) if isinstance(layout, Layout) and "labels" in getattr(optimizer, "needs", ()) else layout


def misplaced(recipe: Recipe, data: Any, layout: Any) -> Problems:
    """A reader where prompts belong, or the reverse."""
    if isinstance(data, Layout):
        yield (
            ("data",),
            f"'{recipe.data.use}' reads judged media, which a run that makes its own samples cannot use; name it under offline, with an "
            "optimizer that learns from pairs or labels, and under data the prompts of the evaluation",
        )
    if recipe.offline is not None and layout is not None and not isinstance(layout, Layout):
        yield ("offline",), f"'{recipe.offline.use}' is no reader of judged media; it belongs under data"


def misfits(recipe: Recipe, policy: Any, emits: set[str] | None, optimizer: Optimizer, layout: Layout, catalog: Catalog) -> Problems:
    """policy: the class of the recipe's policies; emits: its kinds of media; None where they are not known."""
    part, name, rollout = recipe.offline, recipe.optimizer.use, recipe.rollout
    assert part is not None
    if optimizer.needs not in (frozenset({"pairs"}), frozenset({"pairs", "segments"}), frozenset({"labels"})):
        yield (
            ("optimizer",),
            f"'{name}' learns from {_words(optimizer)} of rollouts, and an offline run makes none; use dpo, inpo, smpo or densedpo for "
            "pairs, kto or dro for labels (or for pairs, whose two media then have a label each)",
        )
        return
    for key, there in (("rewards", recipe.rewards), ("credit", recipe.credit.use != "batch")):
        if there:
            yield (key,), f"an offline run learns from judgements that are there already, not from {key}; leave it out"
    if not recipe.evaluate.rewards and not recipe.evaluate.evaluators:
        yield ("evaluate",), "nothing says whether this run helps: name rewards or evaluators under evaluate"
    if rollout.group != 1 or rollout.window is not None or rollout.start != "sample":
        yield ("rollout",), "group, window and start are of rollouts, and an offline run makes none; leave them out"
    if "segments" in optimizer.needs and part.axis is None:
        yield ("offline",), f"'{name}' learns from segments; write axis: 2, or whichever axis of x0 [B, ...] they lie along"
    if policy is not None and not hasattr(policy, "embed"):
        yield (
            ("policy",),
            f"'{recipe.policy.use}' does not say how media become its samples (it has no 'embed'), so it cannot learn from them",
        )
    known = views(catalog)
    for kind in emits or ():
        if not hasattr(known.get(kind), "load"):
            yield (
                ("policy",),
                f"no view of '{kind}' reads files (has 'load'), so media of '{recipe.policy.use}' cannot be taken from a data set",
            )
    try:
        yield from _found(next(Stream(layout, seed=None, window=LOOK, ties=part.ties)), recipe, optimizer)
    except TropismError as error:
        yield ("offline",), str(error)


def _found(record: Record, recipe: Recipe, optimizer: Optimizer) -> Problems:
    assert recipe.offline is not None
    name, data = recipe.optimizer.use, recipe.offline.use
    if isinstance(record, Label) and "pairs" in optimizer.needs:
        yield ("offline",), f"'{name}' learns from pairs, but '{data}' finds labels here; use kto or dro"
    if isinstance(record, Preference) and "segments" in optimizer.needs and not record.segments:
        yield ("offline",), f"'{name}' learns from segments, but '{data}' finds none here; use dpo"


def _words(optimizer: Optimizer) -> str:
    return " and ".join(sorted(optimizer.needs))
