"""What an evaluation found and made, in a folder of its own: the numbers and the samples of the base model and of a run's weights.

``summary.json``, ``samples/step-*``, ``evaluated.yaml`` (the recipe; ``recipe.yaml`` would make it a run, to be resumed), ``env.json`` and,
from these alone, ``report.html``: the page of a run that has been evaluated and not trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tropism import gallery, report, runfolder
from tropism.evaluate import Estimate
from tropism.report.read import Change, Interval, Summary
from tropism.rewards.base import units
from tropism.types import Rollout

if TYPE_CHECKING:
    from tropism.loop import Run


def write(
    job: Run, folder: Path, samples: tuple[Rollout, Rollout], found: tuple[dict[str, Estimate], dict[str, Estimate]], seconds: float
) -> Path:
    """Write the samples of the recipe's ``evaluate.show`` first prompts and the page. samples, found: the base model's, then those of
    ``job``'s weights, of iteration ``job.step``. seconds: that the evaluation of both has taken. Returns the page."""
    recipe, (before, after) = job.recipe, found
    most = recipe.evaluate.show * recipe.evaluate.per_prompt
    for step, made, beside in ((0, samples[0], False), (job.step, samples[1], job.step == 0)):
        counters: dict[str, int | str] = {"step": step, "samples": step * recipe.rollout.samples}
        if beside:  # weights that no update has made: the step does not tell them from the base model's
            counters["model"] = "update 0"
        name = f"step-{step:08d}{'-weights' if beside else ''}"
        gallery.write(made, job.views, folder / "samples" / name, most, counters)
    (folder / "env.json").write_text(json.dumps(runfolder.environment(), indent=1))
    (folder / "evaluated.yaml").write_text(recipe.dump())
    summary = Summary(
        recipe=recipe.name,
        seed=recipe.seed,
        seconds=round(seconds, 2),
        phases={},
        samples=sum(map(len, samples)),  # those of this evaluation, as the seconds are
        status="evaluated",
        trained=[part.use for part in recipe.rewards],
        alarms=[],
        metrics={name: Change(before=Interval(*before[name].as_list()), after=Interval(*after[name].as_list())) for name in after},
        units=units(job.rewards),
    )
    (folder / "summary.json").write_text(summary.model_dump_json(indent=1))
    return report.build(folder, job.views)
