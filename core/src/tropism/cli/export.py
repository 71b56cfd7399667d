"""``tropism export``: what a run has learned, in a format that other programs load."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.table import echo_table


@click.command(
    "export",
    epilog="\b\nExamples:\n  tropism export runs/image-rlcm-compress-seed0 smaller\n"
    "  tropism export runs/image-rlcm-compress-seed0 smaller-pipeline --format merged --dtype float16",
)
@options.run_folder
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--format", "kind", default="lora", show_default=True, metavar="FORMAT", help="lora, kohya, peft, merged or weights.")
@click.option("--weights", metavar="ema|last", help="The averaged or the newest weights.  [default: ema if the run has it]")
@click.option("--dtype", metavar="DTYPE", help="float32, bfloat16 or float16.  [default: an adapter as trained, a pipeline as its base]")
@click.option("--license", "licence", default="", metavar="ID", help="For the model card, such as apache-2.0.  [default: the base model's]")
def command(run: Path, out: Path, kind: str, weights: str | None, dtype: str | None, licence: str) -> None:
    """Export what a run has learned.

    RUN's newest checkpoint goes to the new folder OUT, with a model card. It is loaded back into a base model loaded anew and compared;
    what gives something else is refused.
    """
    from tropism import exports
    from tropism.exports import compare

    done = exports.export(run, out, kind, weights=weights, dtype=dtype, license=licence)
    echo_table(
        [
            ("format", f"{kind}: {exports.FORMATS[kind].summary}"),
            ("weights", f"{done.weights}, {dtype or 'precision kept'}"),
            ("loaded back", f"largest difference {done.found}"),
            ("training", f"moved the predictions by {done.moved.relative:.2g} of their size, the samples by up to {done.moved.sample:.2g}"),
        ]
    )
    if note := compare.remark(done.found, done.moved):
        click.echo(f"note: {note}")
    click.echo(f"\n{out}")
