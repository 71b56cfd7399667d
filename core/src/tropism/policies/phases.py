"""Phases: stretches of the time in which a pipeline calls the same modules in the same way.

A pipeline may change its ways on the way (two networks with a boundary between them, guidance only for a while); each phase is learned by
itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from tropism.errors import PolicyError
from tropism.policies import attention, guidance, layout, roles
from tropism.policies.record import StepRecord, rows
from tropism.types import Tree

Signature = tuple[tuple[str, int], ...]  # the modules of a step with the rows that each works on


@dataclass
class Phase:
    """What was learned of one phase."""

    rules: list[roles.CallRule]
    guidance: guidance.Guidance
    signature: Signature
    order: layout.Order | None = None

    def run(self, pipe: Any, x: torch.Tensor, t: torch.Tensor, conditions: Sequence[Tree]) -> torch.Tensor:
        """The prediction [B, ...] float32 for states x [B, ...] at times t [B]; ``conditions``: one tree for each call."""
        outputs: list[Any] = []
        for rule, cond in zip(self.rules, conditions, strict=True):
            network = getattr(pipe, rule.module)
            dtype = network_dtype(network)
            with attention.of(network, rule.processors):
                outputs.append(network(**rule.keywords(x, t, rule.trimmed(cond), dtype, outputs)))
        return self.guidance.combine(self.parts(outputs), t)

    def parts(self, outputs: Sequence[Any]) -> list[torch.Tensor]:
        """The guidance copies in the outputs of a step's calls, zero where the network's input is not the state."""
        found = [part for rule, output in zip(self.rules, outputs, strict=True) for part in rule.parts(output)]
        return found if self.order is None else [self.order.only_state(part) for part in found]


def stretches(records: Sequence[StepRecord]) -> dict[Signature, list[int]]:
    """Steps by what they call: modules and rows."""
    found: dict[Signature, list[int]] = {}
    for index, record in enumerate(records):
        found.setdefault(signature(record), []).append(index)
    return found


def signature(record: StepRecord) -> Signature:
    return tuple((call.module, rows(call.arguments)) for call in record.calls)


def scaled_batch(wanted: Signature, known: Sequence[Signature]) -> int:
    """Which known phase a signature is, at another batch size. Raises PolicyError if it is none."""
    for number, other in enumerate(known):
        if [module for module, _ in wanted] == [module for module, _ in other]:
            ratios = {now / then for (_, now), (_, then) in zip(wanted, other, strict=True)}
            if len(ratios) == 1:
                return number
    raise PolicyError(f"the pipeline calls {wanted}, which it did not do when it was captured")


class _Told(NamedTuple):
    """The type that a network computes in, and a parameter that has it, with its name: as long as the network holds that very parameter
    under that name and it has that type, nothing has changed."""

    dtype: torch.dtype
    by: weakref.ref[torch.nn.Parameter]
    name: str


_TOLD: weakref.WeakKeyDictionary[torch.nn.Module, _Told] = weakref.WeakKeyDictionary()


def network_dtype(network: Any) -> torch.dtype:
    """The type that a network computes in; its first parameter may be one that is kept in float32.

    A diffusers network looks through all its modules to tell, which takes a small one a third as long as its forward: it is asked once.
    """
    told = _TOLD.get(network)
    if told and (parameter := told.by()) is not None and parameter.dtype == told.dtype and _holds(network, told.name, parameter):
        return told.dtype
    found: torch.dtype = network.dtype if hasattr(network, "dtype") else next(network.parameters()).dtype
    for name, parameter in network.named_parameters():
        if parameter.dtype == found:
            _TOLD[network] = _Told(found, weakref.ref(parameter), name)
            break  # where none has it, the network stores its weights in another type than it computes in
    return found


def _holds(network: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> bool:
    try:
        return network.get_parameter(name) is parameter
    except AttributeError:  # what it was part of has been replaced by something else
        return False
