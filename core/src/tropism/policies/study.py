"""What is learned from watching a pipeline: its phases, with the role of every argument, and how its states look.

A pipeline may change its ways on the way (two networks with a boundary between them, guidance only for a while): each stretch of the time
in which it calls the same modules in the same way is a phase and is learned by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tropism.diffusion.schedules import like, split
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies import attention, grid, guidance, layout, roles
from tropism.policies.call import PipelineCall
from tropism.policies.record import Recording, StepRecord, Watch, rows, tensors_of
from tropism.types import Level, Tree

PROBE_STEPS = (4, 8, 16, 32)  # more where a pipeline changes its ways in between and each way has to be seen three times
Signature = tuple[tuple[str, int], ...]  # the modules of a step with the rows that each works on


@dataclass
class Phase:
    """A stretch of the time in which a pipeline calls the same modules in the same way."""

    rules: list[roles.CallRule]
    guidance: guidance.Guidance
    signature: Signature
    order: layout.Order | None = None

    def run(self, pipe: Any, x: torch.Tensor, t: torch.Tensor, conditions: Sequence[Tree]) -> torch.Tensor:
        """The prediction [B, ...] float32 for states x [B, ...] at times t [B]; ``conditions``: one tree for each call."""
        outputs: list[Any] = []
        for rule, cond in zip(self.rules, conditions, strict=True):
            network = getattr(pipe, rule.module)
            dtype = _dtype(network)
            with attention.of(network, rule.processors):
                outputs.append(network(**rule.keywords(x, t, rule.trimmed(cond), dtype, outputs)))
        return self.guidance.combine(self.parts(outputs), t)

    def parts(self, outputs: Sequence[Any]) -> list[torch.Tensor]:
        """The guidance copies in the outputs of a step's calls, zero where the network's input is not the state."""
        found = [part for rule, output in zip(self.rules, outputs, strict=True) for part in rule.parts(output)]
        return found if self.order is None else [self.order.only_state(part) for part in found]


class Study:
    """Everything learned about one pipeline. Raises CaptureRefused with the reason where it cannot be understood.

    family, scaled, order, copies: how the scheduler's state becomes the network's. known: the phase at every time that was seen.
    one_by_one: conditions of an item would differ beside other items. replay_error: the relative error at the steps kept for checking.
    """

    def __init__(self, pipe: Any, call: PipelineCall) -> None:
        self.pipe, self.call, self.items = pipe, call, call.probes()
        seen, records = self._probe()
        batch = len(self.items)
        self.family = grid.family(pipe.scheduler)
        self.copies = _state_copies(records[0].x, batch)  # some pipelines stack the state itself for guidance
        self.order = self._find_order(records)
        self.kept = torch.Size((len(records[0].x) // self.copies // batch, *records[0].x.shape[1:]))  # one sample's, in the scheduler
        self.scaled = self._is_scaled(seen, records)
        states = self.states(seen, records)
        self.shape = tuple(states[0].shape[1:])
        self.answers = {call.module: call for record in records for call in record.calls}
        self.phases: list[Phase] = []
        self.replay_error = 0.0
        alone = self._alone(len(records))
        for signature, chosen in _phases(records).items():
            first = alone[chosen[0]] if alone else None
            self.phases.append(self._learn(signature, [records[i] for i in chosen], [states[i] for i in chosen], first))
        self._check_steps(seen, records, states)
        self.one_by_one = call.single or self._depends_on_neighbours(records, alone)
        self.known: dict[float, int] = {}
        self.remember(records)
        self.gain, self.noised = self._beginning()

    def look(self, items: list[Any], steps: int) -> tuple[Recording, list[StepRecord]]:
        """A run of the pipeline's loop that costs no network, its phases remembered."""
        with torch.no_grad():
            seen = self.call.watched(Watch(self.answers), items, steps)
        records = seen.denoising(self.answers)
        self.remember(records)
        return seen, records

    def levels(self, steps: int) -> Level:
        """The pipeline's own noise levels [steps+1]."""
        seen, records = self.look(self.items, steps)
        self._weigh(records)
        return grid.levels(self.family, seen)

    def arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """A state or a prediction of the scheduler [B, ...], once and in the network's order."""
        once = tensor.chunk(self.copies)[0]
        return once if self.order is None else self.order.network(once, len(once) // self.kept[0])

    def ending(self, x0: torch.Tensor) -> torch.Tensor:
        """The inverse for finished samples [B, ...]: what the scheduler's last step returns."""
        x0 = x0 * self.family.data
        return torch.cat([x0 if self.order is None else self.order.scheduler(x0, self.kept)] * self.copies)

    def _probe(self) -> tuple[Recording, list[StepRecord]]:
        """A watched run in which every phase shows at least three steps."""
        name = type(self.pipe).__name__
        for steps in PROBE_STEPS if self.call.steps is None else (self.call.steps,):
            with torch.no_grad():
                seen = self.call.probe(self.items, steps)
                self.items = self.items[: self.call.batch]
            records = seen.denoising()
            if len(records) < 3:
                raise CaptureRefused(f"{name} took {len(records)} denoising steps of {steps}; at least 3 are needed")
            if any(not record.calls for record in records):
                raise CaptureRefused(f"{name} hands its scheduler a prediction that none of its modules computed")
            for before, record in itertools.pairwise(records):
                if before.after.shape == record.x.shape and guidance.relative(record.x.float(), before.after) > 1e-3:
                    raise CaptureRefused(f"{name} changes the state between its steps (it blends in a known part); that is not covered")
            if all(len(chosen) >= 3 for chosen in _phases(records).values()):
                return seen, records
        seldom = [signature for signature, chosen in _phases(records).items() if len(chosen) < 3]
        raise CaptureRefused(f"{name} calls {seldom[0]} in fewer than 3 of {steps} steps; too few to learn from")

    def _find_order(self, records: Sequence[StepRecord]) -> layout.Order | None:
        """How the network arranges the state, where it is not as the scheduler has it."""
        chosen = [record for record in records if record.signature() == records[0].signature()]
        states, batch = [record.x.chunk(self.copies)[0] for record in chosen], len(self.items)
        arguments = [record.calls[0].arguments for record in chosen]
        if any(layout.entrance(name, [a.get(name) for a in arguments], states) for name in arguments[0]):
            return None
        found = (layout.order([a.get(name) for a in arguments], states, batch) for name in arguments[0])
        return next((order for order in found if order is not None), None)

    def _is_scaled(self, seen: Recording, records: Sequence[StepRecord]) -> bool:
        """Whether the state reaches the network scaled to unit variance. Raises CaptureRefused for any other factor."""
        states = [self.arranged(record.x) for record in records]
        first = [record.calls[0].arguments for record in records]
        for name in first[0]:
            if {record.signature() for record in records} != {records[0].signature()}:
                return False
            found = layout.entrance(name, [arguments.get(name) for arguments in first], states)
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

    def states(self, seen: Recording, records: Sequence[StepRecord]) -> list[torch.Tensor]:
        """The states [B, ...] of the records as the network is told them."""
        own = [self.arranged(record.x) for record in records]
        if not self.scaled:
            return own
        return [gain * x for gain, x in zip(grid.gains(self.family, seen, records), own, strict=True)]

    def _alone(self, count: int) -> list[StepRecord]:
        """The same steps for one item only (another one where the pipeline takes one at a time), the networks answered for."""
        other = self.call.probes()[1:] if self.call.single else self.items[:1]
        with torch.no_grad():
            found = self.call.watched(Watch(self.answers), other, count).denoising(self.answers)
        return found if len(found) == count else []

    def _depends_on_neighbours(self, records: Sequence[StepRecord], alone: Sequence[StepRecord]) -> bool:
        """Whether an item's conditions are different beside another one, as where texts are padded to the longest of a batch."""
        for phase in self.phases if alone else []:
            index = next(i for i, record in enumerate(records) if _signature(record) == phase.signature)
            for rule, together, single in zip(phase.rules, records[index].calls, alone[index].calls, strict=True):
                if rule.varying:
                    return True
                if self.call.single:
                    continue
                many, one = rule.conditions_of(together, len(self.items)), rule.conditions_of(single, 1)
                for many_value, one_value in zip(tensors_of(many), tensors_of(one), strict=True):
                    if many_value.shape[1:] == one_value.shape[1:] and guidance.relative(many_value[:1].float(), one_value) > 1e-2:
                        return True
        return False

    def _learn(self, signature: Signature, records: list[StepRecord], states: list[torch.Tensor], alone: StepRecord | None) -> Phase:
        """Learn from all steps but the last, and replay that one. Raises CaptureRefused where it does not fit."""
        name = type(self.pipe).__name__
        rules = roles.learn(records[:-1], states[:-1], alone)
        rules = [attention.seen_with(self.pipe, rule, call) for rule, call in zip(rules, records[0].calls, strict=True)]
        targets = [self.family.sign * self.arranged(record.prediction) for record in records]
        targets = [_cut(target, state) for target, state in zip(targets, states, strict=True)]
        options = [roles.readings(rule, call, states[0]) for rule, call in zip(rules, records[0].calls, strict=True)]
        dtype = _dtype(getattr(self.pipe, rules[0].module))
        reasons: list[CaptureRefused] = []
        for choice in itertools.product(*options):
            phase = Phase(list(choice), guidance.Guidance(torch.ones(1)), signature, self.order)
            parts = [phase.parts([call.output for call in record.calls]) for record in records]
            limit = max(guidance.TOLERANCE, 16 * torch.finfo(dtype).eps)
            try:
                learned = guidance.learn(parts[:-1], targets[:-1], [record.t for record in records[:-1]], limit)
            except CaptureRefused as reason:
                reasons.append(reason)
                continue
            phase.guidance = learned
            if learned.times is not None:  # weights by time are looked up, so the kept step has to be among them
                phase.guidance = guidance.learn(parts, targets, [record.t for record in records], limit)
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

    def _check_steps(self, seen: Recording, records: Sequence[StepRecord], states: Sequence[torch.Tensor]) -> None:
        """Where the scheduler's step is known exactly, that of the levels and parametrization read off it has to be the same."""
        if not _first_order(self.pipe.scheduler):
            return
        levels = grid.levels(self.family, seen)
        for index, (record, x, x_next) in enumerate(zip(records, states, states[1:], strict=False)):
            output = _cut(self.family.sign * self.arranged(record.prediction), x)
            device = x.device
            now, then = levels[index].to(device).expand(len(x)), levels[index + 1].to(device).expand(len(x))
            x0, noise = split(output, x, now, self.family.parametrization)
            made = like(then.alpha, x0) * x0 + like(then.sigma, x0) * noise
            if guidance.relative(made, x_next) > 1e-2:
                raise CaptureRefused(
                    f"{type(self.pipe).__name__} moves its state in another way than its {type(self.pipe.scheduler).__name__} says "
                    "(parts of it may have a time of their own); register a generator of your own instead"
                )

    def _replay(self, phase: Phase, record: StepRecord, state: torch.Tensor, target: torch.Tensor) -> float:
        batch = len(state)
        encoded = [rule.conditions_of(call, batch) for rule, call in zip(phase.rules, record.calls, strict=True)]
        with torch.no_grad():
            made = phase.run(self.pipe, state.float(), record.t.to(state.device).float().expand(batch), encoded)
        return guidance.relative(made, target)

    def remember(self, records: Sequence[StepRecord]) -> None:
        for signature, chosen in _phases(records).items():
            number = next((n for n, phase in enumerate(self.phases) if phase.signature == signature), None)
            if number is None:
                number = _scaled_batch(signature, [phase.signature for phase in self.phases])
            self.known.update({float(records[index].t): number for index in chosen})

    def _weigh(self, records: Sequence[StepRecord]) -> None:
        """Where guidance changes with the time, learn it at these steps' times."""
        for number, phase in enumerate(self.phases):
            if phase.guidance.times is None:
                continue
            chosen = [record for record in records if self.known[float(record.t)] == number]
            parts = [phase.parts([call.output for call in record.calls]) for record in chosen]
            targets = [_cut(self.family.sign * self.arranged(record.prediction), parts[0][0]) for record in chosen]
            phase.guidance = guidance.learn(parts, targets, [record.t for record in chosen], guidance.TOLERANCE)

    def _beginning(self) -> tuple[float, bool]:
        """(factor on the first noise, whether there is more in the first state than noise)."""
        first = []
        for value in (0.0, 1.0):
            with constant_noise(value):
                first.append(self.states(*self.look(self.items, PROBE_STEPS[0]))[0].float())
        return float((first[1] - first[0]).mean()), bool(first[0].abs().max() > 1e-6)


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


def _phases(records: Sequence[StepRecord]) -> dict[Signature, list[int]]:
    """Steps by what they call: modules and rows."""
    found: dict[Signature, list[int]] = {}
    for index, record in enumerate(records):
        found.setdefault(_signature(record), []).append(index)
    return found


def _signature(record: StepRecord) -> Signature:
    return tuple((call.module, rows(call.arguments)) for call in record.calls)


def _scaled_batch(signature: Signature, known: Sequence[Signature]) -> int:
    """Which known phase a signature is, at another batch size. Raises PolicyError if it is none."""
    for number, other in enumerate(known):
        if [module for module, _ in signature] == [module for module, _ in other]:
            ratios = {now / then for (_, now), (_, then) in zip(signature, other, strict=True)}
            if len(ratios) == 1:
                return number
    raise PolicyError(f"the pipeline calls {signature}, which it did not do when it was captured")


def _dtype(network: Any) -> torch.dtype:
    """The type that a network computes in; its first parameter may be one that is kept in float32."""
    found: torch.dtype = network.dtype if hasattr(network, "dtype") else next(network.parameters()).dtype
    return found


def _first_order(scheduler: Any) -> bool:
    """Whether the scheduler's step is DDIM's without noise, which is that of every first-order solver in the right coordinates."""
    config, name = scheduler.config, type(scheduler).__name__
    plain = not any(config.get(key) for key in ("stochastic_sampling", "clip_sample", "thresholding"))
    if name == "DDIMScheduler":  # with other spacings it steps to a level that is not that of its next time
        return plain and config.get("timestep_spacing") == "leading"
    return plain and name in ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler")


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
