"""Step 2: the teacher, a ``StableDiffusionPipeline`` of 2.1 million parameters in the latents of step 1.

``python teacher.py emoji.npz OUT`` (OUT holds ``vae`` from step 1); ``--begin FOLDER`` goes on from the weights of an earlier teacher.
v-prediction, Stable Diffusion's noise schedule, the text encoder trained together with the U-Net, captions dropped for one picture in
ten (classifier-free guidance).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import text
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from emoji import Emoji, augment, load
from fit import fit

STEPS, BATCH, VARIANTS = 4500, 64, 8


def unet(time_cond_proj_dim: int | None = None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 64, 96),
        # Attention and most weights at 4x4: what an object is takes global structure, and there it is cheap.
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        layers_per_block=1,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,
        # The text also enters every block, pooled, beside the time: by cross-attention alone these few steps teach too little.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=16,
        time_cond_proj_dim=time_cond_proj_dim,
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def latents(vae: AutoencoderTiny, data: Emoji, variants: int) -> torch.Tensor:
    """Encode ``variants`` augmentations of every picture once: [variants, N, 4, 16, 16]."""
    generator = torch.Generator().manual_seed(0)
    image = data.image.float() / 255
    return torch.stack(
        [torch.cat([vae.encode(part * 2 - 1).latents for part in augment(image, generator, flips=0.0).split(128)]) for _ in range(variants)]
    )


def tokens(tokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", max_length=text.LENGTH, truncation=True, return_tensors="pt").input_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--begin", type=Path, help="an earlier teacher, whose U-Net and text encoder to start from")
    args = parser.parse_args()
    torch.manual_seed(0)
    everything = load(args.data)
    data = everything.generated().seen()
    vae = AutoencoderTiny.from_pretrained(args.out / "vae").eval()
    bank = latents(vae, data, VARIANTS)
    tokenizer = text.tokenizer(everything.seen(), args.out / "tokenizer")
    net, encoder, noising = unet().to(memory_format=torch.channels_last), text.encoder(len(tokenizer)), scheduler()
    if args.begin:
        earlier = StableDiffusionPipeline.from_pretrained(args.begin, safety_checker=None).to(dtype=torch.float32)
        tokenizer = earlier.tokenizer  # ties between merges are broken differently every time, so it is not learned again
        net.load_state_dict(earlier.unet.state_dict())
        encoder.load_state_dict(earlier.text_encoder.state_dict())

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng(step)
        pick = torch.randint(len(data.caption), (BATCH,), generator=generator)
        x = bank[torch.randint(VARIANTS, (BATCH,), generator=generator), pick]
        texts = Emoji(x, [data.caption[i] for i in pick], [data.tags[i] for i in pick], [], x).text(rng)
        texts = ["" if dropped else t for t, dropped in zip(texts, rng.random(BATCH) < 0.1, strict=True)]
        t = torch.randint(1000, (BATCH,), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        made = net(noising.add_noise(x, noise, t), t, encoder(tokens(tokenizer, texts)).last_hidden_state).sample
        return (made - noising.get_velocity(x, noise, t)).square().mean(), {}

    fit({"unet": net, "text": encoder}, loss, folder=args.out / "teacher-checkpoints", steps=args.steps, lr=2e-3, decay=0.998)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        unet=net.eval(),
        scheduler=noising,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(args.out / "teacher")


if __name__ == "__main__":
    main()
