"""Several processes of one run: who am I, and the few things that they tell each other.

A process finds its place in the environment that ``tropism run --nproc``, ``torchrun`` and ``accelerate launch`` set (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Values travel as JSON and tensors as tensors; nothing is unpickled. Every method is called by all
processes in the same order, or they wait for each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tropism.errors import ElsewhereError, ProcessError, TropismError

PATIENCE = timedelta(hours=2)  # to wait for the others: an evaluation by the main process may be long


@dataclass(frozen=True)
class Processes:
    """Process ``rank`` of ``size``, number ``local`` on its machine. By default the only one, for which everything here is trivial."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @staticmethod
    def join() -> Processes:
        """Take one's place among the processes of the environment; alone where it names none. To be left by :meth:`leave`."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return Processes()
        if not dist.is_initialized():
            # gloo for what is on the CPU, NCCL for gradients on GPUs.
            try:
                dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
            except (RuntimeError, ValueError) as error:
                raise ProcessError(
                    f"WORLD_SIZE is {size}, but this process cannot join the others: {str(error).splitlines()[0]}; "
                    "start with 'tropism run --nproc', or unset WORLD_SIZE for a single process"
                ) from error
        return Processes(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))

    def leave(self) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process where the run's is ``name``: each has a GPU of its own."""
        if self.size == 1 or name != "cuda":
            return name
        if self.local >= torch.cuda.device_count():
            raise ProcessError(
                f"process {self.rank} asks for GPU {self.local}, but there are {torch.cuda.device_count()} here; "
                f"start at most that many processes, or give device=cpu"
            )
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def every(self, value: Any) -> list[Any]:
        """What each process gave, by rank. value: anything that JSON can say."""
        if self.size == 1:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self.rows(torch.tensor([len(text)]), [1] * self.size)]
        joined = bytes(self.rows(text, sizes).tolist())
        ends = [sum(sizes[: index + 1]) for index in range(self.size)]
        return [json.loads(joined[end - size : end]) for end, size in zip(ends, sizes, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return any(self.every(bool(flag)))

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What the main process makes (anything that JSON can say), for all. Where it fails, all fail: the others with ElsewhereError."""
        if self.size == 1:
            return make()
        made, fault = None, None
        if self.main:
            try:
                made = make()
            except Exception as error:  # whatever it is: the others must not wait for what will not come
                fault = error
        told, value = self.every([None if fault is None else f"{type(fault).__name__}: {fault}", made])[0]
        if fault is not None:
            raise fault
        if told is not None:
            raise ElsewhereError(told)
        return value

    def agree(self, fault: TropismError | None) -> None:
        """Go on only if no process has a fault. Otherwise the main process raises it, or its like of another process's text."""
        found = [(rank, text) for rank, text in enumerate(self.every(None if fault is None else str(fault))) if text is not None]
        if not found:
            return
        if not self.main:
            raise ElsewhereError(found[0][1])
        raise fault if fault is not None else ProcessError(f"process {found[0][0]}: {found[0][1]}")

    def rows(self, tensor: torch.Tensor, counts: Sequence[int], everywhere: bool = True) -> torch.Tensor:
        """Rows of all processes, by rank. tensor: this one's [counts[rank], ...]; all of one type and shape but for the rows. On the CPU.

        With ``everywhere`` False only the main process gets them, and the others their own back: pictures need not be in memory twice.
        """
        if self.size == 1:
            return tensor
        most = max(counts)
        mine = torch.zeros((most, *tensor.shape[1:]), dtype=tensor.dtype)
        mine[: len(tensor)] = tensor
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with _lost():
            if everywhere:
                dist.all_gather(found, mine)
            else:
                dist.gather(mine, found if self.main else None, 0)
                if not self.main:
                    return tensor
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace gradients by their means over processes, in one exchange. A parameter that no process has a gradient of keeps none."""
        if self.size == 1:
            return
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        flat = torch.cat([has, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters)])
        with _lost():
            dist.all_reduce(flat)
        has, *means = (flat / self.size).split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, some, mean in zip(parameters, has.tolist(), means, strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if some else None

    def equalise(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give all processes the main one's weights, so that what was drawn or loaded differently cannot stay different."""
        if self.size == 1:
            return
        flat = torch.cat([p.detach().flatten().float() for p in parameters])
        with _lost():
            dist.broadcast(flat, 0)
        with torch.no_grad():
            for parameter, value in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(value.view_as(parameter))


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(f"another process of this run has ended or does not answer: {str(error).splitlines()[0]}") from error
