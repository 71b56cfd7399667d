"""Where tensors live and gradients flow: device, precision, random states, optimizer step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from tropism.errors import DivergedError, PolicyError
from tropism.scale.float16 import Scaler
from tropism.scale.processes import Processes
from tropism.scale.shards import Sharded, whole

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> str:
    """``cuda`` or ``mps`` where there is one, else ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class Engine:
    """One process and its device; the gradients of all processes meet in :meth:`update`.

    ``deterministic``: only kernels whose result does not depend on the order of additions, so that a resumed run is exact also on CUDA
    (on the CPU it always is). Slower, and torch raises for an operation that has no such kernel.

    scaler: of the loss, in float16. sharded: the network that learns, where its weights are spread over the processes.
    """

    def __init__(self, device: str, precision: str = "fp32", deterministic: bool = False, processes: Processes | None = None) -> None:
        self.processes = processes or Processes()
        self.device, self.autocast_dtype = torch.device(self.processes.device(device)), PRECISIONS[precision]
        self.scaler = Scaler() if precision == "fp16" else None
        self.sharded: Sharded | None = None
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; torch asks for it
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Networks inside run in the run's precision; states and log-probabilities stay float32."""
        with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """The same for decoders, but never in float16, in which autoencoders overflow: they run in the type that they were loaded in."""
        dtype = self.autocast_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype not in (None, torch.float16)):
            yield

    def place(self, part: object) -> None:
        """Move a policy or a reward to the device, if it says how (``to(device)``)."""
        move = getattr(part, "to", None)
        if move is not None:
            move(self.device)

    def checkpoint(self, network: torch.nn.Module) -> None:
        """Let a network keep fewer activations and compute them again in the backward pass. Raises PolicyError where it cannot."""
        enable = getattr(network, "enable_gradient_checkpointing", None)
        try:
            if enable is None:
                raise ValueError("it has no enable_gradient_checkpointing, as diffusers' networks have")
            enable()
        except ValueError as error:
            raise PolicyError(f"train.checkpointing: {type(network).__name__} cannot: {error}; leave it out for this policy") from error

    def synchronize(self) -> None:
        """Wait for all work that was given to the device; on the CPU there is none to wait for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of a batch's loss to those of its update; ``last``: of the update, where sharded gradients meet."""
        if self.sharded is not None:
            self.sharded.meet(last)
        (loss if self.scaler is None else loss * self.scaler.scale).backward()

    def update(self, optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float | None:
        """Average the gradients over processes, clip, step, clear.

        Returns the gradient norm, the same in all processes, or None for a step that was skipped because float16 overflowed. Raises
        DivergedError before the step if the norm is not finite.
        """
        learning = list(parameters)
        if self.sharded is None:  # else the backward pass has averaged them
            self.processes.average_gradients(learning)
        grads = [p.grad for p in learning if p.grad is not None]  # none where no sample had anything to teach
        if self.scaler is not None and grads:
            torch._foreach_mul_(grads, 1 / self.scaler.scale)
        norm: float = whole(torch.nn.utils.clip_grad_norm_(learning, max_norm)).item()
        try:
            if self.scaler is None and not norm < float("inf"):
                raise DivergedError(f"the gradient norm is {norm}")
            if self.scaler is not None and not self.scaler.seen(norm):
                return None
            optimizer.step()
        finally:
            optimizer.zero_grad(set_to_none=True)
        return norm

    def random_state(self) -> dict[str, torch.Tensor]:
        """The global random states: ``cpu``, and ``cuda`` where the device is one. What tropism itself draws has its own generators."""
        states = {"cpu": torch.get_rng_state()}
        return {**states, "cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else states

    def load_random_state(self, states: dict[str, torch.Tensor]) -> None:
        """Put the states back; that of a device which the run no longer has is passed over."""
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)
