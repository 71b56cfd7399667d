"""How a pipeline is called: which of its arguments are fixed, which come from items, and in which form it gives its result."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from tropism.errors import CaptureRefused, PolicyError, nearest
from tropism.policies.record import Recording, Watch
from tropism.types import Item

PROBE_PROMPTS = ("a red apple", "the face of a cat")  # two that differ, so that the layout of a stacked batch shows
RESERVED = {"generator", "output_type", "return_dict", "callback_on_step_end"}
BATCHED = ("prompt", "class_labels")  # what every pipeline takes as a list; few take a list of pictures
KINDS = {"images": "image", "frames": "video", "audios": "audio", "audio_values": "audio"}


class PipelineCall:
    """Calls one pipeline with fixed arguments, for batches of items. ``single``: it takes one item at a time. ``bare``: and no list of one.

    Raises PolicyError for arguments that it does not know or that are not free.
    """

    def __init__(self, pipe: Any, fixed: dict[str, Any]) -> None:
        self.pipe = pipe
        self.parameters = inspect.signature(pipe.__call__).parameters
        for name in fixed:
            if name not in self.parameters or name in RESERVED:
                raise PolicyError(f"{type(pipe).__name__} takes no call argument '{name}'{nearest(name, set(self.parameters) - RESERVED)}")
        self.steps: int | None = fixed.get("num_inference_steps")
        self.fixed = {name: value for name, value in fixed.items() if name != "num_inference_steps"}
        self.single, self.bare, self.batch, self.kind = False, False, 0, "image"
        self.latent = "latent"

    def probes(self) -> list[Item]:
        """Two items to learn from."""
        if "class_labels" in self.parameters:
            return [{"class_labels": 0}, {"class_labels": 1}]
        if "prompt" in self.parameters and "prompt" not in self.fixed:
            return [{"prompt": prompt} for prompt in PROBE_PROMPTS]
        return [{"image": self.fixed["image"]}] * 2 if "prompt" not in self.parameters and "image" in self.fixed else [{}, {}]

    def probe(self, items: list[Item], steps: int) -> Recording:
        """A watched run on ``items``, or on the first alone where the pipeline takes one at a time. Raises CaptureRefused if it fails."""
        attempts: list[Exception] = []
        forms = [(items, False), (items[:1], False), (items[:1], True)] if not self.batch else [(items, self.bare)]
        for chosen, self.bare in forms:
            for self.latent in ("latent", "pt", "np"):
                watch = Watch()
                try:
                    with watch(self.pipe) as seen:
                        result = self.run(chosen, steps, self.latent)
                except CaptureRefused:
                    raise
                except Exception as error:  # whatever a pipeline raises for a batch or an output form that it does not take
                    attempts.append(error)
                    continue
                rows = len(seen.steps[0].x) if seen.steps else 0
                if rows and rows < len(chosen):  # it makes one sample, whatever the number of items
                    break
                self.batch, self.single = len(chosen), len(chosen) == 1
                self.kind = _kind(result)
                return seen
        raise CaptureRefused(f"{type(self.pipe).__name__} cannot be run: {attempts[0]}") from attempts[0]

    def watched(self, watch: Watch, items: list[Item], steps: int) -> Recording:
        """A watched run with the networks answered for."""
        with watch(self.pipe) as seen:
            self.run(items, steps, self.latent)
        return seen

    def finish(self, items: list[Item], steps: int, open_mask: bool) -> torch.Tensor:
        """Run to the end, with gradient if there is any, and take the finished media [B, ...]; pictures in [0, 1], channels first.

        open_mask: everything is to be painted, so that the pipeline puts nothing of the items' pictures into the result.
        """
        if open_mask and "mask_image" in self.parameters:
            items = [{**item, "mask_image": _everywhere({**self.fixed, **item}["mask_image"])} for item in items]
        refused: Exception | None = None
        for form in ("pt", "np"):
            try:
                result = self.run(items, steps, form, inspect.unwrap(type(self.pipe).__call__))
            except (ValueError, AttributeError, TypeError) as error:  # the form is not known to this pipeline
                refused = error
                continue
            return _media(result, self.kind)
        raise PolicyError(f"{type(self.pipe).__name__} gives its result neither as tensors nor as arrays: {refused}") from refused

    def run(self, items: list[Item], steps: int, form: str, function: Any = None) -> Any:
        """Call the pipeline (or ``function``, its undecorated call) on items, with its result in ``form``, an ``output_type``."""
        count = len(items)
        given: dict[str, Any] = {"generator": torch.Generator().manual_seed(0), "output_type": form, "num_inference_steps": steps}
        given.update({name: self._repeated(name, value, count) for name, value in self.fixed.items()})
        for name in {name for item in items for name in item if name in self.parameters}:
            missing = [item for item in items if name not in item]
            if missing:
                raise PolicyError(f"an item has no '{name}', which the others have: {missing[0]}")
            values = [item[name] for item in items]
            single = len(values) == 1 and (self.bare or name not in BATCHED)
            given[name] = values[0] if single else torch.stack(values) if isinstance(values[0], torch.Tensor) else values
        if "prompt" not in self.parameters and "batch_size" in self.parameters:
            given["batch_size"] = count
        given = {name: value for name, value in given.items() if name in self.parameters}
        return self.pipe(**given) if function is None else function(self.pipe, **given)

    def _repeated(self, name: str, value: Any, count: int) -> Any:
        """A text of the call for each item; anything else as it is."""
        if self.bare:
            return value
        return [value] * count if isinstance(value, str) and name.startswith(("prompt", "negative_prompt")) else value


def _everywhere(mask: Any) -> Any:
    """A mask of the same form and size, all of which is to be painted."""
    if isinstance(mask, list):
        return [_everywhere(one) for one in mask]
    if isinstance(mask, torch.Tensor):
        return torch.ones_like(mask)
    return np.ones_like(mask) if isinstance(mask, np.ndarray) else mask.convert("L").point(lambda _: 255)


def _kind(result: Any) -> str:
    names = list(result) if isinstance(result, dict) else []
    return next((KINDS[name] for name in names if name in KINDS), "image")


def _media(result: Any, kind: str) -> torch.Tensor:
    value = result[0] if not isinstance(result, torch.Tensor) else result
    if isinstance(value, list):
        value = np.stack(value) if isinstance(value[0], np.ndarray) else torch.stack(list(value))
    array = isinstance(value, np.ndarray)
    tensor = torch.as_tensor(value).float()
    if kind == "audio":
        return tensor[:, None] if tensor.ndim == 2 else tensor
    tensor = tensor.movedim(-1, -3) if array and tensor.shape[-1] in (1, 3, 4) else tensor
    return tensor.clamp(0, 1)
