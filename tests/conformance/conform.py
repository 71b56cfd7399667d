"""What the conformance suite measures of one captured family, also printed into the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.conformance.family import Family
from tropism.diffusion.rollout import collect, replay
from tropism.diffusion.samplers import DDIM, Consistency, Sampler, step
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.pipeline import PipelinePolicy, capture
from tropism.policies.record import Watch
from tropism.testing import condition
from tropism.types import Item, Level, Rollout

STEPS = 4
LAYERS = torch.nn.Linear | torch.nn.Conv2d

# Families that are refused, with the words of the reason. Whoever teaches the capture one of them takes its line away.
REFUSED = {
    "cosmos": "a prediction that none of its modules computed",
    "ace-step": "do not combine into the prediction by a known rule",
}


@dataclass(frozen=True)
class Measured:
    """parity: largest relative distance of a state from the stock pipeline's, None for stochastic samplers. ratio: |log ratio|."""

    pipeline: str
    denoiser: str
    guidance: str
    parametrization: str
    replay: float
    parity: float | None
    ratio: float


def captured(family: Family) -> tuple[PipelinePolicy, list[Item]]:
    """The family's policy, with the scheduler that its stock output is compared under, and its two items."""
    pipe = family.build()
    if family.parity is not None:
        pipe.scheduler = family.parity()
    pipe.set_progress_bar_config(disable=True)
    items = [{name: value[0] if name == "class_labels" else value for name, value in item.items()} for item in family.items]
    examples = {name: value for name, value in items[0].items() if name not in ("prompt", "class_labels")}
    return capture(pipe, **{**examples, **family.call}), items


def parity(policy: PipelinePolicy, family: Family, item: Item) -> float | None:
    """Walk along the stock pipeline's own states with our sampler: the largest relative distance between the two."""
    if family.sampler == "consistency":
        return None  # its steps draw noise of their own
    study = policy.study
    with torch.no_grad():
        watch = Watch()
        with watch(policy.pipe) as seen:
            policy.call.run([item], STEPS, policy.call.latent)
        stock = study.states(seen, seen.denoising())
        levels, cond = policy.schedule.levels(STEPS), policy.encode([item])
        if "known" in cond:
            cond["known"]["value"] = drawn(policy, stock, levels)
        x, distances = stock[0].float(), []
        for index, goal in enumerate(stock[1:]):
            x, _ = step(DDIM(0.0), policy, x, levels[index].expand(len(x)), levels[index + 1].expand(len(x)), cond)
            distances.append(float((x - goal).norm() / goal.norm()))
        end = study.arranged(seen.steps[-1].after).float() / study.unit
        last = len(stock) - 1
        x, _ = step(DDIM(0.0), policy, x, levels[last].expand(len(x)), levels[last + 1].expand(len(x)), cond)
        if "known" in cond:  # the pipeline puts it back once more, after what is seen of its scheduler
            end = torch.where(cond["known"]["places"], x, end)
        distances.append(float((x - end).norm() / end.norm()))
    return max(distances)


def drawn(policy: PipelinePolicy, states: list[torch.Tensor], levels: Level) -> torch.Tensor:
    """The known part of a stock run, which draws it from its autoencoder's posterior; ours is that posterior's mode."""
    assert policy.study.kept is not None
    if policy.study.kept.clean:
        return states[0].float()
    (a, s), (b, r) = ((levels.alpha[k], levels.sigma[k]) for k in (1, 2))
    return ((r * states[1] - s * states[2]) / (a * r - b * s)).float()


def sampler(family: Family) -> Sampler:
    """A sampler with noise for the family."""
    return Consistency() if family.sampler == "consistency" else DDIM(1.0)


def rollout(policy: PipelinePolicy, family: Family, items: list[Item]) -> Rollout:
    """Two samples with their trajectory."""
    return collect(policy, condition(policy, items), sampler(family), STEPS)


def ratio(policy: PipelinePolicy, family: Family, made: Rollout) -> float:
    """The largest |log ratio| of the untouched policy against its own rollout."""
    rows, worst = torch.arange(len(made)), 0.0
    with torch.no_grad():
        for index in made.steps.on.nonzero().flatten().tolist():
            again = replay(policy, sampler(family), made, rows, torch.full_like(rows, index))
            worst = max(worst, float((again - made.steps.logp[:, index]).abs().max()))
    return worst


def adapted(policy: PipelinePolicy) -> Trainable:
    """LoRA on the network's attention, or on all of its layers where none is named as diffusers names it."""
    network = policy.trainable()
    ends = {name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, LAYERS)}
    targets = tuple(end for end in ("to_q", "to_k", "to_v", "qkv", "to_qkv") if end in ends) or tuple(
        sorted({name for name, module in network.named_modules() if isinstance(module, LAYERS) and name})[:4]
    )
    network.requires_grad_(False)
    return Trainable(network, Lora(rank=2, alpha=4.0, targets=targets))


def measure(family: Family) -> Measured:
    """Everything that the table in the documentation says of a family."""
    policy, items = captured(family)
    told: dict[str, Any] = policy.describe()
    first = next(value for key, value in told.items() if key.startswith("denoiser"))
    guidance = next(value for key, value in told.items() if key.startswith("guidance"))
    made = rollout(policy, family, items)
    return Measured(
        pipeline=told["pipeline"],
        denoiser=first.split("(")[1].split(",")[0] + (f" x {len(policy.phases)}" if len(policy.phases) > 1 else ""),
        guidance=guidance,
        parametrization=told["parametrization"],
        replay=policy.replay_error,
        parity=parity(policy, family, items[0]),
        ratio=ratio(policy, family, made),
    )
