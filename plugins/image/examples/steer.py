"""Steering (Feynman-Kac, arXiv 2501.06848) in three lines: pictures that fit their prompt better, of a diffusers pipeline as it is.

    python plugins/image/examples/steer.py --prompt "red apple" --particles 8

It prints what steering did and saves ``steer.png``: the best of as many independent samples (left), and the best steered one (right).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import tropism
from tropism_image.shipped import STUDENT
from tropism_image.view import ImageView

CALL = {"guidance_scale": 3.0, "height": 64, "width": 64}


def main(prompt: str, particles: int, folder: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(str(STUDENT), use_safetensors=True)
    plain = tropism.steer(pipe, prompt, "image/alignment", particles, "best-of-n", call=CALL)
    found = tropism.steer(pipe, prompt, "image/alignment", particles, call=CALL)
    for name, made in {"best of n": plain, "steered": found}.items():
        best, mean = made.reward.max().item(), made.mean_reward.item()
        print(f"{name}: reward {best:.4f}, mean {mean:.4f}; {made.roots.item()} of {particles} noises live on; {made.forwards} forwards")
    ImageView().save(torch.cat([plain.samples[0], found.samples[0]], 2), folder, "steer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="red apple")
    parser.add_argument("--particles", type=int, default=8)
    given = parser.parse_args()
    main(given.prompt, given.particles, Path())
