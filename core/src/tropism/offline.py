"""What an offline run learns from: judged media of a data set instead of samples of its own.

Every process draws the same records and learns from its share of them, so that an iteration is the same however many processes there are.
A medium is encoded once, alone, and its latents are kept in memory within a limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tropism import sampling
from tropism.data import collate
from tropism.data.batches import Batches
from tropism.data.stream import Stream
from tropism.data.tally import Tally
from tropism.diffusion.noise import Draw
from tropism.errors import RecipeError, TropismError
from tropism.optimizers.base import Batch, Optimizer, label_batches, pair_batches
from tropism.scale.even import evened
from tropism.scale.spread import own_samples
from tropism.types import Labelled, Pairs

if TYPE_CHECKING:
    from tropism.assemble import Parts
    from tropism.loop import Run

LIMIT = 2 * 1024**3  # bytes of latents: 32,000 pictures of Stable Diffusion at 512 pixels, 2,000 of FLUX at 1024


class Offline:
    """The judged media of a run. Batches of them follow from the seed and from what was drawn before, which is all that is remembered."""

    def __init__(self, run: Run, parts: Parts) -> None:
        part = run.recipe.offline
        assert part is not None and parts.reader is not None
        self.run, self.axis = run, part.axis
        self.stream = Stream(parts.reader, seed=run.recipe.seed, window=part.window, ties=part.ties)
        self.batches = Batches(self.stream, self.load, self.embed, LIMIT)
        rollout, processes = run.recipe.rollout, run.processes
        self.mine = own_samples(rollout.samples, run.recipe.train.updates, processes.rank, processes.size)
        (self.kind,) = run.policy.emits
        if not hasattr(run.views.get(self.kind), "load"):
            raise RecipeError(f"no view of '{self.kind}' reads files (has 'load'), so judged media of this policy cannot be learned from")
        self.shape: tuple[int, ...] = ()
        self.error: float | None = None  # root mean square, of the first medium that came back from its latents
        self.said = False

    def take(self) -> sampling.Material:
        """The next pairs or labelled media, to learn from."""
        run = self.run
        with run.phase("draw"):
            fault, judged = None, None
            try:
                judged = self.draw()
            except TropismError as error:
                fault = error
            run.processes.agree(fault)
            assert judged is not None
            run.progress.advance(len(self.mine) * run.processes.size)
        if self.stream.epoch and not self.said:
            self.told()
        counted: list[Tally] = [self.stream.tally, self.batches.tally]
        numbers = {"data/pass": float(self.stream.epoch), "data/bad_rows": float(sum(sum(t.faults.values()) for t in counted))}
        return sampling.Material(lambda key: self.planned(judged, key), numbers, {})

    def draw(self) -> Pairs | Labelled:
        """This process's share of the next ``rollout.samples`` records, as latents on the device with their conditions."""
        run, count = self.run, self.run.recipe.rollout.samples
        if "labels" in run.optimizer.needs:
            return collate.labelled(self.batches.labels(count, self.mine), run.conditions.encode, self.placed, run.recipe.seed)
        return collate.pairs(self.batches.pairs(count, self.mine), run.conditions.encode, self.placed, run.recipe.seed, self.axis)

    def planned(self, judged: Pairs | Labelled, key: int) -> list[list[Batch]]:
        """What the optimizer is given of judged media, for each update of a pass."""
        run, train = self.run, self.run.recipe.train
        found = planned(run.optimizer, judged, train.updates, train.micro or run.recipe.rollout.batch, key)
        if run.engine.sharded is None:
            return found
        told = replace(judged, weight=torch.ones_like(judged.weight)) if isinstance(judged, Pairs) else judged
        ((some, *_), *_) = planned(run.optimizer, told, 1, 2, key)
        return evened(found, lambda kind: replace(some, share=0.0), run.processes)

    def load(self, parts: list[bytes]) -> torch.Tensor:
        """A medium's bytes -> the medium, in the policy's own shape."""
        self.shape = self.shape or self._shape()
        found: torch.Tensor = self.run.views[self.kind].load(parts, self.shape)
        return found

    def embed(self, medium: torch.Tensor) -> torch.Tensor:
        """A medium -> its latents, float32 on the CPU."""
        run = self.run
        with torch.no_grad():
            x0: torch.Tensor = run.policy.embed({self.kind: medium[None].to(run.engine.device)})
            if self.error is None:
                again = run.policy.decode(x0)[self.kind][0].float().cpu()
                self.error = (again - medium).square().mean().sqrt().item()
                run.progress.say(f"data: the first medium came back from its latents with a root mean square error of {self.error:.3g}")
        return x0[0].float().cpu()

    def placed(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(self.run.engine.device)

    def told(self) -> None:
        """Say what was found in the data, once: after the first pass, or at the end of a run that does not get so far."""
        if self.said:
            return
        self.said = True
        for line in [*self.stream.tally.lines(), *self.batches.tally.lines()[1:]]:
            self.run.progress.say(f"data: {line}")

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches.state_dict(), "said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.load_state_dict(state["batches"])
        self.said = state["said"]

    def _shape(self) -> tuple[int, ...]:
        """Of one of the policy's media: noise, decoded, has it."""
        run = self.run
        encoded = run.conditions.encode(run.heldout_items[:1])
        level = run.policy.schedule.levels(run.recipe.rollout.steps)[0]
        with torch.no_grad():
            noise = run.policy.noise(Draw([0], run.engine.device), level, encoded)
            return tuple(run.policy.decode(noise)[self.kind].shape[1:])


def planned(optimizer: Optimizer, judged: Pairs | Labelled, updates: int, micro: int, key: int) -> list[list[Batch]]:
    """What the optimizer is given of judged media, for each of ``updates`` updates."""
    parts = torch.arange(len(judged)).chunk(updates)
    if isinstance(judged, Pairs):
        rows = [part.to(judged.winner.device) for part in parts]
        return [list(pair_batches(judged, part, optimizer.draws, micro, key)) for part in rows]
    rows = [part.to(judged.x0.device) for part in parts]
    return [list(label_batches(judged, part, optimizer.draws, micro, key)) for part in rows]
