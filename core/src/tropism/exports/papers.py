"""The papers behind a run: those that the documentation of its parts names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tropism.assemble import named_parts
from tropism.plugins import Catalog
from tropism.policies.adapters import Lora
from tropism.recipe import Recipe

# What is cited most, by arXiv number. A paper that is not here is cited by its number and by the part that names it.
TITLES = {
    "1706.08500": "Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (FID)",
    "2010.02502": "Song et al. 2021, Denoising Diffusion Implicit Models",
    "2103.00020": "Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision (CLIP)",
    "2104.08718": "Hessel et al. 2021, CLIPScore: A Reference-free Evaluation Metric for Image Captioning",
    "2106.09685": "Hu et al. 2022, LoRA: Low-Rank Adaptation of Large Language Models",
    "2206.00364": "Karras et al. 2022, Elucidating the Design Space of Diffusion-Based Generative Models",
    "2209.03003": "Liu et al. 2023, Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
    "2210.08402": "Schuhmann et al. 2022, LAION-5B: An open large-scale dataset for training next generation image-text models",
    "2303.01469": "Song et al. 2023, Consistency Models",
    "2304.05977": "Xu et al. 2023, ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation",
    "2305.01569": "Kirstain et al. 2023, Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation",
    "2305.13301": "Black et al. 2024, Training Diffusion Models with Reinforcement Learning (DDPO)",
    "2305.08891": "Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps are Flawed",
    "2306.09341": "Wu et al. 2023, Human Preference Score v2",
    "2309.17400": "Clark et al. 2024, Directly Fine-Tuning Diffusion Models on Differentiable Rewards (DRaFT)",
    "2310.03739": "Prabhudesai et al. 2023, Aligning Text-to-Image Diffusion Models with Reward Backpropagation (AlignProp)",
    "2310.04378": "Luo et al. 2023, Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
    "2403.03206": "Esser et al. 2024, Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (SD3)",
    "2404.03673": "Oertell et al. 2024, RL for Consistency Models: Faster Reward Guided Text-to-Image Generation (RLCM)",
    "2505.05470": "Liu et al. 2025, Flow-GRPO: Training Flow Matching Models via Online RL",
    "2505.07818": "Xue et al. 2025, DanceGRPO: Unleashing GRPO on Visual Generation",
    "2507.21802": "Li et al. 2025, MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE",
    "2509.05952": "Wang and Yu 2025, Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching",
    "2509.16117": "Zheng et al. 2025, DiffusionNFT: Online Diffusion Reinforcement with Forward Process",
    "2509.25050": "Xue et al. 2025, Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion Models",
    "2510.22319": "Wang et al. 2025, GRPO-Guard: Mitigating Implicit Over-Optimization in Flow Matching via Regulated Clipping",
}
NUMBER = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Paper:
    """number: on arXiv; text: authors, year and title, or what names the paper."""

    number: str
    text: str


def cited(recipe: Recipe, catalog: Catalog) -> list[Paper]:
    """The papers of the recipe's parts and of its adapter, each once, in the recipe's order."""
    found: dict[str, Paper] = {}
    for name, text in _documentation(recipe, catalog):
        for number in NUMBER.findall(text):
            found.setdefault(number, Paper(number, TITLES.get(number, f"named by {name}")))
    return list(found.values())


def _documentation(recipe: Recipe, catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Each part's name and docstring; a module's docstring speaks for a part whose own names no paper."""
    for _, kind, part in named_parts(recipe):
        target = catalog.load(kind, part.use)
        own = inspect.getdoc(target) or ""
        yield part.use, own if NUMBER.search(own) else sys.modules[target.__module__].__doc__ or ""
    if recipe.adapter.kind == "lora":
        yield "LoRA", Lora.__doc__ or ""
