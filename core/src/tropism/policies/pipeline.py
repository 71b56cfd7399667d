"""Any diffusers pipeline as a policy, without an adapter for each.

The pipeline runs a few steps while it is watched (``record.py``). From that is learned where the state and the time enter its denoiser
(``layout.py``, ``roles.py``), how the outputs combine into the prediction (``guidance.py``) and which noise levels it visits
(``grid.py``). The result is a pure, differentiable ``predict``, and it is checked: replayed at steps that it was not learned from, it must
equal what the pipeline computed, or the pipeline is refused with the reason.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from tropism.diffusion.noise import Draw
from tropism.errors import CaptureRefused, PolicyError, TropismError, nearest
from tropism.policies import blend, grid, quiet
from tropism.policies.call import BATCHED, PipelineCall
from tropism.policies.embedding import Embedding
from tropism.policies.record import Call, Watch
from tropism.policies.resting import Resting
from tropism.policies.study import PROBE_STEPS, Study, constant_noise
from tropism.scale.engine import default_device
from tropism.types import Item, Level, Tree, tree_cat, tree_map

FINE = 50  # steps of a cheap look at where a pipeline changes its networks


class PipelinePolicy:
    """A captured pipeline. ``replay_error`` is the relative error at steps kept for checking; ``describe()`` says what was learned.

    The state is what the denoiser is told: where a scheduler scales its input, the state is the scaled one.
    """

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, PipelineCall(pipe, call)
        self.study = Study(pipe, self.call)
        self.phases, self.shape, self.replay_error = self.study.phases, self.study.shape, self.study.replay_error
        self.emits = frozenset({self.call.kind})
        self.modules = tuple(dict.fromkeys(rule.module for phase in self.phases for rule in phase.rules if not rule.helps))
        self.schedule = grid.schedule(self.study.family, pipe.scheduler, functools.cache(self.study.levels))
        config = pipe.scheduler.config
        clipped = config.get("clip_sample", False) and self.schedule.parametrization == "sample"
        self.clip: float | None = config.get("clip_sample_range", 1.0) if clipped else None  # what is predicted is what is clipped
        self.memory: dict[tuple[int, torch.device], dict[str, list[Any]]] = {}
        self.resting = Resting(pipe, (), None)
        if len(self.phases) > 1:
            self.schedule.levels(FINE)

    # --- the six methods of a policy ----------------------------------------------------------------------------------------

    def trainable(self) -> torch.nn.Module:
        return self._networks

    def to(self, device: torch.device) -> PipelinePolicy:
        """Move the whole pipeline, text encoders and autoencoder included."""
        self.pipe.to(device)
        for phase in self.phases:
            for rule in phase.rules:
                rule.place(device)
        self.memory.clear()
        return self

    def offload(self, device: torch.device) -> None:
        """From now on all parts but the networks that learn wait on the CPU, and come to ``device`` when they are called."""
        self.resting = Resting(self.pipe, self.modules, device)

    def encode(self, items: list[Item]) -> Tree:
        with torch.no_grad(), self.resting.awake():
            return self._encoded(items)

    def _encoded(self, items: list[Item]) -> Tree:
        extra = any(name in self.call.parameters and name not in BATCHED for item in items for name in item)
        if len(items) > 1 and (self.study.one_by_one or extra):
            return tree_cat([self._encode([item]) for item in items])
        return self._encode(items)

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        made = self._of_networks(x, level, cond)
        return made if "known" not in cond else blend.applied(made, x, level, cond["known"], self.schedule.parametrization)

    def _of_networks(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        groups = self._groups(level.t, cond)
        if len(groups) == 1:
            return self._predict(groups[0][0], x, level.t, cond)
        made = torch.zeros_like(x, dtype=torch.float32)
        for phase, row in groups:
            cut = tree_map(lambda tensor, row=row: tensor[row], cond)  # type: ignore[misc]
            made = made.index_copy(0, row, self._predict(phase, x[row], level.t[row], cut))
        return made

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        fresh = draw(self.shape)
        level, begun = level.to(fresh.device), fresh * self.study.gain
        if self.study.noised:
            begun = level.alpha * cond["start"].to(fresh) + level.sigma * fresh
        return begun if "known" not in cond else blend.begun(begun, fresh, level, cond["known"])

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Let the pipeline finish: its loop runs with its networks answered for, and ends in ``x0``. Differentiable where it is."""
        if len(x0) > 1 and (self.call.single or self.call.kind == "video"):  # decoders of video need their memory for one sample
            parts = [self.decode(row) for row in x0.split(1)]
            return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
        memory = self.memory.setdefault((len(x0), x0.device), {})
        items = [self.study.items[0]] * len(x0)
        with self.resting.awake(), Watch(self.study.answers, ending=self.study.ending(x0), memory=memory)(self.pipe):
            return {self.call.kind: self.call.finish(items, PROBE_STEPS[0], open_mask=self.study.kept is not None)}

    @property
    def uneven(self) -> bool:
        """Whether samples may differ in how many forwards they need; see ``_groups``."""
        return len(self.phases) > 1 or any(rule.varying and not rule.masked for phase in self.phases for rule in phase.rules)

    def embed(self, media: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of decode: media by kind, as decode gives them -> x0 [B, ...] float32; no gradient. Learned when first needed.

        Raises PolicyError where the pipeline has no encoder, or where what it decodes cannot be turned round.
        """
        with self.resting.awake():
            return self._embedding(media[self.call.kind])

    def describe(self) -> dict[str, str]:
        """What was learned, for ``tropism doctor`` and for error reports."""
        told = {"pipeline": type(self.pipe).__name__}
        for number, phase in enumerate(self.phases):
            end = f" {number + 1}" if len(self.phases) > 1 else ""
            for rule in phase.rules:
                network = getattr(self.pipe, rule.module)
                size = f"{sum(p.numel() for p in network.parameters()):,} parameters"
                told[f"denoiser{end}"] = f"{rule.module} ({type(network).__name__}, {size})"
            rule = phase.rules[0]
            enter = ", ".join(f"{e.name}{' beside others' if e.canvas else ''}" for e in rule.entrances)
            told[f"sample{end}"] = f"{enter} {list(self.shape)}, {rule.copies * len(phase.rules)} copies"
            told[f"time{end}"] = ", ".join(clock.name for clock in rule.clocks)
            told[f"conditions{end}"] = ", ".join(f"{name} {_shape(self.study.answers[rule.module], name)}" for name in rule.conditions)
            told[f"guidance{end}"] = phase.guidance.describe()
            told[f"forwards a step{end}"] = str(len(phase.rules)) + (f" of {rule.copies} copies" if rule.copies > 1 else "")
        told["parametrization"] = self.schedule.parametrization + (", scaled input" if self.study.scaled else "")
        told["replay error"] = f"{self.replay_error:.2g}"
        return told

    # --- smaller pieces -------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _networks(self) -> torch.nn.Module:
        networks = {name: getattr(self.pipe, name) for name in self.modules}
        only: torch.nn.Module = networks[self.modules[0]]
        return only if len(networks) == 1 else torch.nn.ModuleDict(networks)

    @functools.cached_property
    def _embedding(self) -> Embedding:
        device = next(self._networks.parameters()).device
        return Embedding(self.pipe, lambda x0: self.decode(x0)[self.call.kind], tuple(self.shape), device)

    def _encode(self, items: list[Item]) -> Tree:
        _, records = self.study.look(items, FINE if len(self.phases) > 1 else 3)
        found: Tree = {}
        for record in records:
            number = self.study.known[float(record.t)]
            for name, rule, call in zip(self._names(number), self.phases[number].rules, record.calls, strict=True):
                found.setdefault(name, rule.conditions_of(call, len(items)))
        if self.study.kept is not None:
            found["known"] = self.study.known_part(items)
        if self.study.noised:
            with constant_noise(0.0):
                seen, records = self.study.look(items, 3)
            found["start"] = self.study.states(seen, records)[0].float() / grid.levels(self.study.family, seen).alpha[0]
        return found

    def _names(self, number: int) -> list[str]:
        """The names of a phase's calls among the conditions."""
        before = sum(len(phase.rules) for phase in self.phases[:number])
        return [f"call{before + index}" for index in range(len(self.phases[number].rules))]

    def _groups(self, t: torch.Tensor, cond: Tree) -> list[tuple[int, torch.Tensor]]:
        """(phase, rows) that can go through the network together: nearly always one. More where a pipeline changes its networks on the
        way, or where conditions differ in length and no mask tells filling from text."""
        keys = []
        if len(self.phases) > 1:
            times = torch.tensor(sorted(self.study.known))
            phase = torch.tensor([self.study.known[time] for time in times.tolist()])
            keys.append(phase[(t.detach().cpu()[:, None] - times[None]).abs().argmin(1)])
        rules = [rule for phase in self.phases for rule in phase.rules]
        keys.extend(length.cpu() for i, rule in enumerate(rules) for length in rule.lengths(cond[f"call{i}"]))
        if not keys:
            return [(0, torch.arange(len(t), device=t.device))]
        table, several = torch.stack(keys, 1), len(self.phases) > 1
        wanted = table.unique(dim=0)
        return [(int(key[0]) if several else 0, (table == key).all(1).nonzero().flatten().to(t.device)) for key in wanted]

    def _predict(self, number: int, x: torch.Tensor, t: torch.Tensor, cond: Tree) -> torch.Tensor:
        made = self.phases[number].run(self.pipe, x, t, [cond[name] for name in self._names(number)])
        return made if self.clip is None else made.clamp(-self.clip, self.clip)


def _index(source: str) -> dict[str, Any]:
    """The parts that a folder's model_index.json names, with library and class; none for a hub name."""
    index = Path(source) / "model_index.json"
    parts = json.loads(index.read_text()) if index.is_file() else {}
    return {name: value for name, value in parts.items() if isinstance(value, list) and len(value) == 2}


def _named(source: str) -> list[str]:
    return [name for name, (library, _) in _index(source).items() if isinstance(library, str)]


def _absent(source: str) -> dict[str, None]:
    """The parts that a folder was saved without (SD3 without T5): diffusers wants to be told of them again."""
    return {name: None for name, value in _index(source).items() if value == [None, None]}


def _shape(call: Call, name: str) -> str:
    value = call.arguments.get(name)
    return str(list(value.shape[1:])) if isinstance(value, torch.Tensor) else type(value).__name__


def capture(pipe: Any, **call: Any) -> PipelinePolicy:
    """Turn a diffusers pipeline into a policy; ``call`` are arguments of the pipeline's own call, e.g. guidance_scale, height.

    Raises CaptureRefused with the reason. The pipeline's own later outputs do not change.
    """
    if not hasattr(pipe, "scheduler") or not hasattr(pipe, "components"):
        raise CaptureRefused(f"{type(pipe).__name__} is no diffusers pipeline with a scheduler of its own")
    try:
        return PipelinePolicy(pipe, call)
    except TropismError:
        raise
    except Exception as error:  # whatever a pipeline raises when it is run in a way that it was not made for
        raise CaptureRefused(f"{type(pipe).__name__} cannot be followed: {type(error).__name__}: {error}") from error


def from_folder(source: str, call: dict[str, Any] | None = None, dtype: str = "float32", without: Sequence[str] = ()) -> PipelinePolicy:
    """Load a pipeline from a folder or a hub name and capture it. Raises PolicyError where nothing can be loaded.

    without: parts that are not to be loaded, for memory (SD3's T5) or for what they do to samples (a safety checker blackens some of them,
    and the reward would score that).
    """
    left_out = {**_absent(source), **dict.fromkeys(without)}
    if missing := [name for name in _named(source) if name not in left_out and not (Path(source) / name).exists()]:
        raise PolicyError(
            f"cannot load a pipeline from folder '{source}': its model_index.json names {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not there"
        )
    try:
        with quiet.loading():
            pipe = DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, dtype), use_safetensors=True, **left_out)
    except (OSError, ValueError) as error:
        kind = "folder" if os.sep in source or Path(source).exists() else "hub name or folder"
        found = sorted(p.name for p in Path(source).iterdir()) if Path(source).is_dir() else "nothing"
        raise PolicyError(
            f"cannot load a pipeline from {kind} '{source}': {str(error).splitlines()[0]}\n"
            f"  found there: {found}; expected a diffusers folder with model_index.json and the parts that it names"
        ) from error
    if unknown := [name for name in without if name not in pipe.components]:
        raise PolicyError(f"without: {type(pipe).__name__} has no part '{unknown[0]}'{nearest(unknown[0], pipe.components)}")
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    pipe.to(default_device())  # to be watched where it is fast, and where half precision works
    return capture(pipe, **(call or {}))
