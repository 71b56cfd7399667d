"""Other pipelines around the image families' networks: from a picture, inpainting, ControlNets and adapters, perturbed attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    HunyuanDiTPAGPipeline,
    LatentConsistencyModelImg2ImgPipeline,
    PixArtSigmaPAGPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    SanaPAGPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    T2IAdapter,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
)

from tests.conformance import image_dit, image_flow, image_flux, image_unet, parts
from tests.conformance.family import Family
from tests.conformance.image_flow import flow
from tests.conformance.image_unet import ddim
from tests.conformance.parts import PROMPTS, WIDTH, built

PICTURE: dict[str, Any] = {"image": parts.picture(), "strength": 0.8}
SIZE: dict[str, Any] = {"height": 16, "width": 16}
INPAINT: dict[str, Any] = {**PICTURE, **SIZE, "mask_image": parts.hole()}
SHORT: dict[str, Any] = {"max_sequence_length": 24}


def around(base: Callable[[], DiffusionPipeline], kind: type[DiffusionPipeline], **more: Any) -> Callable[[], DiffusionPipeline]:
    """A builder of another pipeline class on the parts of ``base``; ``more`` are settings, or makers of parts that it has beside them."""

    @built
    def build() -> DiffusionPipeline:
        pipe = base()
        return kind.from_pipe(pipe, **{name: value() if callable(value) else value for name, value in more.items()})

    return build


def control_sdxl() -> ControlNetModel:
    unet = image_unet.sdxl().unet
    return parts.fill(ControlNetModel.from_unet(unet, conditioning_channels=3, conditioning_embedding_out_channels=(8, 16)))


def control_sd3() -> SD3ControlNetModel:
    network = image_flow.sd3().transformer
    config = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    return parts.fill(SD3ControlNetModel(**{**config, "num_layers": 1, "dual_attention_layers": (), "extra_conditioning_channels": 0}))


def control_flux() -> FluxControlNetModel:
    sizes = {**image_flux.SMALL, "in_channels": image_flux.PACKED, "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH}
    return parts.fill(FluxControlNetModel(guidance_embeds=True, **sizes))


def adapter() -> T2IAdapter:
    return parts.fill(T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"))


@built
def adapted() -> DiffusionPipeline:
    return StableDiffusionAdapterPipeline(**image_unet.components(ddim()), adapter=adapter())


@built
def image_variation() -> DiffusionPipeline:
    """CLIP's picture embedding in place of a text."""
    shared = image_unet.components(ddim())
    for name in ("text_encoder", "tokenizer", "feature_extractor"):
        del shared[name]
    return StableDiffusionImageVariationPipeline(**shared, image_encoder=parts.clip_vision(), feature_extractor=parts.clip_images())


@built
def upscale() -> DiffusionPipeline:
    """Three channels more: the small picture, noised; the noise's strength is a class label."""
    shared = image_unet.components(ddim(), channels=7, num_class_embeds=1000)
    del shared["requires_safety_checker"]
    return StableDiffusionUpscalePipeline(**shared, low_res_scheduler=DDIMScheduler(), max_noise_level=350)


@built
def depth() -> DiffusionPipeline:
    """One channel more: a map of depths, given by the caller."""
    shared = image_unet.components(ddim(), channels=5)
    for name in ("safety_checker", "requires_safety_checker"):
        del shared[name]
    return StableDiffusionDepth2ImgPipeline(**shared, depth_estimator=None)


@built
def flux_control() -> DiffusionPipeline:
    """The latents of a control picture joined along channels."""
    return FluxControlPipeline(**image_flux.flux_parts(image_flux.dynamic(), guided=True, channels=2 * image_flux.PACKED))


def depth_map() -> torch.Tensor:
    return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))


