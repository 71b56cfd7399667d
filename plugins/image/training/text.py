"""Our own tokenizer and text encoder, in the files that ``CLIPTokenizer`` and ``CLIPTextModel`` read."""

from __future__ import annotations

import json
from pathlib import Path

from emoji import Emoji
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

VOCABULARY, LENGTH, WIDTH = 1280, 16, 96
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(data: Emoji, folder: Path) -> CLIPTokenizer:
    """Learn byte-pair merges on the captions and tags, write ``vocab.json`` and ``merges.txt``, and load them as CLIP does."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789-'.,!&"),
        show_progress=False,
    )
    bpe.train_from_iterator([*data.caption, *(" ".join(tags) for tags in data.tags)] * 2, trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in learned["merges"]]
    (folder / "vocab.json").write_text(json.dumps(learned["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH, unk_token=END, pad_token=END)


def encoder(vocabulary: int) -> CLIPTextModel:
    """A CLIP text transformer of one layer, random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
