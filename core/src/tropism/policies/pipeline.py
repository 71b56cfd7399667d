"""Any diffusers pipeline as a policy, without an adapter for each.

The pipeline runs a few steps while it is watched (``record.py``). From that is learned where the state and the time enter its denoiser
(``layout.py``, ``roles.py``), how the outputs combine into the prediction (``guidance.py``) and which noise levels it visits
(``grid.py``). The result is a pure, differentiable ``predict``, and it is checked: replayed at steps that it was not learned from, it must
equal what the pipeline computed, or the pipeline is refused with the reason.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from tropism.diffusion.noise import Draw
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies import grid, guidance, roles
from tropism.policies.call import PipelineCall
from tropism.policies.layout import entrance
from tropism.policies.record import Call, Recording, StepRecord, Watch, rows
from tropism.types import Item, Level, Tree, tree_cat, tree_map

PROBE_STEPS = (4, 8, 16, 32)  # more where a pipeline changes its ways in between and each way has to be seen three times
FINE = 50  # steps of a cheap look at where it changes them


@dataclass
class Phase:
    """A stretch of the time in which a pipeline calls the same modules in the same way."""

    rules: list[roles.CallRule]
    guidance: guidance.Guidance
    signature: tuple[tuple[str, int], ...]


class PipelinePolicy:
    """A captured pipeline. ``replay_error`` is the relative error at steps kept for checking; ``describe()`` says what was learned.

    The state is what the denoiser is told: where a scheduler scales its input, the state is the scaled one.
    """

    def __init__(self, pipe: Any, call: dict[str, Any]) -> None:
        self.pipe, self.call = pipe, PipelineCall(pipe, call)
        self.items = self.call.probes()
        seen, records = self._probe()
        self.family = grid.family(pipe.scheduler)
        self.copies = _state_copies(records[0].x, len(self.items))  # some pipelines stack the state itself for guidance
        self.scaled = self._is_scaled(seen, records)
        states = self._states(seen, records)
        self.shape = tuple(states[0].shape[1:])
        self.phases: list[Phase] = []
        self.replay_error = 0.0
        for signature, chosen in _phases(records).items():
            self.phases.append(self._learn(signature, [records[i] for i in chosen], [states[i] for i in chosen]))
        self.answers = {call.module: call for record in records for call in record.calls}
        self.emits = frozenset({self.call.kind})
        self.known: dict[float, int] = {}  # the phase at every time that was seen
        self._remember(records)
        self.asked: dict[int, Level] = {}
        self.schedule = grid.schedule(pipe.scheduler, self._ask)
        self.gain, self.noised = self._beginning()
        self.memory: dict[tuple[int, torch.device], dict[str, list[Any]]] = {}
        if len(self.phases) > 1:
            self._ask(FINE)

    # --- the six methods of a policy ----------------------------------------------------------------------------------------

    def trainable(self) -> torch.nn.Module:
        return self._networks

    def to(self, device: torch.device) -> PipelinePolicy:
        """Move the whole pipeline, text encoders and autoencoder included."""
        self.pipe.to(device)
        self.memory.clear()
        return self

    def encode(self, items: list[Item]) -> Tree:
        return self._encode(items) if not self.call.single else tree_cat([self._encode([item]) for item in items])

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        if len(self.phases) == 1:
            return self._predict(0, x, level.t, cond)
        times = torch.tensor(sorted(self.known))
        nearest = (level.t.detach().cpu()[:, None] - times[None]).abs().argmin(1)
        phase = torch.tensor([self.known[time] for time in times.tolist()])[nearest]
        made = torch.zeros_like(x, dtype=torch.float32)
        for number in phase.unique().tolist():
            row = (phase == number).nonzero().flatten().to(x.device)
            if len(row) == len(x):
                return self._predict(number, x, level.t, cond)
            made = made.index_copy(0, row, self._predict(number, x[row], level.t[row], _rows(cond, row)))
        return made

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        fresh = draw(self.shape)
        if not self.noised:
            return fresh * self.gain
        level = level.to(fresh.device)
        return level.alpha * cond["start"].to(fresh) + level.sigma * fresh

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Let the pipeline finish: its loop runs with its networks answered for, and ends in ``x0``. Differentiable where it is."""
        memory = self.memory.setdefault((len(x0), x0.device), {})
        items = [self.items[0]] * len(x0)
        if self.call.single and len(x0) > 1:
            parts = [self.decode(row) for row in x0.split(1)]
            return {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
        watch = Watch(self.answers, ending=torch.cat([x0 * self.family.data] * self.copies), memory=memory)
        with watch(self.pipe):
            return {self.call.kind: self.call.finish(items, PROBE_STEPS[0])}

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
            told[f"conditions{end}"] = ", ".join(f"{name} {_shape(self.answers[rule.module], name)}" for name in rule.conditions)
            told[f"guidance{end}"] = phase.guidance.describe()
            told[f"forwards a step{end}"] = str(len(phase.rules)) + (f" of {rule.copies} copies" if rule.copies > 1 else "")
        told["parametrization"] = self.schedule.parametrization + (", scaled input" if self.scaled else "")
        told["replay error"] = f"{self.replay_error:.2g}"
        return told

    # --- learning -------------------------------------------------------------------------------------------------------------

    def _probe(self) -> tuple[Recording, list[StepRecord]]:
        """A watched run in which every phase shows at least three steps."""
        name = type(self.pipe).__name__
        for steps in PROBE_STEPS if self.call.steps is None else (self.call.steps,):
            seen = Recording(None)
            with torch.no_grad():
                seen = self.call.probe(self.items, steps)
                self.items = self.items[: self.call.batch]
            records = seen.denoising()
            if len(records) < 3:
                raise CaptureRefused(f"{name} took {len(records)} denoising steps of {steps}; at least 3 are needed")
            if any(not record.calls for record in records):
                raise CaptureRefused(f"{name} hands its scheduler a prediction that none of its modules computed")
            if all(len(chosen) >= 3 for chosen in _phases(records).values()):
                return seen, records
        seldom = [signature for signature, chosen in _phases(records).items() if len(chosen) < 3]
        raise CaptureRefused(f"{name} calls {seldom[0]} in fewer than 3 of {steps} steps; too few to learn from")

    def _is_scaled(self, seen: Recording, records: Sequence[StepRecord]) -> bool:
        """Whether the state reaches the network scaled to unit variance. Raises CaptureRefused for any other factor."""
        states = [record.x.chunk(self.copies)[0] for record in records]
        first = [record.calls[0].arguments for record in records]
        for name in first[0]:
            if {record.signature() for record in records} != {records[0].signature()}:
                return False
            found = entrance(name, [arguments.get(name) for arguments in first], states)
            if found is None:
                continue
            factors = found[1]
            if all(abs(factor - 1) < 1e-2 for factor in factors):
                return False
            expected = grid.gains(self.family, seen, records)
            if all(abs(factor - gain) < 1e-2 * gain for factor, gain in zip(factors, expected, strict=True)):
                return True
            raise CaptureRefused(
                f"{type(self.pipe).__name__} scales its state by {', '.join(f'{f:.3g}' for f in factors)} before the network; "
                f"expected 1 or {', '.join(f'{g:.3g}' for g in expected)}"
            )
        return False

    def _states(self, seen: Recording, records: Sequence[StepRecord]) -> list[torch.Tensor]:
        """The states [B, ...] of the records as the network is told them."""
        own = [record.x.chunk(self.copies)[0] for record in records]
        if not self.scaled:
            return own
        return [gain * x for gain, x in zip(grid.gains(self.family, seen, records), own, strict=True)]

    def _learn(self, signature: tuple[tuple[str, int], ...], records: list[StepRecord], states: list[torch.Tensor]) -> Phase:
        """Learn from all steps but the last, and replay that one. Raises CaptureRefused where it does not fit."""
        name = type(self.pipe).__name__
        rules = roles.learn(records[:-1], states[:-1])
        targets = [record.prediction.chunk(self.copies)[0] for record in records]
        targets = [_cut(target, state) for target, state in zip(targets, states, strict=True)]
        options = [roles.readings(rule, call, states[0]) for rule, call in zip(rules, records[0].calls, strict=True)]
        dtype = next(getattr(self.pipe, rules[0].module).parameters()).dtype
        reasons: list[CaptureRefused] = []
        for choice in itertools.product(*options):
            parts = [[p for rule, c in zip(choice, record.calls, strict=True) for p in rule.parts(c.output)] for record in records]
            limit = max(guidance.TOLERANCE, 16 * torch.finfo(dtype).eps)
            try:
                learned = guidance.learn(parts[:-1], targets[:-1], [record.t for record in records[:-1]], limit)
            except CaptureRefused as reason:
                reasons.append(reason)
                continue
            phase = Phase(list(choice), learned, signature)
            if learned.times is not None:  # weights by time are looked up, so the kept step has to be among them
                everything = guidance.learn(parts, targets, [record.t for record in records], limit)
                phase = Phase(list(choice), everything, signature)
            found = self._replay(phase, records[-1], states[-1], targets[-1])
            if not found < guidance.tolerance(learned.weights, dtype):
                raise CaptureRefused(
                    f"{name}: replaying an unseen step gives a relative error of {found:.2g}; expected below "
                    f"{guidance.tolerance(learned.weights, dtype):.2g}. Its denoiser is no function of its arguments, or its outputs "
                    "combine by a rule that is not known; register a generator of your own instead"
                )
            self.replay_error = max(self.replay_error, found)
            return phase
        raise CaptureRefused(f"{name}: {reasons[0]}")

    def _replay(self, phase: Phase, record: StepRecord, state: torch.Tensor, target: torch.Tensor) -> float:
        batch = len(state)
        encoded = {
            f"call{index}": rule.conditions_of(call, batch)
            for index, (rule, call) in enumerate(zip(phase.rules, record.calls, strict=True))
        }
        with torch.no_grad():
            made = self._run(phase, state.float(), record.t.to(state.device).float().expand(batch), encoded, 0)
        return guidance.relative(made, target)

    def _remember(self, records: Sequence[StepRecord]) -> None:
        for signature, chosen in _phases(records).items():
            number = next((n for n, phase in enumerate(self.phases) if phase.signature == signature), None)
            if number is None:
                number = _scaled_batch(signature, [phase.signature for phase in self.phases])
            self.known.update({float(records[index].t): number for index in chosen})

    def _ask(self, steps: int) -> Level:
        """The pipeline's own levels for a number of steps; a look at its loop that costs no network."""
        if steps not in self.asked:
            with torch.no_grad():
                seen = self.call.watched(Watch(self.answers), self.items, steps)
            records = seen.denoising()
            self._remember(records)
            self._weigh(records)
            self.asked[steps] = grid.levels(self.family, seen)
        return self.asked[steps]

    def _weigh(self, records: Sequence[StepRecord]) -> None:
        """Where guidance changes with the time, learn it at these steps' times."""
        for number, phase in enumerate(self.phases):
            if phase.guidance.times is None:
                continue
            chosen = [record for record in records if self.known[float(record.t)] == number]
            parts = [[p for rule, c in zip(phase.rules, r.calls, strict=True) for p in rule.parts(c.output)] for r in chosen]
            targets = [_cut(record.prediction.chunk(self.copies)[0], parts[0][0]) for record in chosen]
            phase.guidance = guidance.learn(parts, targets, [record.t for record in chosen], guidance.TOLERANCE)

    def _beginning(self) -> tuple[float, bool]:
        """(factor on the first noise, whether there is more in the first state than noise)."""
        first = []
        for value in (0.0, 1.0):
            with torch.no_grad(), constant_noise(value):
                seen = self.call.watched(Watch(self.answers), self.items, PROBE_STEPS[0])
            first.append(self._states(seen, seen.denoising())[0].float())
        return float((first[1] - first[0]).mean()), bool(first[0].abs().max() > 1e-6)

    # --- running --------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def modules(self) -> tuple[str, ...]:
        """The names of the pipeline's denoisers."""
        return tuple(dict.fromkeys(rule.module for phase in self.phases for rule in phase.rules))

    @functools.cached_property
    def _networks(self) -> torch.nn.Module:
        networks = {name: getattr(self.pipe, name) for name in self.modules}
        only: torch.nn.Module = networks[self.modules[0]]
        return only if len(networks) == 1 else torch.nn.ModuleDict(networks)

    def _encode(self, items: list[Item]) -> Tree:
        with torch.no_grad():
            seen = self.call.watched(Watch(self.answers), items, len(self.known) if len(self.phases) > 1 else 3)
        found: Tree = {}
        for record in seen.denoising():
            self._remember([record])
            number = self.known[float(record.t)]
            first = sum(len(phase.rules) for phase in self.phases[:number])
            for index, (rule, call) in enumerate(zip(self.phases[number].rules, record.calls, strict=True)):
                found.setdefault(f"call{first + index}", rule.conditions_of(call, len(items)))
        if self.noised:
            with torch.no_grad(), constant_noise(0.0):
                seen = self.call.watched(Watch(self.answers), items, 3)
            found["start"] = self._states(seen, seen.denoising())[0].float() / grid.levels(self.family, seen).alpha[0]
        return found

    def _predict(self, number: int, x: torch.Tensor, t: torch.Tensor, cond: Tree) -> torch.Tensor:
        return self._run(self.phases[number], x, t, cond, sum(len(phase.rules) for phase in self.phases[:number]))

    def _run(self, phase: Phase, x: torch.Tensor, t: torch.Tensor, cond: Tree, first: int) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        for index, rule in enumerate(phase.rules, first):
            network = getattr(self.pipe, rule.module)
            dtype = next(network.parameters()).dtype
            parts.extend(rule.parts(network(**rule.keywords(x, t, cond[f"call{index}"], dtype))))
        return phase.guidance.combine(parts, t)


@contextmanager
def constant_noise(value: float) -> Iterator[None]:
    """Inside the block ``torch.randn`` gives ``value`` everywhere: what is left in a first state is not noise."""
    original = torch.randn

    def constant(*size: Any, generator: Any = None, **options: Any) -> torch.Tensor:
        return torch.full_like(torch.empty(*size, **options), value)

    torch.randn = constant
    try:
        yield
    finally:
        torch.randn = original


def _phases(records: Sequence[StepRecord]) -> dict[tuple[tuple[str, int], ...], list[int]]:
    """Steps by what they call: modules and rows."""
    found: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for index, record in enumerate(records):
        found.setdefault(tuple((call.module, rows(call.arguments)) for call in record.calls), []).append(index)
    return found


def _scaled_batch(signature: tuple[tuple[str, int], ...], known: Sequence[tuple[tuple[str, int], ...]]) -> int:
    """Which known phase a signature is, at another batch size. Raises PolicyError if it is none."""
    for number, other in enumerate(known):
        if [module for module, _ in signature] == [module for module, _ in other]:
            ratios = {now / then for (_, now), (_, then) in zip(signature, other, strict=True)}
            if len(ratios) == 1:
                return number
    raise PolicyError(f"the pipeline calls {signature}, which it did not do when it was captured")


def _state_copies(x: torch.Tensor, items: int) -> int:
    """How many equal copies of the state the scheduler itself is given."""
    if len(x) > items and len(x) % items == 0:
        parts = x.chunk(len(x) // items)
        if all(torch.equal(part, parts[0]) for part in parts):
            return len(parts)
    return 1


def _cut(prediction: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The prediction without learned variances behind it."""
    for axis in range(1, min(prediction.ndim, state.ndim)):
        if prediction.shape[axis] == 2 * state.shape[axis]:
            prediction = prediction.narrow(axis, 0, state.shape[axis])
    return prediction


def _rows(tree: Tree, index: torch.Tensor) -> Tree:
    return tree_map(lambda tensor: tensor[index], tree)


def _shape(call: Call, name: str) -> str:
    value = call.arguments.get(name)
    return str(list(value.shape[1:])) if isinstance(value, torch.Tensor) else type(value).__name__


def capture(pipe: Any, **call: Any) -> PipelinePolicy:
    """Turn a diffusers pipeline into a policy; ``call`` are arguments of the pipeline's own call, e.g. guidance_scale, height.

    Raises CaptureRefused with the reason. The pipeline's own later outputs do not change.
    """
    if not hasattr(pipe, "scheduler") or not hasattr(pipe, "components"):
        raise CaptureRefused(f"{type(pipe).__name__} is no diffusers pipeline with a scheduler of its own")
    return PipelinePolicy(pipe, call)


def from_folder(source: str, call: dict[str, Any] | None = None, dtype: str = "float32") -> PipelinePolicy:
    """Load a pipeline from a folder or a hub name and capture it. Raises PolicyError where nothing can be loaded."""
    shown = not logging.is_progress_bar_enabled()
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
        if not shown:
            logging.enable_progress_bar()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return capture(pipe, **(call or {}))
