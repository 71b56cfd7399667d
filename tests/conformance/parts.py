"""Parts of tiny diffusers pipelines, all built in memory: tokenizers and text encoders, with the autoencoders and weights beside them.

Nothing here is downloaded. Every text encoder is ``WIDTH`` wide and takes the number of words of its tokenizer; every tokenizer knows
single bytes and no merges, so any text gives tokens and two different texts give different ones.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessor,
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

from tests.conformance.autoencoders import dc, kl, kl_flux2, kl_qwen
from tests.conformance.weights import PROMPTS, built, fill, hole, picture
from tests.tiny import LENGTH, WIDTH, text_config
from tests.tiny import tokenizer as clip_tokenizer

# One name for all parts: builders import from here, wherever a part is written.
__all__ = ["LENGTH", "PROMPTS", "WIDTH", "built", "clip_tokenizer", "dc", "fill", "hole", "kl", "kl_flux2", "kl_qwen", "picture"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
    """Llama: ``<s>`` begins every text; there is no padding token of its own."""
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


def clip_text(words: int, length: int = LENGTH) -> CLIPTextModel:
    """``length`` is the number of positions: 77 for pipelines that pad to that whatever the tokenizer says."""
    return fill(CLIPTextModel(text_config(words, 2, length)))


def clip_text_projected(words: int) -> CLIPTextModelWithProjection:
    """With the pooled projection that SDXL, SD3 and Kandinsky take."""
    return fill(CLIPTextModelWithProjection(text_config(words, 2, hidden_act="gelu")))


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
