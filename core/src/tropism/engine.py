"""Where tensors live and gradients flow: device, precision, backward, optimizer step. The one place where several processes will go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from tropism.errors import DivergedError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def default_device() -> str:
    """``cuda`` or ``mps`` where there is one, else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class Engine:
    """One process, one device."""

    def __init__(self, device: str, precision: str = "fp32") -> None:
        self.device, self.autocast_dtype = torch.device(device), PRECISIONS[precision]

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Networks inside run in the run's precision; states and log-probabilities stay float32."""
        with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            yield

    def place(self, part: object) -> None:
        """Move a policy or a reward to the device, if it says how (``to(device)``)."""
        move = getattr(part, "to", None)
        if move is not None:
            move(self.device)

    def update(self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Clip the gathered gradients, step, clear. Returns the gradient norm; raises DivergedError before the step if it is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(list(parameters), max_norm).item()
        if not norm < float("inf"):
            optimizer.zero_grad(set_to_none=True)
            raise DivergedError(f"the gradient norm is {norm}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm
