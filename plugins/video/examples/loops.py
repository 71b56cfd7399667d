"""A reward of your own on clips, and any video pipeline of diffusers steered toward it: clips that move, and end where they began.

    python plugins/video/examples/loops.py --from Wan-AI/Wan2.1-T2V-1.3B-Diffusers --prompt "a fan that turns" --particles 4

It prints what steering (Feynman-Kac, arXiv 2501.06848) did and saves ``independent.webp``, the best of as many independent clips, and
``steered.webp``. The same file is a plugin, so that a model can be trained toward the reward:

    tropism run video/wan21-grpo 'rewards=[{use: video/loops}]' name=video/wan21-loops --plugin plugins/video/examples/loops.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

import tropism
from tropism import Entry, hookimpl
from tropism_video.evaluators.motion import motion
from tropism_video.view import VideoView

CALL = {"guidance_scale": 4.5, "height": 240, "width": 416, "num_frames": 33, "num_inference_steps": 25}


@hookimpl
def register_rewards() -> list[Entry]:
    return [Entry("video/loops", "loops:loops", "how much a clip moves, less how far its last frame is from its first, -1 to 1")]


def loops(video: torch.Tensor) -> torch.Tensor:
    """video: [B, F, 3, H, W] in [0, 1]. Returns [B]; 0 for a clip that stands still."""
    apart = (video[:, -1].float() - video[:, 0].float()).abs().flatten(1).mean(1)
    return motion(video) - apart


def main(pipe: Any, prompt: str, particles: int, folder: Path) -> None:
    """pipe: a video pipeline of diffusers on its device. particles: clips that are made side by side, one of which is chosen."""
    plain = tropism.steer(pipe, prompt, loops, particles, "best-of-n", call=CALL, batch=1)
    steered = tropism.steer(pipe, prompt, loops, particles, call=CALL, batch=1)
    for name, made in {"independent": plain, "steered": steered}.items():
        best, mean, file = made.reward.max().item(), made.mean_reward.item(), VideoView().save(made.samples[0], folder, name)
        print(f"{name}: reward {best:.4f}, mean {mean:.4f}; {made.roots.item()} of {particles} noises live on; {file}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", default="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", help="a folder or a hub name")
    parser.add_argument("--prompt", default="a fan that turns")
    parser.add_argument("--particles", type=int, default=4)
    given = parser.parse_args()
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    model = DiffusionPipeline.from_pretrained(given.source, torch_dtype=dtype, use_safetensors=True)
    main(model.to(device), given.prompt, given.particles, Path())
