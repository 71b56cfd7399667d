"""Step 3: the student, a ``LatentConsistencyModelPipeline`` distilled from the teacher.

``python student.py OUT`` (OUT holds ``teacher`` from step 2). The teacher's guided DDIM trajectories are computed once; the student learns
to go from any state of a trajectory to its end in one step, for guidance 1 to 5 by embedding. Half of the trajectories start from a noised
result of the other half, because that is what multistep consistency sampling feeds the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionPipeline
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline as Lcm,
)
from emoji import load
from fit import fit
from teacher import tokens, unet

STEPS, BATCH, TRAJECTORIES, EMBEDDING = 2500, 64, 4096, 64
GUIDANCE = (1.0, 5.0)


@torch.no_grad()
def trajectories(
    pipe: StableDiffusionPipeline, ids: torch.Tensor, guidance: torch.Tensor, x: torch.Tensor, grid: list[int]
) -> torch.Tensor:
    """Guided DDIM along the time steps ``grid`` (last entry: the end). States [len(grid), B, 4, 16, 16], the end last."""
    embed = pipe.text_encoder(torch.cat([torch.ones_like(ids).index_fill_(1, torch.tensor([0]), 0), ids])).last_hidden_state
    bar = pipe.scheduler.alphas_cumprod
    states, w = [x], guidance[:, None, None, None]
    for now, then in zip(grid[:-1], grid[1:], strict=True):
        free, tied = pipe.unet(torch.cat([x, x]), now, embed).sample.chunk(2)
        v = free + w * (tied - free)
        a, b = bar[now], bar[then] if then >= 0 else bar[0]
        x0, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        x = b.sqrt() * x0 + (1 - b).sqrt() * noise if then >= 0 else x0
        states.append(x)
    return torch.stack(states)


def bank(pipe: StableDiffusionPipeline, captions: list[str], count: int) -> dict[str, torch.Tensor]:
    """States, times, ends, tokens and guidance of ``count`` trajectories, as flat arrays (states in half precision)."""
    parts: dict[str, list[torch.Tensor]] = {"x": [], "t": [], "end": [], "ids": [], "w": []}
    generator, chunk, last = torch.Generator().manual_seed(0), 64, None
    bar = pipe.scheduler.alphas_cumprod
    order = torch.cat([torch.randperm(len(captions), generator=generator) for _ in range(count // len(captions) + 1)])
    for index in range(count // chunk):
        # An even chunk starts from noise, an odd one noises what the even one before it made.
        grid = [999, *range(979, 0, -40), -1] if index % 4 < 2 else [*range(999, 0, -40), -1]
        if index % 2 == 0 or last is None:
            pick = order[index * chunk // 2 : index * chunk // 2 + chunk]
            ids = tokens(pipe.tokenizer, [captions[i] for i in pick])
            w = GUIDANCE[0] + (GUIDANCE[1] - GUIDANCE[0]) * torch.rand(chunk, generator=generator)
            x = torch.randn(chunk, 4, 16, 16, generator=generator)
        else:
            grid = grid[int(torch.randint(1, len(grid) - 4, (1,), generator=generator)) :]
            a = bar[grid[0]]
            x = a.sqrt() * last + (1 - a).sqrt() * torch.randn(last.shape, generator=generator)
        states = trajectories(pipe, ids, w, x, grid)
        last, length = states[-1], len(grid) - 1
        parts["x"].append(states[:-1].flatten(0, 1).half())
        parts["t"].append(torch.tensor(grid[:-1]).repeat_interleave(chunk))
        parts["end"].append(last.repeat(length, 1, 1, 1).half())
        parts["ids"].append(ids.repeat(length, 1))
        parts["w"].append(w.repeat(length))
        if index % 16 == 0:
            print(f"trajectories {index * chunk}/{count}", flush=True)
    return {key: torch.cat(values) for key, values in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--trajectories", type=int, default=TRAJECTORIES)
    args = parser.parse_args()
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(args.out / "teacher", safety_checker=None)
    pipe.unet.to(memory_format=torch.channels_last)
    states = bank(pipe, load(args.data).generated().seen().caption, args.trajectories)
    net = unet(time_cond_proj_dim=EMBEDDING)
    missing, unexpected = net.load_state_dict(pipe.unet.state_dict(), strict=False)
    assert not unexpected and missing == ["time_embedding.cond_proj.weight"], (missing, unexpected)
    torch.nn.init.zeros_(net.time_embedding.cond_proj.weight)
    net.to(memory_format=torch.channels_last)
    bar = pipe.scheduler.alphas_cumprod
    # High noise is the hard and decisive part, so times are drawn with density growing towards it.
    weight = torch.as_tensor(np.linspace(0.5, 1.5, 1000))[states["t"]]

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.multinomial(weight, BATCH, replacement=True, generator=generator)
        x, t, end = states["x"][pick].float(), states["t"][pick], states["end"][pick].float()
        with torch.no_grad():
            embed = pipe.text_encoder(states["ids"][pick]).last_hidden_state
        guidance = Lcm.get_guidance_scale_embedding(None, states["w"][pick] - 1, embedding_dim=EMBEDDING)
        v = net(x, t, embed, timestep_cond=guidance).sample
        a = bar[t][:, None, None, None]
        made = a.sqrt() * x - (1 - a).sqrt() * v
        return ((made - end).square() + 1e-3).sqrt().mean(), {}

    fit({"unet": net}, loss, folder=args.out / "student-checkpoints", steps=args.steps, lr=1e-3, decay=0.995)
    scheduler = LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=50)
    student = LatentConsistencyModelPipeline(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=net.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    student.save_pretrained(args.out / "student")


if __name__ == "__main__":
    main()
