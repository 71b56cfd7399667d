"""The noise levels that a pipeline itself would use, read off its scheduler.

Pipelines shift, truncate and respace their time steps in ways of their own (by resolution, strength, distillation). So they are asked: the
loop runs with its networks answered for, and the times that reach the scheduler, with the scheduler's own table, are the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tropism.diffusion.schedules import Flow, boundary_weights
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies.record import Recording, StepRecord
from tropism.types import Level

FLOW = {"flow_prediction", "flow"}


@dataclass(frozen=True)
class Family:
    """What a scheduler's numbers mean. kind: ``diffusion`` (variance preserving once scaled), ``flow`` or ``edm`` (arXiv 2206.00364)."""

    kind: str
    parametrization: str
    data: float = 1.0  # EDM's deviation of the data: states are in its units
    inverted: bool = False  # times run from 0 at noise to 1 at the sample, and the prediction points the other way (Mochi)

    @property
    def sign(self) -> float:
        """What a prediction given to the scheduler has to be multiplied by."""
        return -1.0 if self.inverted else 1.0

    def level(self, t: torch.Tensor, sigma: torch.Tensor) -> Level:
        """Levels at the scheduler's own noise levels: sigma of x0 + sigma eps, for a flow of (1 - sigma) x0 + sigma eps."""
        if self.inverted:
            sigma = 1 - sigma
        if self.kind == "flow":
            return Level(t, 1 - sigma, sigma)
        ratio = sigma / self.data
        alpha = 1 / (1 + ratio.square()).sqrt()
        return Level(t, alpha, torch.where(ratio.isinf(), torch.ones_like(ratio), ratio * alpha))


def family(scheduler: Any) -> Family:
    """The family of a diffusers scheduler. Raises CaptureRefused for one that is of none."""
    name, config = type(scheduler).__name__, scheduler.config
    predicts = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or predicts in FLOW:
        return Family("flow", "flow", inverted=bool(config.get("invert_sigmas")))
    if name.startswith(("EDM", "CosineDPM")):
        # What EDM calls epsilon is minus the velocity of the scaled process.
        return Family("edm", "v_prediction" if predicts == "v_prediction" else "edm", float(config.get("sigma_data", 1.0)))
    if hasattr(scheduler, "alphas_cumprod"):
        if predicts not in ("epsilon", "sample", "v_prediction"):
            raise CaptureRefused(f"{name} predicts '{predicts}'; known are epsilon, sample, v_prediction and flow")
        return Family("diffusion", predicts)
    raise CaptureRefused(f"the noise levels of {name} are not known; known are schedulers with alphas_cumprod, flow matching and EDM")


def levels(family: Family, seen: Recording) -> Level:
    """The levels [S+1] of a watched run, most noise first, its end last."""
    scheduler = seen.scheduler
    # Second-order schedulers call the network twice at one level or nearly so; the first call is the one at the level.
    used = [record for index, record in enumerate(seen.steps) if index == 0 or record.index > seen.steps[index - 1].index]
    t = torch.stack([record.t.reshape(()).float().cpu() for record in used])
    sigma = torch.cat([torch.stack([_sigma(scheduler, record) for record in used]), _end(scheduler)[None]])
    return family.level(torch.cat([t, torch.zeros(1)]), sigma.float())


def _sigma(scheduler: Any, record: StepRecord) -> torch.Tensor:
    table = getattr(scheduler, "sigmas", None)
    if isinstance(table, torch.Tensor) and len(table) >= len(scheduler.timesteps):
        return table[record.index].double().cpu().reshape(())
    bar: torch.Tensor = scheduler.alphas_cumprod.double().cpu()[record.t.long().cpu()]
    return ((1 - bar) / bar).sqrt().reshape(())


def _end(scheduler: Any) -> torch.Tensor:
    table = getattr(scheduler, "sigmas", None)
    if isinstance(table, torch.Tensor) and len(table) > len(scheduler.timesteps):
        return table[-1].double().cpu().reshape(())
    final = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).double().cpu().reshape(())
    return ((1 - final) / final).sqrt()


@dataclass(frozen=True)
class PipelineSchedule:
    """A pipeline's schedule: its own levels by asking it, training levels from its table.

    ask: levels [steps+1] of a watched run. bar: [T] cumulative products, None for flow and EDM. boundary: (sigma_data, time scale) of a
    consistency model's boundary condition.
    """

    family: Family
    ask: Callable[[int], Level]
    bar: torch.Tensor | None = None
    boundary: tuple[float, float] | None = None

    @property
    def parametrization(self) -> str:
        return self.family.parametrization

    def levels(self, steps: int) -> Level:
        """Raises PolicyError where the pipeline cannot take that many steps."""
        if steps < 1:
            raise PolicyError(f"{steps} sampler steps; expected at least 1")
        return self.ask(steps)

    def consistency_levels(self, steps: int) -> Level:
        """The pipeline's own levels, but ending clean."""
        found = self.levels(steps)
        end = torch.tensor([1.0, 0.0])
        return Level(found.t, torch.cat([found.alpha[:-1], end[:1]]), torch.cat([found.sigma[:-1], end[1:]]))

    def draw(self, u: torch.Tensor) -> Level:
        """Every integer time of the table is equally likely; a flow's sigma is uniform."""
        if self.bar is not None:
            t = (u * len(self.bar)).long()
            bar = self.bar.to(u.device)[t]
            return Level(t.float(), bar.sqrt(), (1 - bar).sqrt())
        if self.family.kind == "flow":
            return Flow().draw(u)
        raise PolicyError("an EDM schedule has no table of training times; methods that draw them cannot train this pipeline yet")

    def boundary_weights(self, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        return boundary_weights(level, self.boundary)


def schedule(scheduler: Any, ask: Callable[[int], Level]) -> PipelineSchedule:
    """The schedule of a pipeline's scheduler."""
    found, config = family(scheduler), scheduler.config
    bar = scheduler.alphas_cumprod.float().cpu() if found.kind == "diffusion" else None
    consistency = "original_inference_steps" in config
    return PipelineSchedule(found, ask, bar, (0.5, config.get("timestep_scaling", 10.0)) if consistency else None)


def gains(family: Family, seen: Recording, records: Sequence[StepRecord]) -> list[float]:
    """The factor by which a scheduler of scaled inputs shrinks the state before each record's call."""
    sigma = [float(_sigma(seen.scheduler, record)) for record in records]
    return [1 / (s * s + family.data**2) ** 0.5 for s in sigma]
