"""A sheet of samples: ``python sheet.py FOLDER OUT.png [--steps 4] [--guidance 3] [PROMPT ...]``; rows are seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from emoji import SHOWN
from flow import NOTHING
from PIL import Image
from ship import ABSENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("prompts", nargs="*", default=list(SHOWN))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rows", type=int, default=3)
    args = parser.parse_args()
    flow = "StableDiffusion3" in (args.folder / "model_index.json").read_text()
    absent, options = ABSENT["flow"] if flow else {"safety_checker": None}, {"max_sequence_length": NOTHING} if flow else {}
    pipe = DiffusionPipeline.from_pretrained(args.folder, **absent)
    pipe.set_progress_bar_config(disable=True)
    sheet = Image.new("RGB", (64 * len(args.prompts), 64 * args.rows), "white")
    for row in range(args.rows):
        generator = torch.Generator().manual_seed(row)
        images = pipe(
            args.prompts, num_inference_steps=args.steps, guidance_scale=args.guidance, height=64, width=64, generator=generator, **options
        ).images
        for column, image in enumerate(images):
            sheet.paste(image, (64 * column, 64 * row))
    sheet.save(args.out)


if __name__ == "__main__":
    main()
