"""The contract of a plugin, on one screen.

A plugin is an installed package with an entry point in the group ``tropism`` (or one file given with ``--plugin``) whose module
implements some of these hooks with ``@tropism.hookimpl``. Register hooks return lists of :class:`tropism.Entry`: data, not classes, so
that listing imports nothing heavy. Event hooks are called by the run loop and may take fewer arguments than are listed here.

    from tropism import Entry, hookimpl

    @hookimpl
    def register_rewards():
        return [Entry("image/redness", "my_plugin:redness", "mean red minus mean green and blue")]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from tropism.entry import Entry

if TYPE_CHECKING:
    import click

    from tropism.loop import Run
    from tropism.types import Rollout

spec = pluggy.HookspecMarker("tropism")
hookimpl = pluggy.HookimplMarker("tropism")


@spec
def register_policies() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Generators: factories (class or function) that build a :class:`tropism.policy.Policy` from the recipe's arguments."""


@spec
def register_rewards() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Rewards: functions, or classes whose instances are called; argument names say what they need (``image``, ``prompt``, ...)."""


@spec
def register_optimizers() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Alignment algorithms: subclasses of :class:`tropism.optimizers.base.Optimizer` with ``needs`` and ``loss``."""


@spec
def register_samplers() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Transition kernels: classes with ``levels``, ``deviation`` and ``mean`` (:class:`tropism.diffusion.samplers.Sampler`)."""


@spec
def register_steering() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Steering methods: subclasses of :class:`tropism.steering.base.Method` with ``particles``, ``needs`` and ``run``."""


@spec
def register_credits() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Credit rules: classes that turn the scores of a rollout into advantages."""


@spec
def register_evaluators() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Evaluators: classes whose instances yield ``(name, value)`` for a set of samples; a tensor of values gets an interval."""


@spec
def register_datasets() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Data: classes with ``train`` and ``heldout``, lists of items such as ``{"prompt": "red apple"}``; and readers of judged media for
    offline runs, subclasses of :class:`tropism.data.layout.Layout`."""


@spec
def register_recipes() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Recipes: entries whose target is ``package:recipes/file.yaml``."""


@spec
def register_views() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Views: classes with ``save(media, folder, stem) -> file name``, ``html(file) -> fragment`` and, so that media of data sets can be
    learned from, ``load(parts, shape) -> tensor`` (the bytes of a file, or of a clip's frames); named ``modality/kind``."""


@spec
def register_trackers() -> Sequence[Entry]:  # type: ignore[empty-body]
    """Trackers: classes whose instances implement the event hooks below; a recipe switches them on under ``track``."""


@spec
def register_commands(cli: click.Group) -> None:
    """Add subcommands to the command line: ``cli.add_command(my_command)``."""


@spec
def on_run_start(run: Run) -> None:
    """The policy is built and, on resume, restored; nothing has been sampled."""


@spec
def on_rollout(run: Run, rollout: Rollout) -> None:
    """A rollout was sampled, scored and credited; the update comes next."""


@spec
def on_metrics(run: Run, step: int, metrics: dict[str, float]) -> None:
    """Numbers were logged for an update (or, with names below ``eval/``, for an evaluation)."""


@spec
def on_evaluate(run: Run, step: int, folder: Path) -> None:
    """An evaluation has finished; ``folder`` holds its samples and their ``index.json``."""


@spec
def on_checkpoint(run: Run, folder: Path) -> None:
    """A checkpoint was written, whole."""


@spec
def on_run_end(run: Run, status: str) -> None:
    """The run ended: ``finished``, ``guarded``, ``interrupted`` or ``failed``. Called also when it failed."""
