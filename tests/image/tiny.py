"""Tiny random weights, written in the formats in which the real rewards are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel

SIZE = 32  # side of the pictures that the tiny encoders read; two patches of 16 a side
WORDS = ("a", "cat", "red", "sky", "house")
TEXT_LENGTH = 12


def _randn(generator: torch.Generator, *shape: int, scale: float = 0.2) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * scale


def clip_tokenizer(folder: Path) -> int:
    """CLIP's tokenizer files, vocab.json and merges.txt: all bytes and the words of WORDS. Returns the size of the vocabulary."""
    symbols = sorted(ByteLevel.alphabet())
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    merges = []
    for word in WORDS:
        built = word[0] if len(word) > 1 else ""
        for index, letter in enumerate(word[1:], start=2):
            piece = letter + ("</w>" if index == len(word) else "")
            if f"{built} {piece}" not in merges:
                merges.append(f"{built} {piece}")
                vocabulary.append(built + piece)
            built += piece
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(vocabulary)


def clip_model(folder: Path, width: int = 24) -> Path:
    """A transformers CLIPModel folder with its tokenizer."""
    words = clip_tokenizer(folder)
    common = {"num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": width}
    text = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": words, "max_position_embeddings": TEXT_LENGTH}
    text |= {"eos_token_id": words - 1, "bos_token_id": words - 2}
    vision = {"hidden_size": 40, "intermediate_size": 48, "image_size": SIZE, "patch_size": 16}
    torch.manual_seed(3)
    model = CLIPModel(CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=width))
    _roughen(model)
    model.save_pretrained(folder)
    return folder


def _roughen(model: torch.nn.Module) -> None:
    """Spread the weights out: at the usual initial 0.02 every picture has nearly the same score and a test could not fail."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.add_(_randn(generator, *parameter.shape))


def open_clip_tensors(words: int, width: int = 32, embed: int = 24, layers: int = 2) -> dict[str, torch.Tensor]:
    """A state dict as open_clip writes it for a two-tower ViT (both towers 16 heads wide, as ViT-H/14 is)."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        "positional_embedding": _randn(generator, TEXT_LENGTH, width),
        "text_projection": _randn(generator, width, embed),
        "logit_scale": torch.tensor(4.6052),
        "token_embedding.weight": _randn(generator, words, width),
        "visual.class_embedding": _randn(generator, width),
        "visual.positional_embedding": _randn(generator, 5, width),
        "visual.proj": _randn(generator, width, embed),
        "visual.conv1.weight": _randn(generator, width, 3, 16, 16, scale=0.05),
    }
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        tensors |= _norm(generator, norm, width)
    for tower in ("visual.transformer", "transformer"):
        for layer in range(layers):
            block = f"{tower}.resblocks.{layer}"
            tensors |= _norm(generator, f"{block}.ln_1", width) | _norm(generator, f"{block}.ln_2", width)
            tensors[f"{block}.attn.in_proj_weight"] = _randn(generator, 3 * width, width)
            tensors[f"{block}.attn.in_proj_bias"] = _randn(generator, 3 * width)
            tensors |= _linear(generator, f"{block}.attn.out_proj", width, width)
            tensors |= _linear(generator, f"{block}.mlp.c_fc", width, 2 * width)
            tensors |= _linear(generator, f"{block}.mlp.c_proj", 2 * width, width)
    return tensors


def _norm(generator: torch.Generator, name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + _randn(generator, width), f"{name}.bias": _randn(generator, width)}


def _linear(generator: torch.Generator, name: str, inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": _randn(generator, outputs, inputs), f"{name}.bias": _randn(generator, outputs)}


def mlp_tensors(prefix: str = "", width: int = 768) -> dict[str, torch.Tensor]:
    """The head 768-1024-128-64-16-1 with the published numbering; the gaps are dropouts."""
    generator = torch.Generator().manual_seed(6)
    sizes = {0: (width, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    tensors: dict[str, torch.Tensor] = {}
    for number, (inputs, outputs) in sizes.items():
        tensors |= _linear(generator, f"{prefix}layers.{number}", inputs, outputs)
    # Gain about 1 a layer; without it five layers would leave nothing of the picture.
    return {key: 5 * value / value.shape[-1] ** 0.5 if value.ndim == 2 else value for key, value in tensors.items()}


def image_reward_tensors(words: int, layers: int = 2) -> dict[str, torch.Tensor]:
    """A state dict as ImageReward.pt has it: BLIP's vision tower (16 heads), text tower (12 heads), unused projections, mlp."""
    generator = torch.Generator().manual_seed(7)
    vision, text = 32, 24
    eye, read = "blip.visual_encoder", "blip.text_encoder"
    tensors = {
        f"{eye}.cls_token": _randn(generator, 1, 1, vision),
        f"{eye}.pos_embed": _randn(generator, 1, 5, vision),
        f"{eye}.patch_embed.proj.weight": _randn(generator, vision, 3, 16, 16, scale=0.05),
        f"{eye}.patch_embed.proj.bias": _randn(generator, vision),
        f"{read}.embeddings.position_ids": torch.arange(40)[None],
        f"{read}.embeddings.word_embeddings.weight": _randn(generator, words, text),
        f"{read}.embeddings.position_embeddings.weight": _randn(generator, 40, text),
    }
    tensors |= _norm(generator, f"{eye}.norm", vision) | _norm(generator, f"{read}.embeddings.LayerNorm", text)
    for layer in range(layers):
        block = f"{eye}.blocks.{layer}"
        tensors |= _norm(generator, f"{block}.norm1", vision) | _norm(generator, f"{block}.norm2", vision)
        tensors |= _linear(generator, f"{block}.attn.qkv", vision, 3 * vision) | _linear(generator, f"{block}.attn.proj", vision, vision)
        tensors |= _linear(generator, f"{block}.mlp.fc1", vision, 48) | _linear(generator, f"{block}.mlp.fc2", 48, vision)
        block = f"{read}.encoder.layer.{layer}"
        for attention, source in (("attention", text), ("crossattention", vision)):
            tensors |= _linear(generator, f"{block}.{attention}.self.query", text, text)
            tensors |= _linear(generator, f"{block}.{attention}.self.key", source, text)
            tensors |= _linear(generator, f"{block}.{attention}.self.value", source, text)
            tensors |= _linear(generator, f"{block}.{attention}.output.dense", text, text)
            tensors |= _norm(generator, f"{block}.{attention}.output.LayerNorm", text)
        tensors |= _linear(generator, f"{block}.intermediate.dense", text, 48) | _linear(generator, f"{block}.output.dense", 48, text)
        tensors |= _norm(generator, f"{block}.output.LayerNorm", text)
    tensors |= _linear(generator, "blip.vision_proj", vision, 16) | _linear(generator, "blip.text_proj", text, 16)
    return tensors | mlp_tensors("mlp.", text)


def bert_tokenizer(folder: Path) -> int:
    """BERT's vocab.txt with the words of WORDS and the two tokens that BLIP adds at the end. Returns the size of the model's vocabulary."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return len(tokens) + 2


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path)
    return path
