"""The published networks written out in plain torch on the original weight names: what the rewards' scores are checked against."""

from __future__ import annotations

import torch
import torch.nn.functional as F

Tensors = dict[str, torch.Tensor]
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def linear(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def norm(t: Tensors, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """One sample: queries [Q, D], keys and values [K, D]; ``bias`` [Q, K] is added to the scores."""
    width = q.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        out.append(torch.softmax(scores if bias is None else scores + bias, -1) @ v[:, part])
    return torch.cat(out, -1)


def patches(picture: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A picture [3, H, W] in [0, 1] of the model's size -> [patches, D], normalised, rows first."""
    side = weight.shape[-1]
    normal = (picture - MEAN) / STD
    rows = normal.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    return rows @ weight.flatten(1).T


def open_clip_blocks(t: Tensors, tower: str, x: torch.Tensor, heads: int, bias: torch.Tensor | None) -> torch.Tensor:
    layer = 0
    while f"{tower}.resblocks.{layer}.ln_1.weight" in t:
        block = f"{tower}.resblocks.{layer}"
        qkv = norm(t, f"{block}.ln_1", x, 1e-5) @ t[f"{block}.attn.in_proj_weight"].T + t[f"{block}.attn.in_proj_bias"]
        q, k, v = qkv.chunk(3, -1)
        x = x + linear(t, f"{block}.attn.out_proj", attend(q, k, v, heads, bias))
        x = x + linear(t, f"{block}.mlp.c_proj", F.gelu(linear(t, f"{block}.mlp.c_fc", norm(t, f"{block}.ln_2", x, 1e-5))))
        layer += 1
    return x


def open_clip_cosine(t: Tensors, picture: torch.Tensor, tokens: list[int], heads: int = 16) -> torch.Tensor:
    """Cosine of one picture and one prompt; ``tokens`` end with the end token, without padding."""
    x = torch.cat([t["visual.class_embedding"][None], patches(picture, t["visual.conv1.weight"])]) + t["visual.positional_embedding"]
    x = open_clip_blocks(t, "visual.transformer", norm(t, "visual.ln_pre", x, 1e-5), heads, None)
    seen = norm(t, "visual.ln_post", x[0], 1e-5) @ t["visual.proj"]
    y = t["token_embedding.weight"][tokens] + t["positional_embedding"][: len(tokens)]
    causal = torch.full((len(tokens), len(tokens)), float("-inf")).triu(1)
    y = open_clip_blocks(t, "transformer", y, heads, causal)
    said = norm(t, "ln_final", y[-1], 1e-5) @ t["text_projection"]
    return seen @ said / (seen.norm() * said.norm())


def mlp(t: Tensors, x: torch.Tensor, prefix: str = "") -> torch.Tensor:
    for number in (0, 2, 4, 6, 7):
        x = linear(t, f"{prefix}layers.{number}", x)
    return x.squeeze(-1)


def image_reward(t: Tensors, picture: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """ImageReward of one picture and one prompt, tokens without padding."""
    eye, read = "blip.visual_encoder", "blip.text_encoder"
    x = patches(picture, t[f"{eye}.patch_embed.proj.weight"]) + t[f"{eye}.patch_embed.proj.bias"]
    x = torch.cat([t[f"{eye}.cls_token"][0], x]) + t[f"{eye}.pos_embed"][0]
    layer = 0
    while f"{eye}.blocks.{layer}.norm1.weight" in t:
        block = f"{eye}.blocks.{layer}"
        qkv = linear(t, f"{block}.attn.qkv", norm(t, f"{block}.norm1", x, 1e-6))
        q, k, v = qkv.chunk(3, -1)
        x = x + linear(t, f"{block}.attn.proj", attend(q, k, v, 16))
        x = x + linear(t, f"{block}.mlp.fc2", F.gelu(linear(t, f"{block}.mlp.fc1", norm(t, f"{block}.norm2", x, 1e-6))))
        layer += 1
    x = norm(t, f"{eye}.norm", x, 1e-6)

    y = t[f"{read}.embeddings.word_embeddings.weight"][tokens] + t[f"{read}.embeddings.position_embeddings.weight"][: len(tokens)]
    y = norm(t, f"{read}.embeddings.LayerNorm", y, 1e-12)
    for index in range(layer):
        block = f"{read}.encoder.layer.{index}"
        for kind, source in (("attention", None), ("crossattention", x)):
            given = y if source is None else source
            q, k, v = (linear(t, f"{block}.{kind}.self.{n}", s) for n, s in (("query", y), ("key", given), ("value", given)))
            y = norm(t, f"{block}.{kind}.output.LayerNorm", linear(t, f"{block}.{kind}.output.dense", attend(q, k, v, 12)) + y, 1e-12)
        inner = F.gelu(linear(t, f"{block}.intermediate.dense", y))
        y = norm(t, f"{block}.output.LayerNorm", linear(t, f"{block}.output.dense", inner) + y, 1e-12)
    return (mlp(t, y[0], "mlp.") - 0.16717362830052426) / 1.0333394966054072
