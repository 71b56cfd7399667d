"""Parts of a pipeline that wait on the CPU while its denoiser works: text encoders and autoencoders, which are as large as it.

A part comes to the device when it is called, and goes back when a phase that may need it is over. It is done with accelerate's hooks, which
diffusers knows: where a pipeline asks on which device it works, it is told that of the hooks, wherever its parts are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import cpu_offload_with_hook


class Resting:
    """All modules of a pipeline but those ``at_work``; none where no ``device`` is given."""

    def __init__(self, pipe: Any, at_work: Collection[str], device: torch.device | None) -> None:
        self.hooks: dict[str, Any] = {}
        if device is None:
            return
        parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module) and name not in at_work}
        self.hooks = {name: cpu_offload_with_hook(part, device)[1] for name, part in parts.items()}

    @contextmanager
    def awake(self) -> Iterator[None]:
        """What is called inside the block stays on the device until its end; where gradients flow, which the backward pass follows
        back through the parts, until the end of the next block without."""
        yield
        if not torch.is_grad_enabled():
            self.rest()

    def rest(self) -> None:
        for hook in self.hooks.values():
            hook.offload()
