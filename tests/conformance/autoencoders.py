"""Tiny autoencoders of images, named by their kind."""

from __future__ import annotations

from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage

from tests.conformance.weights import fill


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
