"""Step 1: a tiny autoencoder (diffusers ``AutoencoderTiny``), 64x64 pictures to 16x16x4 latents and back.

``python autoencoder.py emoji.npz OUT``. Loss: absolute error at three scales and of the horizontal and vertical differences, and a
penalty that keeps every latent channel at mean 0 and deviation 1, so that the scaling factor is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from emoji import augment, load
from fit import fit

STEPS, BATCH, WIDTH = 2400, 32, 32


def build() -> AutoencoderTiny:
    widths = (WIDTH,) * 3
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=4,
        scaling_factor=1.0,
    )


def reconstruction(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Absolute error at scales 1, 1/2 and 1/4, and of the finite differences. Pictures [B, 3, H, W]."""
    error = made - true
    scales = sum(F.avg_pool2d(error, k).abs().mean() for k in (1, 2, 4))
    return scales + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.manual_seed(0)
    image = load(args.data).seen().image
    vae = build().to(memory_format=torch.channels_last)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.randint(len(image), (BATCH,), generator=generator)
        true = augment(image[pick].float() / 255, generator) * 2 - 1
        latent = vae.encode(true).latents
        spread = latent.mean((0, 2, 3)).square().mean() + (latent.std((0, 2, 3)) - 1).square().mean()
        noise = 0.03 * torch.randn(latent.shape, generator=generator)
        made = vae.decode(latent + noise).sample
        psnr = -10 * torch.log10((made.clamp(-1, 1) - true).square().mean() / 4)
        return reconstruction(made, true) + 0.1 * spread, {"psnr": psnr.item()}

    fit({"vae": vae}, loss, folder=args.out / "checkpoints", steps=args.steps, lr=2e-3, weight_decay=0.0)
    vae.eval().save_pretrained(args.out / "vae")
    data = load(args.data)
    unseen = data.image[data.heldout].float() / 127.5 - 1
    with torch.no_grad():
        latent = vae.encode(unseen).latents
        error = (vae.decode(latent).sample.clamp(-1, 1) - unseen).square().mean((1, 2, 3)) / 4
    print(f"held-out PSNR {(-10 * error.log10()).mean():.2f} dB on {len(unseen)} pictures; latent std {latent.std((0, 2, 3)).tolist()}")


if __name__ == "__main__":
    main()
