"""Outcomes of decoded samples, each simulated once however many rewards and evaluators ask."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from tropism.errors import RewardError, nearest
from tropism_3d.physics.model import installed_coacd
from tropism_3d.physics.settings import Settings, preset
from tropism_3d.physics.simulate import Outcome, outcomes, spread
from tropism_3d.shapes import check, surface

KEPT = 8192  # the outcomes of a large evaluation
_known: OrderedDict[tuple[bytes, tuple[Settings, ...]], list[Outcome]] = OrderedDict()
_lock = threading.Lock()
T = TypeVar("T")


def chosen(name: str, changes: Mapping[str, Any] | None) -> Settings:
    """A preset with some settings changed. Raises RewardError that names the nearest setting, or what has to be installed."""
    known = [field.name for field in fields(Settings)]
    for key in changes or {}:
        if key not in known:
            raise RewardError(f"the simulation has no setting '{key}'{nearest(key, known)}; it has {', '.join(known)}")
    try:
        made = TypeAdapter(Settings).validate_python({**asdict(preset(name)), **(changes or {})})
    except ValidationError as error:
        raise RewardError("; ".join(f"simulation {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from error
    if made.contact == "coacd":
        installed_coacd()  # now, not after a rollout was made
    return made


def simulated(occupancy: torch.Tensor, settings: Sequence[Settings], threads: int | None = None) -> list[list[Outcome]]:
    """occupancy [B, N, N, N] -> for each of B samples its outcome under every setting.

    Settings may differ in kick, friction and slope alone. What was asked before is remembered: a simulation has one result.
    """
    every = tuple(settings)

    def one(field: np.ndarray) -> list[Outcome]:
        key = (hashlib.blake2b(field.tobytes(), digest_size=16).digest() + bytes([len(field)]), every)
        with _lock:
            if key in _known:
                _known.move_to_end(key)
                return _known[key]
        found = outcomes(surface(field), every)
        with _lock:
            _known[key] = found
            while len(_known) > KEPT:
                _known.popitem(last=False)
        return found

    return each(one, occupancy, threads)


def each(work: Callable[[np.ndarray], T], occupancy: torch.Tensor, threads: int | None = None) -> list[T]:
    """``work`` on every field [N, N, N] of ``occupancy``, by threads."""
    check(occupancy)
    return spread(work, list(occupancy.detach().float().cpu().numpy()), threads)
