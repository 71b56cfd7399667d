"""The shipped generator: two stages of principal components, then a rectified flow of depth pictures to their coefficients.

``python flow.py OUT`` reads the solids that the plugin ships, and may be stopped and run again. OUT gets ``codec.safetensors``,
``checkpoints`` and ``model.safetensors``; with ``--ship`` the plugin gets the weights too. Each training object is seen from eight
sides (mirror images among them) in ``--stretches`` proportions. Velocity eps - x0 (arXiv 2209.03003), times drawn from a logit-normal,
the picture left out once in eight.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tropism import checkpoint
from tropism_3d import furniture
from tropism_3d.depth import depth
from tropism_3d.fields import resampled, seen_from, signed
from tropism_3d.generators.codec import SPREAD, Codec
from tropism_3d.generators.furniture_flow import WEIGHTS
from tropism_3d.generators.network import Eye, Velocity

sys.path.append(str(Path(__file__).resolve().parents[2] / "image" / "training"))
from fit import fit  # the loop that all training scripts share

STEPS, BATCH, LR = 9000, 128, 1.5e-3
STRETCH = 0.22  # deviation of the logarithms of the proportions
BLOCKS_SEEN = 60_000  # for the first stage's components
SEED = 0


def stretches(count: int, objects: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Proportions [objects, 3], first as they are; none longer than before, so that every object stays inside the cube."""
    drawn = torch.exp(STRETCH * torch.randn(count - 1, objects, 3, generator=generator))
    return [torch.ones(objects, 3), *(drawn / drawn.amax(-1, keepdim=True))]


def bank(codec: Codec, count: int, work: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The training set, by a codec that is fitted to it the first time: [M, K] and depth pictures [M, 2, 32, 32] uint8 of 255."""
    generator = torch.Generator().manual_seed(SEED)
    known, _ = furniture.split()
    solid = furniture.solids(known)
    distance = torch.cat([signed(part) for part in solid.split(64)])
    shapes = [resampled(distance, stretch) for stretch in stretches(count, len(known), generator)]
    if (work / "codec.safetensors").exists():
        codec.load_state_dict(load_file(work / "codec.safetensors"))
    else:
        fitted(codec, shapes, generator)
        work.mkdir(parents=True, exist_ok=True)
        save_file(codec.state_dict(), work / "codec.safetensors")
    latents, pictures = [], []
    for field in shapes:
        for view in range(furniture.VIEWS):
            seen = seen_from(field, view)
            latents.append(codec.encode(seen))
            pictures.append((depth(seen) * 255).round().to(torch.uint8))
    return torch.cat(latents), torch.cat(pictures)


def fitted(codec: Codec, shapes: list[torch.Tensor], generator: torch.Generator) -> None:
    """Fill in the codec's bases, in half precision as they are shipped."""
    cut = torch.cat([seen_from(field, view)[view::8] for view in range(8) for field in shapes[:4]])
    side = cut.reshape(-1, 4, 8, 4, 8, 4, 8).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 512)
    side = side[torch.randperm(len(side), generator=generator)[:BLOCKS_SEEN]]
    codec.block_mean.copy_(side.mean(0))
    side = side - codec.block_mean
    codec.block.copy_(torch.linalg.eigh(side.T @ side / len(side)).eigenvectors.flip(1)[:, : codec.block.shape[1]].half())
    blocks = torch.cat([codec.blocks(seen_from(field, view)) for field in shapes[:4] for view in range(8)])
    codec.whole_mean.copy_(blocks.mean(0))
    blocks = blocks - codec.whole_mean
    values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    size = codec.whole.shape[1]
    codec.whole.copy_(vectors.flip(1)[:, :size].half())
    deviation = values.flip(0)[:size].clamp(min=1e-12).sqrt()
    codec.scale.copy_((deviation * deviation[0]).sqrt() / SPREAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--stretches", type=int, default=10)
    parser.add_argument("--ship", action="store_true", help="also write the weights into the plugin")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    eye, velocity, codec = Eye(), Velocity(), Codec()
    folder, latents, pictures, weight = args.out / "checkpoints", torch.empty(0), torch.empty(0), torch.empty(0)
    newest = checkpoint.latest(folder)
    if newest is None or checkpoint.load(newest)["step"] < args.steps:
        with torch.no_grad():
            latents, pictures = bank(codec, args.stretches, args.out)
            energy = latents.var(0)
        weight = 0.4 + 0.6 * energy / energy.mean()
        print(f"{len(latents)} shapes, coefficients' deviations {energy[0] ** 0.5:.2f} to {energy[-1] ** 0.5:.2f}", flush=True)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.randint(len(latents), (BATCH,), generator=generator)
        x0, sigma = latents[pick], torch.sigmoid(torch.randn(BATCH, generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        cond = eye(pictures[pick].float() / 255)
        blind = torch.rand(BATCH, 1, generator=generator) < 0.125
        cond = torch.where(blind, eye.nothing, cond)
        made = velocity((1 - sigma[:, None]) * x0 + sigma[:, None] * noise, sigma, cond)
        return (weight * (made - (noise - x0)).square()).mean(), {}

    fit({"eye": eye, "velocity": velocity}, loss, folder=folder, steps=args.steps, lr=LR, weight_decay=1e-2, decay=0.999)
    codec.load_state_dict(load_file(args.out / "codec.safetensors"))
    parts = {"eye": eye, "velocity": velocity, "codec": codec}
    state = {f"{name}.{key}": value.half().contiguous() for name, part in parts.items() for key, value in part.state_dict().items()}
    for path in [args.out / "model.safetensors", *([WEIGHTS] if args.ship else [])]:
        path.parent.mkdir(exist_ok=True)
        save_file(state, path)
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
