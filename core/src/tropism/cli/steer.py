"""``tropism steer``: better samples of a model as it is, without training."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.table import echo_table

SHOWN = 4  # held-out items that are steered where no prompt is given


@click.command(
    "steer",
    epilog="\b\nExamples:\n  tropism steer toy/ddpo\n  tropism steer image/rlcm-align --particles 8 --method svdd --compare best-of-n\n"
    '  tropism steer runs/mine --prompt "a red apple" steering.lambda=50\n  tropism steer my.yaml rollout.sampler.eta=1.0 --out steered',
)
@click.argument("source", metavar="RECIPE|RUN")
@options.overrides
@click.option("--method", help="A steering method; 'tropism ls steering' lists them.  [default: the recipe's, or fk]")
@click.option("--particles", type=click.IntRange(1), help="First noises of each prompt.  [default: the method's]")
@click.option("--compare", multiple=True, metavar="METHOD", help="May be repeated; best-of-n has as many forwards as the method.")
@click.option("--prompt", "prompts", multiple=True, help=f"May be repeated. Without it: the first {SHOWN} held-out items of the data.")
@click.option("--count", type=click.IntRange(1), default=SHOWN, show_default=True, help="Held-out items, where no prompt is given.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="A new or empty folder.  [default: steered-NAME]")
@click.option("--base", is_flag=True, help="Of a run, its base model instead of its newest weights.")
@options.plugin_files
def command(
    source: str,
    overrides: tuple[str, ...],
    method: str | None,
    particles: int | None,
    compare: tuple[str, ...],
    prompts: tuple[str, ...],
    count: int,
    seed: int,
    out: Path | None,
    base: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Steer samples toward a recipe's rewards, without training.

    The rewards, the sampler and the steps are those of the recipe's rollouts; KEY=VALUE changes them, and steering.KEY=VALUE an argument of
    the method. Every method has the same prompts and first noises. Writes samples, summary.json, metrics.jsonl and report.html.
    """
    from tropism.turning.recipe import steer_recipe

    path = Path(source)
    if path.is_dir() and plugin_files:
        raise click.UsageError("--plugin goes with a recipe; a run has its plugins written down")
    folder = out or Path(f"steered-{path.resolve().name.removesuffix('.yaml') if path.exists() else source.replace('/', '-')}")
    items = [{"prompt": prompt} for prompt in prompts] or count
    told = steer_recipe(
        source, folder, overrides, method, particles, compare, items=items, seed=seed, base=base, plugin_files=plugin_files, say=click.echo
    )
    from tropism.cli.outcome import estimate
    from tropism.report.words import duration

    names = list(dict.fromkeys(name for one in told.outcomes for name in one.metrics))
    rows = [(name, *(estimate(one.metrics[name]) if name in one.metrics else "" for one in told.outcomes)) for name in names]
    rows.append(("forwards", *(f"{one.forwards:,}" for one in told.outcomes)))
    rows.append(("reward calls", *(f"{one.calls:,}" for one in told.outcomes)))
    rows.append(("seconds", *(duration(one.seconds) for one in told.outcomes)))
    rows.append(("peak memory", *("" if one.memory is None else f"{one.memory:,.0f} MiB" for one in told.outcomes)))
    click.echo()
    echo_table(rows, ("metric", *(one.label for one in told.outcomes)))
    click.echo(f"\nfolder  {folder}\nreport  {folder / 'report.html'}")
