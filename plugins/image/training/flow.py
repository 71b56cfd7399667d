"""Step 3b: the flow model, a ``StableDiffusion3Pipeline`` of 3.6 million parameters in the same latents.

``python flow.py emoji.npz OUT`` (OUT holds ``vae`` from step 1 and ``teacher`` from step 2, whose text encoder it begins with). Rectified
flow (arXiv 2403.03206): velocity eps - x0, times drawn from a logit-normal, captions dropped for one picture in ten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import text
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from emoji import Emoji, load
from fit import fit
from teacher import VARIANTS, latents, tokens
from transformers import CLIPTextModelWithProjection

STEPS, BATCH, HEADS, HEAD, LAYERS = 4500, 64, 5, 32, 4
NOTHING = 1  # SD3 puts this many tokens of zeros where T5's would be; the models' own generator asks for as many


def transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=4,  # 16 tokens: what an object is costs little to learn, and fine detail is the autoencoder's part
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=2 * text.WIDTH,
        caption_projection_dim=HEADS * HEAD,
        pooled_projection_dim=2 * text.WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )


def projected(teacher: StableDiffusionPipeline) -> CLIPTextModelWithProjection:
    """The teacher's text encoder with an identity for the projection that SD3 reads the pooled text from."""
    encoder = CLIPTextModelWithProjection(teacher.text_encoder.config)
    encoder.load_state_dict(teacher.text_encoder.state_dict(), strict=False)
    torch.nn.init.eye_(encoder.text_projection.weight)
    return encoder


def encode(encoder: CLIPTextModelWithProjection, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``StableDiffusion3Pipeline`` makes of token ids when both its CLIP encoders are this one: (tokens, pooled)."""
    out = encoder(ids, output_hidden_states=True)
    hidden = torch.cat([out.hidden_states[-2]] * 2, -1)
    nothing = hidden.new_zeros(len(ids), NOTHING, hidden.shape[-1])
    return torch.cat([hidden, nothing], 1), torch.cat([out.text_embeds] * 2, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(args.data).generated().seen()
    vae = AutoencoderTiny.from_pretrained(args.out / "vae").eval()
    bank = latents(vae, data, VARIANTS)
    teacher = StableDiffusionPipeline.from_pretrained(args.out / "teacher", safety_checker=None)
    net, encoder = transformer(), projected(teacher)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng(step)
        pick = torch.randint(len(data.caption), (BATCH,), generator=generator)
        x0 = bank[torch.randint(VARIANTS, (BATCH,), generator=generator), pick]
        texts = Emoji(x0, [data.caption[i] for i in pick], [data.tags[i] for i in pick], [], x0).text(rng)
        texts = ["" if dropped else t for t, dropped in zip(texts, rng.random(BATCH) < 0.1, strict=True)]
        sigma = torch.sigmoid(torch.randn(BATCH, generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        x = (1 - sigma[:, None, None, None]) * x0 + sigma[:, None, None, None] * noise
        hidden, pooled = encode(encoder, tokens(teacher.tokenizer, texts))
        made = net(x, encoder_hidden_states=hidden, pooled_projections=pooled, timestep=sigma * 1000).sample
        return (made - (noise - x0)).square().mean(), {}

    fit({"transformer": net, "text": encoder}, loss, folder=args.out / "flow-checkpoints", steps=args.steps, lr=1.5e-3, decay=0.998)
    pipe = StableDiffusion3Pipeline(
        transformer=net.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=teacher.tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=teacher.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.save_pretrained(args.out / "flow")


if __name__ == "__main__":
    main()
