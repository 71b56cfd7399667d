"""The loop that all the training scripts share: seeded, resumable, with an average of the weights.

Randomness of step ``n`` comes from a generator seeded by ``(seed, n)``, so a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tropism import checkpoint

Loss = Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]]


def fit(
    modules: dict[str, torch.nn.Module],
    loss: Loss,
    *,
    folder: Path,
    steps: int,
    lr: float,
    seed: int = 0,
    warmup: int = 50,
    weight_decay: float = 1e-3,
    decay: float = 0.998,
    save_every: int = 250,
    after: Callable[[int], None] = lambda step: None,
) -> dict[str, torch.nn.Module]:
    """Minimise ``loss(step, generator)`` over the modules' parameters; load the averaged weights into them and return them.

    AdamW, linear warm-up, cosine to 2 %, gradient norm 1. ``after(step)`` runs behind every update (target networks).
    """
    named = {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = {name: p.detach().clone() for name, p in named.items()}
    first = 0
    if newest := checkpoint.latest(folder):
        state = checkpoint.load(newest)
        first = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(state["weights"][name])
                average[name].copy_(state["average"][name])
        for module_name, module in modules.items():
            for name, buffer in module.named_buffers():
                if f"{module_name}.{name}" in state["buffers"]:
                    buffer.copy_(state["buffers"][f"{module_name}.{name}"])
        print(f"resumed at step {first}", flush=True)
    begin, running = time.time(), {}
    for step in range(first, steps):
        shape = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * shape
        value, metrics = loss(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        rate = min(decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1 - rate)
        after(step)
        for key, number in {"loss": value.item(), **metrics}.items():
            running[key] = 0.95 * running.get(key, number) + 0.05 * number
        if (step + 1) % 50 == 0:
            pace = (time.time() - begin) / (step + 1 - first)
            shown = " ".join(f"{key} {number:.4f}" for key, number in running.items())
            print(f"step {step + 1}/{steps} {shown} {pace:.2f} s/step, {pace * (steps - step - 1) / 60:.1f} min left", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            buffers = {f"{key}.{name}": b for key, module in modules.items() for name, b in module.named_buffers()}
            state = {"step": step + 1, "optimizer": optimizer.state_dict(), "weights": named, "average": average, "buffers": buffers}
            checkpoint.save(checkpoint.step_folder(folder, step + 1), state)
            checkpoint.prune(folder, 1)
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(average[name])
    return modules