FLUX: dict[str, Any] = {**SHORT, "guidance_scale": 3.5}
QWEN: dict[str, Any] = {"height": 32, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "}
PAG: dict[str, Any] = {"pag_scale": 2.0, "pag_adaptive_scale": 0.0}

FAMILIES: list[Family] = [
    Family("sdxl-img2img", around(image_unet.sdxl, StableDiffusionXLImg2ImgPipeline), {**PICTURE, "guidance_scale": 5.0}, PROMPTS, "ddim"),
    Family("sdxl-inpaint", around(image_unet.sdxl, StableDiffusionXLInpaintPipeline), {**INPAINT, "guidance_scale": 5.0}, PROMPTS, "ddim"),
    Family(
        "sdxl-controlnet",
        around(image_unet.sdxl, StableDiffusionXLControlNetPipeline, controlnet=control_sdxl),
        {"image": parts.picture(), **SIZE, "guidance_scale": 5.0},
        PROMPTS,
        "ddim",
    ),
    Family("t2i-adapter", adapted, {"image": parts.picture(), **SIZE, "guidance_scale": 5.0}, PROMPTS, "ddim"),
    Family(
        "sd-pag",
        around(image_unet.stable_diffusion, StableDiffusionPAGPipeline, pag_applied_layers=["mid"]),
        {**SIZE, **PAG, "guidance_scale": 5.0},
        PROMPTS,
        "ddim",
        ddim,
    ),
    Family(
        "image-variation",
        image_variation,
        {**SIZE, "guidance_scale": 3.0},
        [{"image": parts.picture(seed=seed)} for seed in (0, 1)],
        "ddim",
    ),
    Family(
        "depth2img",
        depth,
        {**PICTURE, "depth_map": depth_map(), "guidance_scale": 5.0},
        PROMPTS,
        "ddim",
    ),
    Family("sd-upscale", upscale, {"image": parts.picture(8), "noise_level": 20, "guidance_scale": 5.0}, PROMPTS, "ddim"),
    Family(
        "lcm-img2img",
        around(image_unet.lcm, LatentConsistencyModelImg2ImgPipeline),
        {**PICTURE, "guidance_scale": 8.5},
        PROMPTS,
        "consistency",
    ),
    Family(
        "sd3-img2img",
        around(image_flow.sd3, StableDiffusion3Img2ImgPipeline),
        {**PICTURE, **SIZE, **SHORT, "guidance_scale": 5.0},
        PROMPTS,
        "ode",
    ),
    Family(
        "sd3-inpaint",
        around(lambda: image_flow.sd3_pipeline(channels=16), StableDiffusion3InpaintPipeline),
        {**INPAINT, **SHORT, "guidance_scale": 5.0},
        PROMPTS,
        "ode",
    ),
    Family(
        "sd3-controlnet",
        around(image_flow.sd3, StableDiffusion3ControlNetPipeline, controlnet=control_sd3),
        {"control_image": parts.picture(), **SIZE, **SHORT, "guidance_scale": 5.0},
        PROMPTS,
        "ode",
    ),
    Family(
        "sd3-pag",
        around(lambda: image_flow.sd3_pipeline(dual=()), StableDiffusion3PAGPipeline, pag_applied_layers=["blocks.0"]),
        {**SIZE, **SHORT, **PAG, "guidance_scale": 5.0},
        PROMPTS,
        "ode",
    ),
    Family("flux-img2img", around(image_flux.flux, FluxImg2ImgPipeline), {**FLUX, **SIZE, **PICTURE}, PROMPTS, "ode"),
    Family("flux-inpaint", around(image_flux.flux, FluxInpaintPipeline), {**FLUX, **INPAINT}, PROMPTS, "ode"),
    Family("flux-control", flux_control, {**FLUX, **SIZE, "control_image": parts.picture()}, PROMPTS, "ode"),
    Family(
        "flux-controlnet",
        around(image_flux.flux, FluxControlNetPipeline, controlnet=control_flux),
        {**FLUX, **SIZE, "control_image": parts.picture()},
        PROMPTS,
        "ode",
    ),
    Family("chroma-img2img", around(image_flux.chroma, ChromaImg2ImgPipeline), {**SHORT, **SIZE, **PICTURE}, PROMPTS, "ode"),
    Family(
        "qwen-image-img2img",
        around(image_flow.qwen_image, QwenImageImg2ImgPipeline),
        {**QWEN, **PICTURE},
        PROMPTS,
        "ode",
    ),
    Family(
        "qwen-image-inpaint",
        around(image_flow.qwen_image, QwenImageInpaintPipeline),
        {**QWEN, **INPAINT},
        PROMPTS,
        "ode",
    ),
    Family(
        "z-image-img2img", around(image_flow.z_image, ZImageImg2ImgPipeline), {**SIZE, **PICTURE, "guidance_scale": 5.0}, PROMPTS, "ode"
    ),
    Family("z-image-inpaint", around(image_flow.z_image, ZImageInpaintPipeline), {**INPAINT, "guidance_scale": 5.0}, PROMPTS, "ode"),
    Family(
        "sana-pag",
        around(image_flow.sana, SanaPAGPipeline, pag_applied_layers=["transformer_blocks.0"]),
        {**image_flow.SANA, **PAG, "guidance_scale": 4.5},
        PROMPTS,
        "ode",
        lambda: flow(3.0),
    ),
    Family(
        "pixart-sigma-pag",
        around(image_dit.pixart_sigma, PixArtSigmaPAGPipeline, pag_applied_layers=["blocks.0"]),
        {**image_dit.PIXART, **PAG},
        PROMPTS,
        "ddim",
        image_dit.ddim_linear,
    ),
    Family(
        "hunyuan-dit-pag",
        around(image_dit.hunyuan_dit, HunyuanDiTPAGPipeline, pag_applied_layers=["blocks.0"]),
        {**image_dit.SIZE, **PAG, "guidance_scale": 5.0},
        PROMPTS,
        "ddim",
        image_dit.ddim_hunyuan,
    ),
]
