"""Write docs/recipes.md: the recipes for real models and what memory each needs. ``python docs/generate/recipes.py`` from the root."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.image import memory, real  # noqa: E402

from tropism import api, plugins  # noqa: E402
from tropism.recipe import Part, Recipe  # noqa: E402

HEAD = """# Recipes for real models

Written by `python docs/generate/recipes.py` from the recipe files; do not edit. `tropism show image/sdxl-ddpo` prints a recipe with its
settings and their sources, `tropism cp image/sdxl-ddpo my.yaml` copies one, `tropism run image/sdxl-ddpo rollout.batch=1` runs one with
changes. **None of them has been measured yet on real weights**: each runs for two updates on a tiny random pipeline of the same classes in
the tests, and its adapter is tested against the real network without weights. Measured recipes for the small models that ship with tropism:
`tropism ls recipes`.

| recipe | model | learns by | steps | samples an iteration | LoRA | trained on | only watched |
|---|---|---|---|---|---|---|---|
{recipes}

All load weights in bfloat16: gradients of a mean over thousands of dimensions are too small for float16. A training batch is the rollout's
own batch, and an update a whole number of them, so that the first ratio is exactly 1 also in half precision, where results depend on the
shape of a batch. `rollout.batch` changes memory and speed, not what is learned; `rollout.samples` and `rollout.group` change that.

The recipe for clips scores four of their frames as pictures and watches how much they move.

## Memory

Estimates, not measurements, in GB of 10^9 bytes; a card of 16, 24, 48 or 80 GB has 17.2, 25.8, 51.5 or 85.9 of them, less what the desktop
takes.

    sum = weights + rewards + adapter + kept + 1.1 max(update, decoding) + 1.0

- **weights**: of all parts of the pipeline, 2 bytes each, from the table below; text encoders stay on the device. **rewards**: 2 bytes
  each, those only watched too.
- **adapter**: its weights, gradients and two moments, 4 bytes each; an average or an older copy 4 more.
- **kept**: states of the trained steps, 4 bytes a number, and the text conditions of each sample of an iteration.
- **update**: activations of a forward and a backward of `rows` through the real network, guidance counted; **decoding**: of a batch by the
  autoencoder. Both are counted by running the real architecture on torch's meta device and adding up what is alive, with fused attention.
- 1.1 and 1.0 stand for fragments, workspaces of kernels and the CUDA context.

| recipe | card | changes | rows | weights | rewards | adapter | kept | update | decoding | sum |
|---|---|---|---|---|---|---|---|---|---|---|
{memory}

Where a card is missing, the model does not fit: FLUX.1-dev's network alone has 23.8 GB, Qwen-Image's 40.9 GB and its text encoder 16.6 GB,
and weights of fewer bits cannot be loaded yet.

| network | weights | GB in half precision |
|---|---|---|
{sizes}
"""
PARTS = {"policy-gradient": "policy gradient", "nft": "DiffusionNFT"}
SAMPLERS = {"ddim": "DDIM", "consistency": "consistency", "flow-sde": "flow SDE", "ode": "ODE"}


def recipe_row(recipe: Recipe) -> str:
    """What the first table says of a recipe."""
    rollout, adapter = recipe.rollout, recipe.adapter
    window = rollout.window
    trained = f", {window.size} trained" if window else ""
    call = recipe.policy.arguments["call"]
    groups = f" in groups of {rollout.group}" if rollout.group > 1 else ""
    learns = f"{PARTS[recipe.optimizer.use]}, {SAMPLERS[rollout.sampler.use]}" + (", window" if window else "")
    cells = [
        f"`{recipe.name}`",
        f"{recipe.policy.arguments['source']}, {call['width']} px" + (f", {call['num_frames']} frames" if "num_frames" in call else ""),
        learns,
        f"{rollout.steps}{trained}",
        f"{rollout.samples}{groups}",
        f"rank {adapter.rank} on {len(adapter.targets)} projections",
        names(recipe.rewards),
        names(recipe.evaluate.rewards),
    ]
    return f"| {' | '.join(cells)} |"


def names(parts: tuple[Part, ...]) -> str:
    return ", ".join(_name(part) for part in parts)


def _name(part: Part) -> str:
    inner = part.arguments.get("reward")
    return f"{inner['use'].removeprefix('image/')} of frames" if inner else part.use.removeprefix("image/")


def memory_row(recipe: Recipe, card: int, changes: list[str], need: memory.Need) -> str:
    """What the second table says of a variant."""
    said = " ".join(f"`{change}`" for change in changes) or "as it stands"
    parts = (need.weights, need.rewards, need.adapter, need.kept, need.update, need.decode)
    cells = [f"`{recipe.name}`", f"{card} GB", said, str(memory.rows(recipe)), *(f"{part:.1f}" for part in parts), f"**{need.total:.0f}**"]
    return f"| {' | '.join(cells)} |"


def size_rows() -> list[str]:
    """Every network once, under all names that it has, the largest first."""
    found: dict[int, dict[str, None]] = {}
    for name, model in real.MODELS.items():
        for part, build in {f"network of {name.split('/')[1]}": model.denoiser, **model.parts, **real.REWARDS}.items():
            found.setdefault(memory.weights_of(build), {})[part] = None
    return [f"| {', '.join(found[count])} | {count:,} | {2 * count / memory.GB:.1f} |" for count in sorted(found, reverse=True)]


def variants(text: str) -> dict[int, list[str]]:
    """The sizes of cards that a recipe's header names, with the overrides for each."""
    found = re.findall(r"^#\s+(\d+) GB: (.*)$", text, re.MULTILINE)
    return {int(card): [] if said == "as it stands" else said.split() for card, said in found}


def main() -> None:
    warnings.simplefilter("ignore")
    _, catalog = plugins.manager()
    recipes, needs = [], []
    for name in real.MODELS:
        text = api.recipe_text(name, catalog)
        recipes.append(recipe_row(api.load_recipe(name, catalog)[0]))
        for card, changes in variants(text).items():
            made = api.load_recipe(name, catalog, changes)[0]
            needs.append(memory_row(made, card, changes, memory.need(made)))
            print(needs[-1], flush=True)
    page = HEAD.format(recipes="\n".join(recipes), memory="\n".join(needs), sizes="\n".join(size_rows()))
    (ROOT / "docs" / "recipes.md").write_text(page)


if __name__ == "__main__":
    main()
