"""Step 5: copy what was trained into the package: half precision, captions, feature statistics, and a check of the size.

``python ship.py emoji.npz OUT`` (OUT holds ``teacher``, ``student``, ``flow``, ``scorer-conv`` and ``scorer-patch``).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from emoji import load
from safetensors.torch import save_file

import tropism_image
from tropism_image.evaluators.frechet import moments
from tropism_image.scorers import Scorer

LIMIT = 20 * 2**20
PIPELINES = ("teacher", "student", "flow")
ABSENT = {"flow": {"text_encoder_3": None, "tokenizer_3": None}}  # SD3 without T5
PACKAGE = Path(tropism_image.__file__).parent


def edit(config: Path, changes: dict[str, object]) -> None:
    """Set keys of a json file; a change to None removes the key. Other keys keep their value, null included: it means something there."""
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key not in changes}
    added = {key: value for key, value in changes.items() if value is not None}
    config.write_text(json.dumps({**kept, **added}, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    weights = PACKAGE / "weights"
    shutil.rmtree(weights, ignore_errors=True)
    for name in PIPELINES:
        pipe = DiffusionPipeline.from_pretrained(args.out / name, **ABSENT.get(name, {"safety_checker": None})).to(dtype=torch.float16)
        pipe.save_pretrained(weights / name)
        # A plain from_pretrained should give float32 throughout: transformers takes the type that a configuration names.
        for config in (weights / name).glob("text_encoder*/config.json"):
            edit(config, {"dtype": "float32"})
        for config in [weights / name / "model_index.json", *(weights / name).glob("*/config.json")]:
            edit(config, {"_name_or_path": None})  # where it was made is nobody's business
        # AutoencoderTiny saves a derived key that its own constructor then warns about.
        edit(weights / name / "vae" / "config.json", {"block_out_channels": None})
    for kind in ("conv", "patch"):
        Scorer.from_pretrained(args.out / f"scorer-{kind}" / "scorer").save_pretrained(weights / f"scorer-{kind}")
    data = load(args.data).generated()
    scorer = Scorer.from_pretrained(weights / "scorer-patch")
    mean, cov = moments(scorer.features(data.seen().image.float() / 255))
    save_file({"mean": mean.float(), "cov": cov.float()}, weights / "emoji-statistics.safetensors")
    captions = {"seen": data.seen().caption, "unseen": data.subset(data.heldout).caption}
    (PACKAGE / "data").mkdir(exist_ok=True)
    (PACKAGE / "data" / "captions.json").write_text(json.dumps(captions, ensure_ascii=False, indent=0))
    size = sum(path.stat().st_size for path in weights.rglob("*.safetensors"))
    print(f"{size / 2**20:.2f} MiB of weights")
    if size > LIMIT:
        raise SystemExit(f"over the limit of {LIMIT / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
