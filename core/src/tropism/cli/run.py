"""``tropism run``: a recipe from start to end."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options


@click.command(
    "run",
    epilog="\b\nExamples:\n  tropism run toy/ddpo\n  tropism run my.yaml train.lr=3e-4 seed=1 --runs experiments\n"
    "  tropism run my.yaml --plugin my_reward.py --out runs/mine\n  tropism run my.yaml --nproc 4",
)
@click.argument("recipe")
@options.overrides
@options.plugin_files
@options.processes
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="The run folder itself; it must hold no run yet.")
@click.option(
    "--runs", metavar="DIR", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where the run folder is made."
)
def command(recipe: str, overrides: tuple[str, ...], plugin_files: tuple[Path, ...], nproc: int, out: Path | None, runs: Path) -> None:
    """Run a recipe to its end.

    RECIPE is a file or a registered name; KEY=VALUE changes a value of it, such as train.lr=3e-4.

    With --nproc the samples of each iteration are made and learned from by N processes. (torchrun and accelerate launch do as well:
    torchrun --nproc-per-node 4 -m tropism run my.yaml)

    Ctrl-C once saves and stops (exit status 130; go on with 'tropism resume'), twice stops at once.
    """
    from tropism import api
    from tropism.cli.outcome import finish
    from tropism.cli.together import together

    if nproc > 1:
        together(api.prepare(recipe, overrides, folder=out, root=runs, plugin_files=plugin_files, size=nproc), nproc)
        return
    folder, status = api.run(recipe, overrides, folder=out, root=runs, plugin_files=plugin_files)
    finish(folder, status)
