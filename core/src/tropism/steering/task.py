"""What a steering method works on: P prompts x K particles of a process, in chunks that fit into memory, with their random streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tropism.diffusion.schedules import like
from tropism.errors import SteeringError
from tropism.steering.process import Noise, Process
from tropism.steering.scorer import Judged, Scorer
from tropism.types import Tree, tree_cat, tree_map


def gather(state: Tree, rows: torch.Tensor) -> Tree:
    """Rows [M] of a state, as a whole: whatever is in the tree goes with the particle."""
    return tree_map(lambda t: t[rows.to(t.device, non_blocking=True)], state)  # or each tensor would wait for the device


def cut(state: Tree, begin: int, end: int) -> Tree:
    """Rows begin..end of a state."""
    return tree_map(lambda t: t[begin:end], state)


def flat(ancestors: torch.Tensor) -> torch.Tensor:
    """Ancestors [P, N] among K = N particles of each prompt -> rows [P N], prompt by prompt."""
    prompts, count = ancestors.shape
    return (ancestors + torch.arange(prompts, device=ancestors.device)[:, None] * count).flatten()


@dataclass
class Task:
    """draw: a stream for each particle's own noise, rows prompt by prompt; guess: another for each, for what is tried and not taken;
    chance: a stream for each prompt, for resampling and choosing. So steering takes nothing from the noise of samples, and prompts nothing
    from each other. Streams stay in their places when particles move, so that copies part.
    chunk: rows of a forward and of a reward, all at once if None.
    """

    process: Process
    scorer: Scorer
    draw: Noise
    guess: Noise
    chance: Noise
    prompts: int
    particles: int
    names: list[str] | None = None  # the prompts, for messages
    chunk: int | None = None

    def start(self, draw: Noise | None = None) -> Tree:
        """First states. draw: other streams than the particles' own, one for each."""
        state = self.process.start(draw or self.draw)
        if len(state["x"]) != self.prompts * self.particles:
            found = len(state["x"])
            raise SteeringError(f"{found} rows are no {self.prompts} prompts of {self.particles} particles; expected one seed a particle")
        return state

    def look(self, state: Tree, index: int) -> Tree:
        """One forward for every row."""
        return _joined([self.process.look(part, index) for part in self._parts(state)])

    def look_along(self, state: Tree, index: int) -> tuple[Tree, torch.Tensor, torch.Tensor]:
        """A look with the gradient of what x0 is worth: (state, rewards [B] float64 on the CPU, their gradient by ``x`` [B, ...]).

        Rows whose gradient is not finite are not pulled.
        """
        states, values, gradients = [], [], []
        for part in self._parts(state):
            with torch.enable_grad():
                x = part["x"].detach().requires_grad_()
                seen = self.process.look({**part, "x": x}, index)
                rewards = self.scorer.value(seen["x0"], seen["row"], index)
                (gradient,) = torch.autograd.grad(rewards.sum(), x)
            gradients.append(torch.where(like(gradient.flatten(1).isfinite().all(1), gradient), gradient, 0.0))
            states.append(tree_map(torch.Tensor.detach, seen))
            values.append(rewards.detach())
        return _joined(states), torch.cat(values).double().cpu(), torch.cat(gradients)

    def move(self, state: Tree, index: int, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        """The next states of rows that have a stream each, with log p / tau [B]."""
        return self.move_with(state, index, self.process.noise(self.draw, state, index), pull)

    def move_with(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        """The same with given random numbers [B, ...], for methods that try several moves of one state."""
        whole = {"state": state, "noise": noise, **({} if pull is None else {"pull": pull})}
        moved = [self.process.move(part["state"], index, part["noise"], part.get("pull")) for part in self._parts(whole)]
        return _joined([state for state, _ in moved]), torch.cat([ratio for _, ratio in moved])

    def plausible(self, state: Tree, index: int) -> torch.Tensor:
        """One draw of x0 [B, ...] for every state that was looked at."""
        whole = {"state": state, "noise": self.process.noise(self.guess, state, index)}
        return torch.cat([self.process.plausible(part["state"], index, part["noise"]) for part in self._parts(whole)])

    def ahead(self, state: Tree, index: int, steps: int) -> torch.Tensor:
        """x0 [B, ...] where ``steps`` deterministic steps lead."""
        return torch.cat([self.process.ahead(part, index, steps) for part in self._parts(state)])

    def rewards(self, x0: torch.Tensor, rows: torch.Tensor, index: int) -> torch.Tensor:
        """Rewards [B] float64 on the CPU of x0 [B, ...] of rows [B]: predicted from states before step ``index``, or finished."""
        return torch.cat([self.scorer(part["x0"], part["row"], index) for part in self._parts({"x0": x0, "row": rows})])

    def finished(self, state: Tree) -> Judged:
        """The rewards of finished samples: of x itself, decoded, not of a prediction."""
        parts = [self.scorer.finished(part["x"], part["row"]) for part in self._parts(state)]
        return Judged(
            torch.cat([part.reward for part in parts]),
            {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores},
            {kind: torch.cat([part.media[kind] for part in parts]) for kind in parts[0].media},
        )

    def in_parts(self, state: Tree, work: Callable[[Tree], torch.Tensor]) -> torch.Tensor:
        """What ``work`` makes of a state's chunks, [B, ...]."""
        return torch.cat([work(part) for part in self._parts(state)])

    def name(self, prompt: int) -> str:
        """A prompt, for messages."""
        return f"prompt {prompt}" + (f" ('{self.names[prompt]}')" if self.names else "")

    def _parts(self, tree: Tree) -> list[Tree]:
        count = _rows(tree)
        size = self.chunk or count
        return [cut(tree, begin, begin + size) for begin in range(0, count, size)]


def _joined(parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else tree_cat(parts)


def _rows(tree: Tree) -> int:
    first = next(iter(tree.values()))
    return _rows(first) if isinstance(first, dict) else len(first)
