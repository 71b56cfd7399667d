"""What the base model gives when it is steered instead of trained: a baseline beside every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tropism import assemble
from tropism.errors import RecipeError
from tropism.evaluate import Estimate, estimates
from tropism.plugins import Catalog
from tropism.recipe import Part
from tropism.rewards.base import units
from tropism.rewards.slices import raw_scores
from tropism.sampling import EVALUATION_SEED
from tropism.turning.particles import steered
from tropism.types import Item, Rollout, content

if TYPE_CHECKING:
    from tropism.loop import Run


class Steered:
    """The evaluator ``steered``: one sample of each prompt that the samples are of, the best of ``particles`` that ``method`` steers with
    the base model's weights and the rollout's sampler; all rewards of it, as ``fk-4/image/alignment``. Made once for the same prompts.

    method: a name, or ``{use: fk, lambda: 50}``. A trained model's sample costs a K-th of its forwards: training pays where it comes near.
    """

    def __init__(self, method: str | Mapping[str, Any] = "fk", particles: int = 4) -> None:
        given = {"use": method} if isinstance(method, str) else dict(method)
        self.part = Part.model_validate({**given, "particles": particles})
        self.run: Run | None = None
        self.asked: list[str] = []
        self.found: dict[str, Estimate] = {}

    def attach(self, run: Run, catalog: Catalog) -> None:
        """Called once when the run has its model. Raises RecipeError for a method that cannot work with it."""
        rollout = run.recipe.rollout.model_copy(update={"steering": False})  # it steers for itself, whatever the run does
        recipe = run.recipe.model_copy(update={"steering": self.part, "rollout": rollout})
        if run.engine.sharded is not None:
            raise RecipeError("evaluator 'steered' samples in one process, which has not all weights of a sharded model; leave it out")
        self.run, self.method = run, assemble.check(recipe, catalog, where="evaluator 'steered'").steering

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        first = dict(zip(reversed(samples.cond.group.tolist()), reversed(samples.cond.items), strict=True))  # the first of each prompt's
        items = [first[group] for group in dict.fromkeys(samples.cond.group.tolist())]
        asked = [content(item) for item in items]
        if asked != self.asked:
            self.asked, self.found = asked, self._measured(items)
        yield from self.found.items()

    def _measured(self, items: list[Item]) -> dict[str, Estimate]:
        run, method = self.run, self.method
        assert run is not None and method is not None
        with run.trainable.reference():
            parts = [made.rollout(cond) for cond, made in steered(run, items, method, EVALUATION_SEED)]
        chosen = Rollout.cat(parts)
        scores = raw_scores(run.rewards, chosen, run.recipe.rollout.batch, run.engine.device)
        name = f"{self.part.use}-{method.particles}"
        found = estimates(scores, chosen.cond.group, units(run.rewards))
        return {f"{name}/{reward}": estimate for reward, estimate in found.items()}
