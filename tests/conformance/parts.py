"""Parts of tiny diffusers pipelines: tokenizers, text encoders, autoencoders and their random weights, all built in memory.

Nothing here is downloaded. Every text encoder is ``WIDTH`` wide and takes the number of words of its tokenizer; every tokenizer knows
single bytes and no merges, so any text gives tokens and two different texts give different ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, DiffusionPipeline
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.tiny import LENGTH, WIDTH
from tests.tiny import tokenizer as clip_tokenizer

__all__ = ["LENGTH", "WIDTH", "clip_tokenizer"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


PROMPTS: list[dict[str, Any]] = [{"prompt": "a red apple"}, {"prompt": "two blue boats at sea"}]
"""The two items of every family that takes a prompt and nothing else."""


# ---- weights -------------------------------------------------------------------------------------------------------------------


def fill(network: torch.nn.Module, gain: float = 1.0, keep: tuple[str, ...] = ()) -> torch.nn.Module:
    """Random weights with which everything matters: the text, x, t, and the layers that training would start at zero.

    Matrices and convolutions are normal with deviation ``gain / sqrt(fan_in)``, tables (embeddings, modulation tables, registers) with
    ``gain``, biases with 0.1; the scales of norms stay. Parameters whose name contains one of ``keep`` are left alone.
    """
    kinds = {id(m.weight) for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(word in name for word in keep):
                continue
            if parameter.ndim > 1:
                table = id(parameter) in kinds or not name.endswith("weight")
                parameter.normal_(0, gain if table else gain / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return network


def built(make: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    """A builder whose random weights are the same at every call, with networks frozen in eval mode and no progress bar."""

    @functools.wraps(make)
    def build() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            pipe = make()
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


def picture(side: int = 16, seed: int = 0) -> Image.Image:
    """An RGB image of noise, ``side`` pixels square."""
    pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def hole(side: int = 16) -> Image.Image:
    """A mask whose right half is to be painted: 255 there and 0 elsewhere."""
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[:, side // 2 :] = 255
    return Image.fromarray(mask.numpy())


# ---- tokenizers ----------------------------------------------------------------------------------------------------------------


def letters(
    special: tuple[str, ...],
    *,
    pad: str,
    start: str = "",
    end: str = "",
    length: int = 512,
    side: str = "right",
    chat: str | None = None,
    roles: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: ``special`` tokens come first, ``start`` and ``end`` surround each text; ``roles``: ``eos_token`` etc."""
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    around = [token for token in (start, end) if token]
    if around:
        inner.post_processor = processors.TemplateProcessing(
            single=" ".join(filter(None, [start, "$A", end])), special_tokens=[(token, vocabulary[token]) for token in around]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=length, padding_side=side, pad_token=pad, chat_template=chat, **(roles or {})
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)}, replace_extra_special_tokens=False)
    return tokenizer


def t5_tokenizer(length: int = 512) -> PreTrainedTokenizerFast:
    """T5 and UMT5: ``</s>`` ends every text, the rest is padding."""
    return letters(("<pad>", "</s>", "<unk>"), pad="<pad>", end="</s>", length=length, roles={"eos_token": "</s>", "unk_token": "<unk>"})


def gemma_tokenizer(length: int = 512) -> PreTrainedTokenizerFast:
    """Gemma: ``<bos>`` begins every text."""
    return letters(
        ("<pad>", "<eos>", "<bos>", "<unk>"), pad="<pad>", start="<bos>", length=length, roles={"bos_token": "<bos>", "eos_token": "<eos>"}
    )


