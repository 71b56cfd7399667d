"""Errors that are meant for a person: what was found, where, what was expected, and what to do next.

The command line prints the message of a TropismError alone and keeps the stack trace for ``log.txt`` (or ``--debug``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TropismError(Exception):
    """Any fault that tropism can name."""


class PluginError(TropismError):
    """A plugin, or a name that a plugin should have registered."""


class RecipeError(TropismError):
    """A recipe that cannot run; the message lists every mistake."""


class CheckpointError(TropismError):
    """A checkpoint that could not be written or read."""


class PolicyError(TropismError):
    """A generator that could not be built: missing weights, an adapter that fits nothing."""


class CaptureRefused(PolicyError):
    """A diffusers pipeline whose denoising step could not be reproduced; the message says why."""


class DataError(TropismError):
    """A data set that is not there, is not of its format, or has nothing usable in it."""


class RewardError(TropismError):
    """A reward that raised, or that returned the wrong shape or something not finite."""


class SteeringError(TropismError):
    """A steering method that cannot work on this sampler or reward, or particles of which none has any weight."""


class DivergedError(TropismError):
    """A loss that is not finite."""


class ProcessError(TropismError):
    """A process of a run that cannot take its place, or that has lost the others."""


class ElsewhereError(TropismError):
    """A fault that the main process tells; this process only has to end."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""
