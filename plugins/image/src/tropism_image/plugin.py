"""What this plugin registers. Nothing heavy is imported here."""

from __future__ import annotations

from tropism import Entry, hookimpl

HERE = "tropism_image"


@hookimpl
def register_policies() -> list[Entry]:
    return [
        Entry("image/emoji-lcm", f"{HERE}.generators.emoji:consistency", "our 2.3 M-parameter text-to-emoji consistency model, shipped"),
        Entry("image/emoji-sd", f"{HERE}.generators.emoji:diffusion", "its Stable Diffusion teacher, shipped"),
        Entry("image/emoji-flow", f"{HERE}.generators.emoji:flow", "a rectified flow of the same names (Stable Diffusion 3), shipped"),
    ]


@hookimpl
def register_rewards() -> list[Entry]:
    return [
        Entry("image/jpeg-size", f"{HERE}.rewards.jpeg:JpegSize", "size as a JPEG in kB; weight -1 for compressibility (DDPO)"),
        Entry("image/jpeg-estimate", f"{HERE}.rewards.jpeg_estimate:JpegEstimate", "size as a JPEG in kB, estimated, with a gradient"),
        Entry("image/alignment", f"{HERE}.rewards.alignment:Alignment", "picture-text cosine by our own small scorer, shipped"),
        Entry("image/alignment-b", f"{HERE}.rewards.alignment:AlignmentB", "the same by a second scorer, kept for evaluation"),
        Entry("image/clip-score", f"{HERE}.rewards.clip_score:ClipScore", "CLIP picture-text cosine"),
        Entry("image/pickscore", f"{HERE}.rewards.pickscore:PickScore", "PickScore: preferences of Pick-a-Pic users"),
        Entry("image/hps-v2", f"{HERE}.rewards.hps:HPSv2", "Human Preference Score v2 and v2.1"),
        Entry("image/image-reward", f"{HERE}.rewards.image_reward:ImageReward", "ImageReward: BLIP ranked by experts"),
        Entry("image/aesthetic", f"{HERE}.rewards.aesthetic:Aesthetic", "LAION aesthetic head on CLIP embeddings"),
    ]


@hookimpl
def register_evaluators() -> list[Entry]:
    return [
        Entry("image/diversity", f"{HERE}.evaluators.diversity:Diversity", "mean feature distance among samples of one prompt"),
        Entry("image/frechet", f"{HERE}.evaluators.frechet:Frechet", "Frechet distance of features to the emoji set"),
    ]


@hookimpl
def register_datasets() -> list[Entry]:
    return [
        Entry(
            "image/emoji-captions",
            f"{HERE}.captions:EmojiCaptions",
            "names of emoji that the shipped models know, and some they have never seen",
        ),
        Entry("image/animals", f"{HERE}.animals:Animals", "animals, alone or at occupations, for large models (DDPO's task)"),
    ]


@hookimpl
def register_recipes() -> list[Entry]:
    return [
        Entry("image/rlcm-compress", f"{HERE}:recipes/rlcm-compress.yaml", "RLCM: pictures that compress well, in minutes on two cores"),
        Entry("image/rlcm-incompress", f"{HERE}:recipes/rlcm-incompress.yaml", "RLCM: pictures that do not compress"),
        Entry("image/rlcm-align", f"{HERE}:recipes/rlcm-align.yaml", "RLCM: pictures that fit their prompt better"),
        Entry("image/ddpo-compress", f"{HERE}:recipes/ddpo-compress.yaml", "DDPO on the diffusion teacher, for comparison"),
        Entry("image/ddpo-align", f"{HERE}:recipes/ddpo-align.yaml", "DDPO on the diffusion teacher, for comparison"),
        Entry("image/dpo-compress", f"{HERE}:recipes/dpo-compress.yaml", "Diffusion-DPO on pairs of its own samples"),
        Entry("image/dpo-offline", f"{HERE}:recipes/dpo-offline.yaml", "Diffusion-DPO on a folder of pairs"),
        Entry("image/inpo-offline", f"{HERE}:recipes/inpo-offline.yaml", "InPO on a folder of pairs"),
        Entry("image/sd15-ddpo", f"{HERE}:recipes/sd15-ddpo.yaml", "DDPO on Stable Diffusion 1.5"),
        Entry("image/sdxl-ddpo", f"{HERE}:recipes/sdxl-ddpo.yaml", "DDPO on Stable Diffusion XL"),
        Entry("image/lcm-dreamshaper-rlcm", f"{HERE}:recipes/lcm-dreamshaper-rlcm.yaml", "RLCM on LCM-Dreamshaper v7"),
        Entry("image/sdxl-turbo-ddpo", f"{HERE}:recipes/sdxl-turbo-ddpo.yaml", "a policy gradient on SDXL-Turbo's four steps"),
        Entry("image/sd35-medium-grpo", f"{HERE}:recipes/sd35-medium-grpo.yaml", "Flow-GRPO on Stable Diffusion 3.5 medium"),
        Entry("image/sd35-medium-nft", f"{HERE}:recipes/sd35-medium-nft.yaml", "DiffusionNFT on Stable Diffusion 3.5 medium"),
        Entry("image/flux-dev-mixgrpo", f"{HERE}:recipes/flux-dev-mixgrpo.yaml", "MixGRPO on FLUX.1-dev"),
        Entry("image/qwen-image-grpo-fast", f"{HERE}:recipes/qwen-image-grpo-fast.yaml", "Flow-GRPO-Fast on Qwen-Image"),
    ]


@hookimpl
def register_views() -> list[Entry]:
    return [Entry("image/image", f"{HERE}.view:ImageView", "PNG tiles")]
