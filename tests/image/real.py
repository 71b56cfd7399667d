"""The real architectures of the recipes' models, on the meta device: every module and shape, no weights, no memory.

The configurations are written from the published ones; ``test_real_recipes.py`` compares their sizes with the published numbers of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

Inputs = Callable[[int], dict[str, Any]]  # arguments of the denoiser for so many rows


@dataclass(frozen=True)
class Model:
    """denoiser, parts: built on the meta device. inputs: the denoiser's arguments at the recipe's size. latent: shape of one sample."""

    denoiser: Callable[[], torch.nn.Module]
    parts: dict[str, Callable[[], torch.nn.Module]]
    inputs: Inputs
    latent: tuple[int, ...]


def _unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, **settings)


def sd15(**settings: Any) -> UNet2DConditionModel:
    return _unet(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8, **settings)


def sdxl() -> UNet2DConditionModel:
    return _unet(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sd35_medium() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )


def flux() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(guidance_embeds=True)


def qwen_image() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel()


def wan21() -> WanTransformer3DModel:
    return WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)


def umt5_xxl() -> torch.nn.Module:
    sizes = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
    return UMT5EncoderModel(UMT5Config(vocab_size=256384, feed_forward_proj="gated-gelu", **sizes))


def clip_l_text(projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768)
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def clip_g_text() -> torch.nn.Module:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280)
    )


def t5_xxl() -> torch.nn.Module:
    sizes = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
    return T5EncoderModel(T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes))


def qwen25_vl() -> torch.nn.Module:
    text = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    config = Qwen2_5_VLConfig(text_config={**text, **heads}, vision_config=vision, tie_word_embeddings=False)
    return Qwen2_5_VLForConditionalGeneration(config)


def kl(channels: int, quant: bool = True) -> torch.nn.Module:
    return AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


def pickscore() -> torch.nn.Module:
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32, "patch_size": 14}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024))


def clip_l() -> torch.nn.Module:
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))


REWARDS: dict[str, Callable[[], torch.nn.Module]] = {
    "image/pickscore": pickscore,
    "image/clip-score": clip_l,
    "image/aesthetic": clip_l,
    "video/frames": pickscore,  # what the recipes apply to frames
    "video/clip-score": clip_l,
}


def half(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def whole(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def _unet_inputs(side: int, width: int, **more: Callable[[int], Any]) -> Inputs:
    return lambda rows: {
        "sample": half(rows, 4, side, side),
        "timestep": whole(rows),
        "encoder_hidden_states": half(rows, 77, width),
        **{name: value(rows) for name, value in more.items()},
    }


def _sdxl_inputs(side: int) -> Inputs:
    return _unet_inputs(side, 2048, added_cond_kwargs=lambda rows: {"text_embeds": half(rows, 1280), "time_ids": half(rows, 6)})


def _sd3_inputs(rows: int) -> dict[str, Any]:
    text = {"encoder_hidden_states": half(rows, 77 + 256, 4096), "pooled_projections": half(rows, 2048)}
    return {"hidden_states": half(rows, 16, 64, 64), "timestep": whole(rows), **text}


def _flux_inputs(rows: int) -> dict[str, Any]:
    text = {"encoder_hidden_states": half(rows, 512, 4096), "pooled_projections": half(rows, 768), "txt_ids": half(512, 3)}
    return {"hidden_states": half(rows, 1024, 64), "timestep": half(rows), "guidance": whole(rows), "img_ids": half(1024, 3), **text}


def _qwen_inputs(rows: int) -> dict[str, Any]:
    words = 32  # a prompt of our data, without the template's own tokens
    text = {"encoder_hidden_states": half(rows, words, 3584), "img_shapes": [[(1, 32, 32)]] * rows}
    return {"hidden_states": half(rows, 1024, 64), "timestep": half(rows), **text}


def _wan_inputs(rows: int) -> dict[str, Any]:
    return {"hidden_states": half(rows, 16, 9, 30, 52), "timestep": whole(rows), "encoder_hidden_states": half(rows, 226, 4096)}


SDXL_TEXTS = {"CLIP-L text": clip_l_text, "CLIP-G text": clip_g_text}
SD3_PARTS = {"CLIP-L text": lambda: clip_l_text(True), "CLIP-G text": clip_g_text, "T5-XXL": t5_xxl, "autoencoder": lambda: kl(16, False)}
SD15_PARTS = {"CLIP-L text": clip_l_text, "autoencoder": lambda: kl(4)}
SDXL_PARTS = {**SDXL_TEXTS, "autoencoder": lambda: kl(4)}

SD35 = Model(sd35_medium, SD3_PARTS, _sd3_inputs, (16, 64, 64))
MODELS: dict[str, Model] = {
    "image/sd15-ddpo": Model(sd15, SD15_PARTS, _unet_inputs(64, 768), (4, 64, 64)),
    "image/sdxl-ddpo": Model(sdxl, SDXL_PARTS, _sdxl_inputs(128), (4, 128, 128)),
    "image/lcm-dreamshaper-rlcm": Model(
        lambda: sd15(time_cond_proj_dim=256), SD15_PARTS, _unet_inputs(64, 768, timestep_cond=lambda rows: half(rows, 256)), (4, 64, 64)
    ),
    "image/sdxl-turbo-ddpo": Model(sdxl, SDXL_PARTS, _sdxl_inputs(64), (4, 64, 64)),
    "image/sd35-medium-grpo": SD35,
    "image/sd35-medium-nft": SD35,
    "image/flux-dev-mixgrpo": Model(
        flux,
        {"CLIP-L text": clip_l_text, "T5-XXL": t5_xxl, "autoencoder": lambda: kl(16, False)},
        _flux_inputs,
        (1024, 64),
    ),
    "image/qwen-image-grpo-fast": Model(
        qwen_image, {"Qwen2.5-VL 7B": qwen25_vl, "autoencoder": AutoencoderKLQwenImage}, _qwen_inputs, (1024, 64)
    ),
    "video/wan21-grpo": Model(wan21, {"UMT5-XXL": umt5_xxl, "video autoencoder": AutoencoderKLWan}, _wan_inputs, (16, 9, 30, 52)),
}


def on_meta(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Built without memory, frozen, in bfloat16 as the recipes load it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            return build().requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(before)


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
