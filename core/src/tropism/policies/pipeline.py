"""Any diffusers pipeline as a policy, without an adapter for each.

The pipeline runs a few steps while it is watched (``record.py``). From that is learned what each argument of the denoiser is and how its
outputs combine into the prediction (``roles.py``). The result is a pure, differentiable ``predict``, and it is checked: replayed at a step
that it was not learned from, it must equal what the pipeline computed, or the pipeline is refused with the reason.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Schedule, from_config
from tropism.errors import CaptureRefused, PolicyError, nearest
from tropism.policies import roles
from tropism.policies.record import Call, Enough, first_tensor, watch
from tropism.types import Item, Level, Tree

PROBE_PROMPTS = ["a red apple", "the face of a cat"]  # two that differ, so that the layout of a stacked batch shows
PROBE_STEPS = 4


class PipelinePolicy:
    """A captured pipeline. ``replay_error`` is the relative error at the step kept for checking; ``describe()`` says what was learned."""

    emits = frozenset({"image"})

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, _checked(pipe, call)
        self.schedule: Schedule = from_config(pipe.scheduler.config)
        with torch.no_grad(), watch(pipe) as seen:
            generator = torch.Generator().manual_seed(0)
            pipe(prompt=PROBE_PROMPTS, num_inference_steps=PROBE_STEPS, generator=generator, output_type="latent", **self.call)
        records = seen.denoising()
        if len(records) < 3:
            raise CaptureRefused(f"{type(pipe).__name__} took {len(records)} denoising steps of {PROBE_STEPS}; at least 3 are needed")
        learned, unseen = records[:-1], records[-1]
        self.rules = roles.learn(learned)
        self.mixture = roles.mixture(learned, self.rules).to(torch.float32).tolist()
        self.shape = tuple(records[0].x.shape[1:])
        if len(self.rules) != 1:
            calls = ", ".join(rule.module for rule in self.rules)
            raise CaptureRefused(f"{type(pipe).__name__} calls its networks several times in a step ({calls}); expected one call")
        self.module = self.rules[0].module
        self.replay_error = self._replay(unseen)
        limit = roles.tolerance(self.mixture, next(self.trainable().parameters()).dtype)
        if not self.replay_error < limit:
            raise CaptureRefused(
                f"{type(pipe).__name__}: replaying an unseen step gives a relative error of {self.replay_error:.2g}; expected below "
                f"{limit:.2g}. Its denoiser's outputs do not combine linearly, or its input is not the plain noised sample; "
                "register a generator of your own instead"
            )

    def trainable(self) -> torch.nn.Module:
        network: torch.nn.Module = getattr(self.pipe, self.module)
        return network

    def to(self, device: torch.device) -> PipelinePolicy:
        """Move the whole pipeline, text encoders and autoencoder included."""
        self.pipe.to(device)
        return self

    def encode(self, items: list[Item]) -> Tree:
        prompts = [item["prompt"] for item in items]
        calls: list[Call] = []
        with torch.no_grad(), watch(self.pipe, stop_at=self.module) as seen:
            try:
                self.pipe(
                    prompt=prompts, num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="latent", **self.call
                )
            except Enough:
                calls = [call for call in seen.pending if call.module == self.module]
        return {f"call{index}": rule.conditions_of(call) for index, (rule, call) in enumerate(zip(self.rules, calls, strict=True))}

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        network = self.trainable()
        dtype = next(network.parameters()).dtype
        parts: list[torch.Tensor] = []
        for index, rule in enumerate(self.rules):
            output = first_tensor(network(**rule.keywords(x, level.t, cond[f"call{index}"], dtype)))
            parts.extend(roles.chunks(output, rule.repeats, self.shape[0]))
        if len(parts) == 1:
            return parts[0].float()
        return torch.stack([weight * part.float() for weight, part in zip(self.mixture, parts, strict=True)]).sum(0)

    def noise(self, draw: Draw, cond: Tree) -> torch.Tensor:
        return draw(self.shape) * float(self.pipe.scheduler.init_noise_sigma)

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        vae = self.pipe.vae
        latent = x0 / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
        image = vae.decode(latent.to(vae.dtype), return_dict=False)[0]
        return {"image": (image.float() / 2 + 0.5).clamp(0, 1)}

    def describe(self) -> dict[str, str]:
        """What was learned, for ``tropism doctor`` and for error reports."""
        rule, network = self.rules[0], self.trainable()
        return {
            "pipeline": type(self.pipe).__name__,
            "denoiser": f"{self.module} ({type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters)",
            "sample": f"{rule.sample} {list(self.shape)}, {rule.repeats} copies",
            "time": rule.time,
            "conditions": ", ".join(rule.conditions),
            "guidance": " + ".join(f"{weight:.4g} out{index}" for index, weight in enumerate(self.mixture)),
            "parametrization": self.schedule.parametrization,
            "replay error": f"{self.replay_error:.2g}",
        }

    def _replay(self, record: Any) -> float:
        encoded = {
            f"call{index}": rule.conditions_of(call) for index, (rule, call) in enumerate(zip(self.rules, record.calls, strict=True))
        }
        t = record.t.to(record.x.device).expand(len(record.x))
        with torch.no_grad():
            return roles.replay_error(record, self.predict(record.x, Level(t, t, t), encoded))


def capture(pipe: Any, **call: Any) -> PipelinePolicy:
    """Turn a diffusers pipeline into a policy; ``call`` are arguments of the pipeline's own call, e.g. guidance_scale, height.

    Raises CaptureRefused with the reason. The pipeline's own later outputs do not change.
    """
    return PipelinePolicy(pipe, call)


def from_folder(source: str, call: dict[str, Any] | None = None, dtype: str = "float32") -> PipelinePolicy:
    """Load a pipeline from a folder or a hub name and capture it. Raises PolicyError where nothing can be loaded."""
    logging.disable_progress_bar()  # a bar for five small files only hides what matters
    try:
        pipe = DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, dtype), use_safetensors=True)
    except (OSError, ValueError) as error:
        kind = "folder" if os.sep in source or Path(source).exists() else "hub name or folder"
        found = sorted(p.name for p in Path(source).iterdir()) if Path(source).is_dir() else "nothing"
        raise PolicyError(
            f"cannot load a pipeline from {kind} '{source}': {str(error).splitlines()[0]}\n"
            f"  found there: {found}; expected a diffusers folder with model_index.json and the parts that it names"
        ) from error
    finally:
        logging.enable_progress_bar()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return capture(pipe, **(call or {}))


def _checked(pipe: Any, call: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(pipe.__call__).parameters
    reserved = {"prompt", "num_inference_steps", "generator", "output_type"}
    for name in call:
        if name not in known or name in reserved:
            raise PolicyError(f"{type(pipe).__name__} takes no call argument '{name}'{nearest(name, set(known) - reserved)}")
    return call
