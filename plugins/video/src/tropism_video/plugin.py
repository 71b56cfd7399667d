"""What this plugin registers. Nothing heavy is imported here."""

from __future__ import annotations

from tropism import Entry, hookimpl

HERE = "tropism_video"


@hookimpl
def register_rewards() -> list[Entry]:
    return [
        Entry("video/frames", f"{HERE}.rewards.frames:Frames", "any reward of pictures on some frames of a clip, their mean or least"),
        Entry("video/clip-score", f"{HERE}.rewards.frames:ClipScore", "CLIP picture-text cosine, the mean over frames; to be watched"),
    ]


@hookimpl
def register_evaluators() -> list[Entry]:
    return [Entry("video/motion", f"{HERE}.evaluators.motion:Motion", "how much a clip changes from frame to frame: 0 for a still")]


@hookimpl
def register_recipes() -> list[Entry]:
    return [Entry("video/wan21-grpo", f"{HERE}:recipes/wan21-grpo.yaml", "Flow-GRPO-Fast on Wan 2.1 1.3B")]


@hookimpl
def register_views() -> list[Entry]:
    return [Entry("video/video", f"{HERE}.view:VideoView", "animated WebP above a strip of frames")]
