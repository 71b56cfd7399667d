"""The noise levels that a pipeline itself would use, read off its scheduler.

Pipelines shift, truncate and respace their time steps in ways of their own (by resolution, strength, distillation). So they are asked: the
loop runs with its networks answered for, and the times that reach the scheduler, with the scheduler's own table, are the levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tropism.diffusion.schedules import Flow, boundary_weights
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies.record import Recording, StepRecord
from tropism.types import Level

FLOW = {"flow_prediction", "flow"}


@dataclass(frozen=True)
class Family:
    """What a scheduler's numbers mean.

    kind: ``diffusion`` (variance preserving once scaled), ``trig`` (times are angles: x = cos x0 + sin eps), ``flow`` or ``edm`` (arXiv
    2206.00364). factor: what a prediction given to the scheduler has to be multiplied by.
    """

    kind: str
    parametrization: str
    data: float = 1.0  # deviation of the data in the scheduler's units
    inverted: bool = False  # times run from 0 at noise to 1 at the sample, and the prediction points the other way (Mochi)
    factor: float = 1.0
    flowing: bool = False  # the network is told a flow's state, its time being sigma, whatever the scheduler keeps (Sana-Sprint, Cosmos 2)

    def level(self, t: torch.Tensor, sigma: torch.Tensor) -> Level:
        """Levels at the scheduler's own noise levels: sigma of x0 + sigma eps, for a flow of (1 - sigma) x0 + sigma eps."""
        if self.inverted:
            sigma = 1 - sigma
        if self.kind == "flow":
            return Level(t, 1 - sigma, sigma)
        ratio = sigma / self.data
        if self.flowing:
            flow = torch.where(ratio.isinf(), torch.ones_like(ratio), ratio / (1 + ratio))
            return Level(flow, 1 - flow.clamp(max=1), flow.clamp(max=1))  # the network's own time may be a hair beyond 1
        alpha = torch.where(ratio < 0, -1.0, 1.0) / (1 + ratio.square()).sqrt()  # an angle may be a hair beyond a quarter turn
        return Level(t, alpha, torch.where(ratio.isinf(), torch.ones_like(ratio), ratio * alpha))


def family(scheduler: Any) -> Family:
    """The family of a diffusers scheduler that has its steps set. Raises CaptureRefused for one that is of none."""
    name, config = type(scheduler).__name__, scheduler.config
    predicts, data = config.get("prediction_type", "epsilon"), float(config.get("sigma_data", 1.0))
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or predicts in FLOW:
        if float(scheduler.sigmas.max()) > 1 + 1e-3:  # used for its Euler steps only, on x0 + sigma eps
            return Family("diffusion", "epsilon", data)
        inverted = bool(config.get("invert_sigmas"))
        return Family("flow", "flow", inverted=inverted, factor=-1.0 if inverted else 1.0)
    if name.startswith(("EDM", "CosineDPM")):
        # What EDM calls epsilon is minus the velocity of the scaled process.
        return Family("edm", "v_prediction" if predicts == "v_prediction" else "edm", data)
    if _angles(scheduler) is not None:
        return Family("trig", "v_prediction", data, factor=1 / data)
    if hasattr(scheduler, "alphas_cumprod"):
        if predicts not in ("epsilon", "sample", "v_prediction"):
            raise CaptureRefused(f"{name} predicts '{predicts}'; known are epsilon, sample, v_prediction and flow")
        return Family("diffusion", predicts)
    raise CaptureRefused(
        f"the noise levels of {name} are not known; known are schedulers with alphas_cumprod, angles, flow matching and EDM"
    )


def turned(family: Family, scheduler: Any, record: StepRecord) -> Family:
    """The family with its sign: some pipelines hand their flow's scheduler the prediction turned round (LTX's with conditions)."""
    if family.kind != "flow" or record.x.shape != record.prediction.shape:
        return family
    onward = float(scheduler.sigmas[record.index + 1] - scheduler.sigmas[record.index])
    moved = float(((record.after.double() - record.x.double()) * record.prediction.double()).sum())
    return replace(family, factor=-family.factor) if moved * onward < 0 else family


def levels(family: Family, seen: Recording) -> Level:
    """The levels [S+1] of a watched run, most noise first, its end last."""
    scheduler = seen.scheduler
    # Second-order schedulers call the network twice at one level or nearly so; the first call is the one at the level.
    used = [record for index, record in enumerate(seen.steps) if index == 0 or record.index > seen.steps[index - 1].index]
    t = torch.stack([record.t.reshape(()).float().cpu() for record in used])
    sigma = torch.cat([torch.stack([_sigma(scheduler, record) for record in used]), _end(scheduler)[None]])
    found = family.level(torch.cat([t, torch.zeros(1)]), sigma)
    return Level(found.t.float(), found.alpha.float(), found.sigma.float())


def gains(family: Family, seen: Recording, records: Sequence[StepRecord]) -> list[float]:
    """The factor that makes each record's state, which its scheduler keeps in units of its own, a flow's or of unit deviation."""
    found = []
    for record in records:
        ratio = float(_sigma(seen.scheduler, record)) / family.data
        length = math.copysign((1 + ratio * ratio) ** 0.5, ratio)
        own = family.data / length if family.kind == "trig" else family.data  # the scale of x0 in the scheduler's state
        found.append(1 / (own * (1 + ratio)) if family.flowing else 1 / (own * length))
    return found


def _angles(scheduler: Any) -> torch.Tensor | None:
    """The angles of a scheduler whose times are angles: TrigFlow's (arXiv 2410.11081), or in quarters of a turn (IPNDM)."""
    if scheduler.config.get("prediction_type") == "trigflow":
        return torch.as_tensor(scheduler.timesteps).double().cpu()
    if hasattr(scheduler, "ets") and hasattr(scheduler, "betas") and not hasattr(scheduler, "alphas_cumprod"):
        return torch.as_tensor(scheduler.timesteps).double().cpu() * torch.pi / 2
    return None


def _sigma(scheduler: Any, record: StepRecord) -> torch.Tensor:
    """[] float64, the deviation of the noise beside x0 as the scheduler keeps it."""
    table, angles = getattr(scheduler, "sigmas", None), _angles(scheduler)
    if angles is not None:
        return float(scheduler.config.get("sigma_data", 1.0)) * angles[record.index].tan()
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
            level = Flow().draw(u)
            return Level(1000 - level.t, level.alpha, level.sigma) if self.family.inverted else level
        if self.family.flowing:
            return Flow(scale=1.0).draw(u)
        if self.family.kind == "trig":
            angle = u * torch.pi / 2
            return Level(u, angle.cos(), angle.sin())
        raise PolicyError("this schedule has no table of training times; methods that draw them cannot train this pipeline yet")

    def boundary_weights(self, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        return boundary_weights(level, self.boundary)


def schedule(family: Family, scheduler: Any, ask: Callable[[int], Level]) -> PipelineSchedule:
    """The schedule of a pipeline whose scheduler is of a family."""
    config = scheduler.config
    bar = scheduler.alphas_cumprod.float().cpu() if hasattr(scheduler, "alphas_cumprod") and family.kind == "diffusion" else None
    consistency = "original_inference_steps" in config
    return PipelineSchedule(family, ask, bar, (0.5, config.get("timestep_scaling", 10.0)) if consistency else None)
