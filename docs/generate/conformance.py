"""Write docs/conformance.md: every family of pipelines through the capture. ``python docs/generate/conformance.py`` from the root."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import diffusers  # noqa: E402
import torch  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from tests.conformance import conform  # noqa: E402
from tests.conformance.families import FAMILIES  # noqa: E402

from tropism.errors import CaptureRefused  # noqa: E402

HEAD = """# What the capture takes

Written by `python docs/generate/conformance.py` with diffusers {diffusers} and torch {torch}; do not edit. Every family is a tiny pipeline
with random weights, built by `tests/conformance`, in float32; the same measurements are tests.

- **replay**: relative error of our prediction at a step that the capture did not learn from.
- **parity**: largest relative distance, over a run of four steps, between our deterministic sampler and the stock pipeline.
  Consistency models draw noise at every step, so they have none.
- **ratio**: largest |log ratio| of the untouched policy against its own rollout; exactly 0 is meant.

{taken} of {all} families are taken; the others are refused with the reason below.

| family | pipeline | denoiser | guidance | predicts | replay | parity | ratio |
|---|---|---|---|---|---|---|---|
{rows}

## Refused

| family | reason |
|---|---|
{refused}
"""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    rows, refused = [], []
    for name, family in FAMILIES.items():
        try:
            m = conform.measure(family)
        except CaptureRefused as reason:
            refused.append(f"| {name} | {str(reason).split(';')[0]} |")
            continue
        parity = "" if m.parity is None else f"{m.parity:.0e}"
        rows.append(
            f"| {name} | {m.pipeline} | {m.denoiser} | {m.guidance} | {m.parametrization} | {m.replay:.0e} | {parity} | {m.ratio:g} |"
        )
        print(rows[-1], flush=True)
    text = HEAD.format(
        diffusers=diffusers.__version__,
        torch=torch.__version__.split("+")[0],
        taken=len(rows),
        all=len(FAMILIES),
        rows="\n".join(rows),
        refused="\n".join(refused),
    )
    (ROOT / "docs" / "conformance.md").write_text(text)


if __name__ == "__main__":
    main()
