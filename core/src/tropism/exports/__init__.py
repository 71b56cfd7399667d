"""What a run has learned, for use elsewhere: in the formats of diffusers and kohya, loaded back and compared before it counts as written.

Named ``exports`` so that ``tropism.export`` can be the function: a module of that name would take its place once imported.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.entry import Entry
from tropism.errors import TropismError, nearest

if TYPE_CHECKING:
    from tropism.exports.compare import Difference

FORMATS = {
    entry.name: entry
    for entry in (
        Entry("lora", "tropism.exports.lora:LoraFile", "the adapter alone, for load_lora_weights of diffusers"),
        Entry("kohya", "tropism.exports.kohya:KohyaFile", "the adapter of a U-Net under kohya's names, for other programs"),
        Entry("peft", "tropism.exports.peft_adapter:PeftAdapter", "the adapter as peft keeps it, for networks that have no LoRA loader"),
        Entry("merged", "tropism.exports.merged:MergedPipeline", "the whole pipeline with what was learned inside its weights"),
        Entry("weights", "tropism.exports.weights:Weights", "the network's weights as one safetensors file; for any policy"),
    )
}
WEIGHTS, DTYPES = ("ema", "last"), ("float32", "bfloat16", "float16")


class ExportError(TropismError):
    """A run that cannot be exported as asked, or an export that does not give back what was learned."""


@dataclass(frozen=True)
class Exported:
    """A written folder. ``weights``: which were taken; ``found``: the export, loaded back, against the trained policy;
    ``moved``: the base model against it, so that a small difference can be told from a small training."""

    folder: Path
    format: str
    weights: str
    found: Difference
    moved: Difference


def export(
    run: Path | str, out: Path | str, format: str = "lora", *, weights: str | None = None, dtype: str | None = None, license: str = ""
) -> Exported:
    """Write the newest checkpoint of ``run`` to the new folder ``out``, load it back into a base model loaded anew, and compare.

    weights: ``ema`` or ``last``; the average where the run has one, if not given. dtype: of what is written; that in which an adapter was
    trained, or the base model's for whole weights, if not given. license: an identifier of the Hub for the card, such as ``apache-2.0``.
    Raises ExportError for what does not fit the run, and where the difference is above the format's tolerance: then nothing is left at
    ``out``. Two copies of the pipeline are in memory at once.
    """
    run, out = Path(run), Path(out)
    for name, known, what in ((format, FORMATS, "format"), (weights, WEIGHTS, "weights"), (dtype, DTYPES, "dtype")):
        if name is not None and name not in known:
            raise ExportError(f"unknown {what} '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    if license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ExportError(f"licence '{license}': expected an identifier of the Hub, such as apache-2.0, mit or openrail++")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder; an export overwrites nothing, so name another or remove it")
    partial = out.with_name(f".{out.resolve().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        found = _written(run, partial, format, weights, dtype, license)
        if out.exists():
            out.rmdir()
        partial.rename(out)  # so that what lies at ``out`` has been checked
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, format, *found)


def _written(run: Path, out: Path, format: str, weights: str | None, dtype: str | None, license: str) -> tuple[str, Difference, Difference]:
    import torch

    from tropism.exports import card, compare
    from tropism.exports.learned import Learned

    chosen: Any = FORMATS[format].load()()
    learned = Learned.open(run, weights)
    if refusal := chosen.refusal(learned):
        raise ExportError(f"{run} cannot be exported as '{format}': {refusal}")
    stored = getattr(torch, dtype) if dtype else None
    base = learned.fresh()
    with learned.chosen():
        truth = compare.trace(learned)
        moved, unit = compare.against(truth, base, learned), compare.unit(base, stored)
        chosen.write(learned, base, out, stored)
        try:
            chosen.load(base, out)
        except Exception as error:  # whatever a loader raises means that the export does not load
            raise ExportError(f"what was written as '{format}' does not load again: {type(error).__name__}: {error}") from error
        found = compare.against(truth, base, learned)
        compare.judge(found, chosen.exact, unit, format)
        compare.same_layers(chosen, learned, base)
    card.write(out, learned, chosen, format, dtype, license, found, moved)
    return learned.weights, found, moved
