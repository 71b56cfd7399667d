"""Pairs of a model's own samples, judged by a recipe's rewards and written as a data set: what offline recipes can begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tropism.diffusion.noise import sample_seed
from tropism.errors import RecipeError
from tropism.judges import Judge
from tropism.rewards.slices import raw_scores
from tropism.rollouts import Rollouts
from tropism.types import Rollout

if TYPE_CHECKING:
    from tropism.loop import Run

FILE = "feedback.jsonl"


def write(job: Run, folder: Path, count: int) -> int:
    """``count`` pairs as media and ``feedback.jsonl`` in ``folder``: samples of the base model, judged by the recipe's rewards and judge.

    The file is one for ``folder`` readers, and where the judge has no scale for ``feedback`` too. Ties are left out; returns how many there
    were. Raises RecipeError where the recipe has no judge.
    """
    source, step, rollout = job.source, job.step, job.recipe.rollout
    if "branches" in job.optimizer.needs:
        raise RecipeError(f"recipe {job.recipe.name} judges what single steps promise, not finished samples; take one with dpo")
    if not isinstance(job.credit, Judge) or not isinstance(source, Rollouts):
        raise RecipeError(
            f"recipe {job.recipe.name} compares no samples of its own; write credit: {{use: best-worst}} and rollout.group: 2"
        )
    written = ties = 0
    (folder / "media").mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("w") as file:
        while written < count:
            made = source.collect()
            made.scores = raw_scores({part.name: part.reward for part in job.combined.parts}, made, rollout.batch, job.engine.device)
            lines, equal = _lines(job, source.credited(made)[0], made, folder / "media", count - written)
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            written, ties, job.step = written + len(lines), ties + equal, job.step + 1
            if job.step - step > 100 and not written:
                raise RecipeError(f"100 rollouts of recipe {job.recipe.name} hold no two samples that its rewards tell apart")
    return ties


def _lines(job: Run, judged: Rollout, made: Rollout, media: Path, most: int) -> tuple[list[dict[str, object]], int]:
    """A line a pair, and the number of ties; media that a pair names are saved."""
    couples, (kind, values) = judged.couples, next(iter(made.media.items()))
    assert couples is not None
    view, lines, ties = job.views[kind], list[dict[str, object]](), 0
    names: dict[int, str] = {}
    who = " + ".join(f"{part.weight:g} {part.name}" for part in job.combined.parts)
    rows = zip(couples.winner.tolist(), couples.loser.tolist(), couples.weight.tolist(), couples.chance.tolist(), strict=True)
    for winner, loser, weight, chance in rows:
        if not weight:
            ties += 1
            continue
        if len(lines) == most:
            break
        for row in (winner, loser):
            if row not in names:
                names[row] = f"media/{view.save(values[row], media, f'{job.step * len(made) + row:07d}')}"
        seeds = [int(made.cond.seed[row]) for row in (winner, loser)]
        seed = sample_seed(min(seeds), max(seeds))
        first, second = (winner, loser) if seed % 2 else (loser, winner)  # a winner is not always the first
        sure = chance if first == winner else 1 - chance
        item = made.cond.items[winner]
        if not isinstance(item.get("prompt"), str):
            raise RecipeError(f"a pair needs a prompt, and the data of recipe {job.recipe.name} has items such as {item}")
        said: object = {1.0: "a", 0.0: "b"}.get(sure, sure)
        lines.append({"prompt": item["prompt"], "a": names[first], "b": names[second], "choice": said, "annotator": who, "seed": seed})
    return lines, ties
