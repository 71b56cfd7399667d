"""What is learned from watching a pipeline: its phases, with the role of every argument, and how its states look."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from tropism.diffusion.schedules import like, split
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies import attention, blend, grid, guidance, layout, roles
from tropism.policies.call import PipelineCall
from tropism.policies.phases import Phase, Signature, network_dtype, scaled_batch, signature, stretches
from tropism.policies.record import Recording, StepRecord, Watch, tensors_of
from tropism.types import Level, Tree

PROBE_STEPS = (4, 8, 16, 32)  # more where a pipeline changes its ways in between and each way has to be seen three times


class Study:
    """Everything learned about one pipeline. Raises CaptureRefused with the reason where it cannot be understood.

    family, scaled, order, copies: how the scheduler's state becomes the network's. known: the phase at every time that was seen. kept: what
    the pipeline puts back into its state after every step, None for nothing.
    one_by_one: conditions of an item would differ beside other items. replay_error: the relative error at the steps kept for checking.
    """

    def __init__(self, pipe: Any, call: PipelineCall) -> None:
        self.pipe, self.call, self.items = pipe, call, call.probes()
        seen, records = self._probe()
        batch = len(self.items)
        self.family = grid.turned(grid.family(seen.scheduler), seen.scheduler, records[0])
        self.copies = _state_copies(records[0].x, batch)  # some pipelines stack the state itself for guidance
        self.order = self._find_order(records)
        self.sample = torch.Size((len(records[0].x) // self.copies // batch, *records[0].x.shape[1:]))  # one sample's, in the scheduler
        self.scaled = self._is_scaled(seen, records)
        self._tell(seen, records)
        states = self.states(seen, records)
        self.kept = self._find_kept(seen, records)
        self.shape = tuple(states[0].shape[1:])
        self.answers = {call.module: call for record in records for call in record.calls}
        self.phases: list[Phase] = []
        self.replay_error = 0.0
        alone = self._alone(len(records))
        targets = self.targets(seen, records, states)
        for ways, chosen in stretches(records).items():
            first = alone[chosen[0]] if alone else None
            picked = ([records[i] for i in chosen], [states[i] for i in chosen], [targets[i] for i in chosen])
            self.phases.append(self._learn(ways, *picked, first))
        self._check_steps(seen, records, states)
        self.one_by_one = call.single or self._depends_on_neighbours(records, alone)
        self.known: dict[float, int] = {}
        self.remember(records)
        self.gain, self.noised = self._beginning()
        end = float(grid.levels(self.family, seen).alpha[-1]) if self.family.flowing else 1.0
        self.unit = self.family.data / end  # one of ours in the scheduler's units, where sampling ends

    def look(self, items: list[Any], steps: int) -> tuple[Recording, list[StepRecord]]:
        """A run of the pipeline's loop that costs no network, its phases remembered."""
        with torch.no_grad():
            seen = self.call.watched(Watch(self.answers), items, steps)
        records = seen.denoising(self.answers)
        self._tell(seen, records)
        self.remember(records)
        return seen, records

    def levels(self, steps: int) -> Level:
        """The pipeline's own noise levels [steps+1]."""
        seen, records = self.look(self.items, steps)
        self._weigh(seen, records)
        return grid.levels(self.family, seen)

    def arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """A state or a prediction of the scheduler [B, ...], once and in the network's order."""
        once = tensor.chunk(self.copies)[0]
        return once if self.order is None else self.order.network(once, len(once) // self.sample[0])

    def ending(self, x0: torch.Tensor) -> torch.Tensor:
        """The inverse for finished samples [B, ...]: what the scheduler's last step returns."""
        x0 = x0 * self.unit
        return torch.cat([x0 if self.order is None else self.order.scheduler(x0, self.sample)] * self.copies)

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
            if all(len(chosen) >= 3 for chosen in stretches(records).values()):
                return seen, records
        seldom = [ways for ways, chosen in stretches(records).items() if len(chosen) < 3]
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
        """Whether the state reaches the network scaled to unit variance, or to a flow's. Raises CaptureRefused for any other factor."""
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
            for family in (self.family, replace(self.family, flowing=True, parametrization="flow")):
                expected = grid.gains(family, seen, records)
                if all(abs(factor - gain) < 1e-2 * gain for factor, gain in zip(factors, expected, strict=True)):
                    self.family = family
                    return True
            units = grid.gains(replace(self.family, flowing=False), seen, records)
            raise CaptureRefused(
                f"{type(self.pipe).__name__} scales its state by {', '.join(f'{f:.3g}' for f in factors)} before the network; "
                f"expected 1, {', '.join(f'{g:.3g}' for g in units)} or {', '.join(f'{g:.3g}' for g in expected)}"
            )
        return False

    def states(self, seen: Recording, records: Sequence[StepRecord]) -> list[torch.Tensor]:
        """The states [B, ...] of the records as the network is told them."""
        own = [self.arranged(record.x) for record in records]
        if not self.scaled:
            return own
        return [gain * x for gain, x in zip(grid.gains(self.family, seen, records), own, strict=True)]

    def targets(self, seen: Recording, records: Sequence[StepRecord], states: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The predictions [B, ...] of the records, for states that the network is told."""
        own = [_cut(self.family.factor * self.arranged(r.prediction), x) for r, x in zip(records, states, strict=True)]
        if not self.family.flowing:
            return own
        plain = grid.family(seen.scheduler)
        level, gains = grid.levels(plain, seen), grid.gains(plain, seen, records)
        made = []
        for index, (prediction, record, gain) in enumerate(zip(own, records, gains, strict=True)):
            x, at = gain * self.arranged(record.x), level[index].to(prediction.device).expand(len(prediction))
            x0, noise = split(prediction, x, at, plain.parametrization)
            made.append(noise - x0)
        return made

    def known_part(self, items: list[Any]) -> Tree:
        """The condition that says what the pipeline puts back for these items: ``places`` and ``value`` [B, ...]."""
        seen, records = self.look(items, PROBE_STEPS[0])
        found = self._find_kept(seen, records)
        with constant_noise(0.0):
            quiet, told = self.look(items, PROBE_STEPS[0])
        if found is None:
            raise PolicyError(f"{type(self.pipe).__name__} puts nothing back for {items[0]}; with what it was captured with it did")
        last = self.states(quiet, told)[-1]
        if found.clean and guidance.relative(last[:1][found.places[:1]].float(), self.put_back) > 1e-3:
            raise PolicyError(f"{type(self.pipe).__name__} puts other frames back for {items[0]}; give them in the call, for all items")
        return found.known(last, grid.levels(self.family, quiet)[len(told) - 1])

    def _tell(self, seen: Recording, records: Sequence[StepRecord]) -> None:
        """A network that is told a flow's state is told a flow's time, whatever its scheduler's times are."""
        if self.family.flowing:
            for record, t in zip(records, grid.levels(self.family, seen).t, strict=False):
                record.t = t

    def _find_kept(self, seen: Recording, records: Sequence[StepRecord]) -> blend.Kept | None:
        states = [self.arranged(record.x) for record in records]
        after = [self.arranged(record.after) for record in records[:-1]]
        return blend.kept(states, after, self.order.free.reshape(self.order.shape) if self.order is not None else None)

    def _alone(self, count: int) -> list[StepRecord]:
        """The same steps for one item only (another one where the pipeline takes one at a time), the networks answered for."""
        other = self.call.probes()[1:] if self.call.single else self.items[:1]
        with torch.no_grad():
            found = self.call.watched(Watch(self.answers), other, count).denoising(self.answers)
        return found if len(found) == count else []

    def _depends_on_neighbours(self, records: Sequence[StepRecord], alone: Sequence[StepRecord]) -> bool:
        """Whether an item's conditions are different beside another one, as where texts are padded to the longest of a batch."""
        for phase in self.phases if alone else []:
            index = next(i for i, record in enumerate(records) if signature(record) == phase.signature)
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

    def _learn(
        self,
        ways: Signature,
        records: list[StepRecord],
        states: list[torch.Tensor],
        targets: list[torch.Tensor],
        alone: StepRecord | None,
    ) -> Phase:
        """Learn from all steps but the last, and replay that one. Raises CaptureRefused where it does not fit."""
        name = type(self.pipe).__name__
        rules = roles.learn(records[:-1], states[:-1], alone)
        rules = [attention.seen_with(self.pipe, rule, call) for rule, call in zip(rules, records[0].calls, strict=True)]
        options = [roles.readings(rule, call, states[0]) for rule, call in zip(rules, records[0].calls, strict=True)]
        dtype = network_dtype(getattr(self.pipe, rules[0].module))
        reasons: list[CaptureRefused] = []
        for choice in itertools.product(*options):
            phase = Phase(list(choice), guidance.Guidance(torch.ones(1)), ways, self.order)
            parts = [phase.parts([call.output for call in record.calls]) for record in records]
            limit = guidance.fit_limit(dtype)
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
        levels, targets = grid.levels(self.family, seen), self.targets(seen, records, states)
        for index, (output, x, x_next) in enumerate(zip(targets, states, states[1:], strict=False)):
            device = x.device
            now, then = levels[index].to(device).expand(len(x)), levels[index + 1].to(device).expand(len(x))
            x0, noise = split(output, x, now, self.family.parametrization)
            made = like(then.alpha, x0) * x0 + like(then.sigma, x0) * noise
            made = made if self.kept is None else torch.where(self.kept.places, x_next.float(), made)
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
        for ways, chosen in stretches(records).items():
            number = next((n for n, phase in enumerate(self.phases) if phase.signature == ways), None)
            if number is None:
                number = scaled_batch(ways, [phase.signature for phase in self.phases])
            self.known.update({float(records[index].t): number for index in chosen})

    def _weigh(self, seen: Recording, records: Sequence[StepRecord]) -> None:
        """Where guidance changes with the time, learn it at these steps' times."""
        if all(phase.guidance.times is None for phase in self.phases):
            return
        targets = self.targets(seen, records, self.states(seen, records))
        for number, phase in enumerate(self.phases):
            if phase.guidance.times is None:
                continue
            chosen = [i for i, record in enumerate(records) if self.known[float(record.t)] == number]
            parts = [phase.parts([call.output for call in records[i].calls]) for i in chosen]
            goals, times = [targets[i] for i in chosen], [records[i].t for i in chosen]
            phase.guidance = guidance.learn(
                parts, goals, times, guidance.fit_limit(network_dtype(getattr(self.pipe, phase.rules[0].module)))
            )

    def _beginning(self) -> tuple[float, bool]:
        """(factor on the first noise, whether there is more in the first state than noise)."""
        runs = []
        for value in (0.0, 1.0):
            with constant_noise(value):
                seen, records = self.look(self.items, PROBE_STEPS[0])
                runs.append(self.states(seen, records))
        if self.kept is not None:
            self.put_back = runs[0][-1][:1][self.kept.places[:1]].float()
            blend.check(self.kept, runs, grid.levels(self.family, seen), type(self.pipe).__name__)
        first = [states[0].float() if self.kept is None else states[0][~self.kept.places].float() for states in runs]
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
