"""What an evaluation found and made, in a folder of its own: the numbers and the samples of the base model and of a run's weights.

``summary.json``, ``samples/step-*`` and, from these alone, ``report.html``: the page of a run that has been evaluated and not trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tropism import gallery, report
from tropism.evaluate import Estimate
from tropism.report.read import Change, Interval, Summary
from tropism.types import Rollout

if TYPE_CHECKING:
    from tropism.loop import Run


def write(job: Run, folder: Path, samples: tuple[Rollout, Rollout], found: tuple[dict[str, Estimate], dict[str, Estimate]]) -> Path:
    """Write the samples of the recipe's ``evaluate.show`` first prompts and the page. samples, found: the base model's, then those of
    ``job``'s weights, of iteration ``job.step``. Returns the page."""
    recipe, (before, after) = job.recipe, found
    trained = job.step * recipe.rollout.samples
    for step, made in {0: samples[0], job.step: samples[1]}.items():
        counters = {"step": step, "samples": step * recipe.rollout.samples}
        most = recipe.evaluate.show * recipe.evaluate.per_prompt
        gallery.write(made, job.views, folder / "samples" / f"step-{step:08d}", most, counters)
    summary = Summary(
        recipe=recipe.name,
        seed=recipe.seed,
        seconds=job.clock.elapsed(),
        phases={},
        samples=trained,
        status="evaluated",
        trained=[part.use for part in recipe.rewards],
        alarms=[],
        metrics={name: Change(before=Interval(*before[name].as_list()), after=Interval(*after[name].as_list())) for name in after},
        units={name: reward.unit for name, reward in job.rewards.items() if hasattr(reward, "unit")},
    )
    (folder / "summary.json").write_text(summary.model_dump_json(indent=1))
    return report.build(folder, job.views)
