"""``tropism sample``: look at what a model makes."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.table import echo_table

SHOWN = 4  # held-out items that are sampled where no prompt is given


@click.command(
    "sample",
    epilog="\b\nExamples:\n  tropism sample runs/toy-ddpo-seed0 --count 16\n  tropism sample runs/toy-ddpo-seed0 --base --out before\n"
    '  tropism sample my.yaml --prompt "a red apple" --prompt "a blue cup"',
)
@click.argument("source", metavar="RECIPE|RUN")
@click.option("--prompt", "prompts", multiple=True, help=f"May be repeated. Without it: the first {SHOWN} held-out items of the data.")
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="Samples of each prompt.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="A new or empty folder.  [default: samples-NAME]")
@click.option("--base", is_flag=True, help="Of a run, its base model instead of its newest weights.")
@options.plugin_files
def command(
    source: str, prompts: tuple[str, ...], count: int, seed: int, out: Path | None, base: bool, plugin_files: tuple[Path, ...]
) -> None:
    """Sample from a run or a recipe.

    Samples come from the newest weights of a RUN or from the base model of a RECIPE; their scores by the recipe's rewards are printed.
    """
    from tropism import api, gallery
    from tropism.types import label

    path = Path(source)
    if path.is_dir() and plugin_files:
        raise click.UsageError("--plugin goes with a recipe; a run has its plugins written down")
    folder = out or Path(f"samples-{path.resolve().name.removesuffix('.yaml') if path.exists() else source.replace('/', '-')}")
    gallery.refuse_full(folder, "--out")
    job = api.trained(path) if path.is_dir() and not base else api.base(source, plugin_files)
    items = [{"prompt": prompt} for prompt in prompts] or job.heldout_items[:SHOWN]
    samples = api.sample(job, items, count, seed)
    names = gallery.write(samples, job.views, folder, len(samples), {})
    rows = [
        (
            name,
            str(int(samples.cond.seed[row])),
            *(f"{values[row].item():.4g}" for values in samples.scores.values()),
            label(samples.cond.items[row]),
        )
        for row, name in enumerate(names)
    ]
    means = ("mean", "", *(f"{values.mean().item():.4g}" for values in samples.scores.values()), "")
    echo_table([*rows, means], ("file", "seed", *samples.scores, "prompt"))
    click.echo(f"\n{folder}")
