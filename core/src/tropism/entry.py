"""Entry: what a plugin says about a thing without importing it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from tropism.errors import PluginError

KINDS = ("policies", "rewards", "optimizers", "samplers", "steering", "credits", "evaluators", "datasets", "recipes", "views", "trackers")


@dataclass(frozen=True)
class Entry:
    """A named, lazily loaded thing: ``Entry("image/jpeg-size", "tropism_image.rewards.jpeg:JpegSize", "JPEG size in kB")``.

    name: ``modality/name`` for a plugin's things, a bare name for what the core offers to every modality.
    target: ``module:attribute``; for a recipe ``package:path/of/file.yaml``.
    extra: the extra that installs what the target needs, e.g. ``tropism-audio[clap]``; quoted in the error when the import fails.
    """

    name: str
    target: str
    summary: str
    extra: str | None = None

    def load(self) -> Any:
        """Import the target. Raises PluginError that names the entry, the missing module and the install line."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # an import can raise anything; whoever asked should learn which entry it was
            remedy = f"install it with: pip install '{self.extra}'" if self.extra else f"the plugin that registers '{self.name}' is broken"
            raise PluginError(f"'{self.name}' cannot be loaded from {self.target}: {type(error).__name__}: {error}\n  {remedy}") from error