def llama_tokenizer(length: int = 512, chat: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Llama and Mistral: ``<s>`` begins every text; there is no padding token of its own."""
    return letters(
        ("<unk>", "<s>", "</s>"), pad="</s>", start="<s>", length=length, roles={"bos_token": "<s>", "eos_token": "</s>"}, chat=chat
    )


def qwen_tokenizer(length: int = 1024) -> PreTrainedTokenizerFast:
    """Qwen2 and Qwen3: nothing is added to a text; chats are written in ChatML."""
    special = (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        "<think>", "</think>",
    )  # fmt: skip
    return letters(special, pad="<|endoftext|>", length=length, roles={"eos_token": "<|im_end|>"}, chat=CHATML)


def glm_tokenizer(length: int = 512) -> PreTrainedTokenizerFast:
    """GLM-4: ``[gMASK]<sop>`` begins every text and padding is on the left."""
    return letters(("<|endoftext|>", "[gMASK]<sop>"), pad="<|endoftext|>", start="[gMASK]<sop>", length=length, side="left")


def bert_tokenizer(length: int = LENGTH) -> PreTrainedTokenizerFast:
    """BERT: ``[CLS] text [SEP]``."""
    return letters(
        ("[PAD]", "[CLS]", "[SEP]"),
        pad="[PAD]",
        start="[CLS]",
        end="[SEP]",
        length=length,
        roles={"cls_token": "[CLS]", "sep_token": "[SEP]"},
    )


# ---- text and image encoders ---------------------------------------------------------------------------------------------------


def _clip(words: int, hidden_act: str, length: int = LENGTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        hidden_act=hidden_act,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def clip_text(words: int, length: int = LENGTH) -> CLIPTextModel:
    """``length`` is the number of positions: 77 for pipelines that pad to that whatever the tokenizer says."""
    return fill(CLIPTextModel(_clip(words, "quick_gelu", length)))


def clip_text_projected(words: int) -> CLIPTextModelWithProjection:
    """With the pooled projection that SDXL, SD3 and Kandinsky take."""
    return fill(CLIPTextModelWithProjection(_clip(words, "gelu")))


def clip_vision(side: int = 16) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=side // 2,
    )
    return fill(CLIPVisionModelWithProjection(config))


def clip_images(side: int = 16) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


T5_SIZES: dict[str, Any] = {"d_ff": WIDTH, "d_kv": 8, "num_heads": 2, "num_layers": 1, "feed_forward_proj": "gated-gelu"}


def t5(words: int, width: int = WIDTH) -> T5EncoderModel:
    return fill(T5EncoderModel(T5Config(vocab_size=words, d_model=width, **T5_SIZES)))


def umt5(words: int) -> UMT5EncoderModel:
    return fill(UMT5EncoderModel(UMT5Config(vocab_size=words, d_model=WIDTH, **T5_SIZES)))


def bert(words: int, length: int = LENGTH) -> BertModel:
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    return fill(BertModel(BertConfig(vocab_size=words, max_position_embeddings=length, **sizes)))


DECODER_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def gemma2(words: int) -> Gemma2Model:
    return fill(Gemma2Model(Gemma2Config(vocab_size=words, head_dim=8, query_pre_attn_scalar=8, **DECODER_SIZES)))


def llama(words: int, layers: int = 2) -> LlamaForCausalLM:
    return fill(LlamaForCausalLM(LlamaConfig(vocab_size=words, **{**DECODER_SIZES, "num_hidden_layers": layers})))


def mistral(words: int) -> MistralModel:
    return fill(MistralModel(MistralConfig(vocab_size=words, head_dim=8, **DECODER_SIZES)))


def glm(words: int) -> GlmModel:
    return fill(GlmModel(GlmConfig(vocab_size=words, head_dim=8, **DECODER_SIZES)))


def qwen3(words: int, layers: int = 2) -> Qwen3ForCausalLM:
    return fill(Qwen3ForCausalLM(Qwen3Config(vocab_size=words, head_dim=8, **{**DECODER_SIZES, "num_hidden_layers": layers})))


def qwen25_vl(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL with its vision tower; takes the tokenizer itself, because the image tokens must be known to the network."""
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "patch_size": 14,
        "window_size": 56,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    text = {**DECODER_SIZES, "vocab_size": len(tokenizer), "rope_parameters": rope}
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image": "<|image_pad|>",
            "video": "<|video_pad|>",
            "vision_start": "<|vision_start|>",
            "vision_end": "<|vision_end|>",
        }.items()
    }
    return fill(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)))


# ---- autoencoders --------------------------------------------------------------------------------------------------------------


def kl(
    channels: int = 4, scaling: float = 0.18215, shift: float | None = None, quant: bool = True, levels: int = 2, planes: int = 3
) -> AutoencoderKL:
    """AutoencoderKL; an image is ``2 ** (levels - 1)`` times as wide as its latents, so twice by default; a spectrogram has 1 plane."""
    return fill(
        AutoencoderKL(
            in_channels=planes,
            out_channels=planes,
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels,
            norm_num_groups=4,
            scaling_factor=scaling,
            shift_factor=shift,
            use_quant_conv=quant,
            use_post_quant_conv=quant,
            mid_block_add_attention=False,
        )
    )


def dc(channels: int = 4, levels: int = 3) -> AutoencoderDC:
    """AutoencoderDC, Sana's; an image is ``2 ** (levels - 1)`` times as wide as its latents, so four times by default."""
    return fill(
        AutoencoderDC(
            latent_channels=channels,
            attention_head_dim=4,
            encoder_block_types="ResBlock",
            decoder_block_types="ResBlock",
            encoder_block_out_channels=(8,) * levels,
            decoder_block_out_channels=(8,) * levels,
            encoder_layers_per_block=(1,) * levels,
            decoder_layers_per_block=(1,) * levels,
            encoder_qkv_multiscales=((),) * levels,
            decoder_qkv_multiscales=((),) * levels,
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            scaling_factor=0.41407,
        )
    )


def kl_qwen(channels: int = 4) -> AutoencoderKLQwenImage:
    """The autoencoder of Qwen-Image; an image is four times as wide as its latents, which have a mean and a deviation per channel."""
    return fill(
        AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=channels,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1 * index for index in range(channels)],
            latents_std=[1.0 + 0.1 * index for index in range(channels)],
        )
    )


def kl_flux2(channels: int = 4) -> AutoencoderKLFlux2:
    """The autoencoder of FLUX.2: patches of 2x2 latents are whitened by stored batch-norm statistics; twice as wide as its latents."""
    vae = fill(
        AutoencoderKLFlux2(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
            mid_block_add_attention=False,
        )
    )
    vae.bn.running_mean.normal_(0, 0.3)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae
