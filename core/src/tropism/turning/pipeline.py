"""A diffusers pipeline, steered in three lines.

pipe = DiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5").to("cuda")
found = tropism.steer(pipe, "a red apple", my_reward, particles=4)
picture = found.samples[0]  # [3, H, W] in [0, 1]
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tropism import api, assemble
from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.samplers import DDIM, Consistency, Sampler
from tropism.errors import PluginError, SteeringError
from tropism.plugins import Catalog
from tropism.policies.cache import Conditions
from tropism.policies.pipeline import capture
from tropism.policy import Policy
from tropism.recipe import Part
from tropism.rewards.base import Reward
from tropism.rewards.combine import Combined
from tropism.rewards.combine import Part as Weighted
from tropism.steering.base import Method
from tropism.steering.base import steer as run
from tropism.steering.steered import Steered
from tropism.turning.particles import condition
from tropism.types import Item

Named = str | Mapping[str, Any]
DEFAULT = "fk"


def steer(
    source: Any,
    prompt: str | Item | Sequence[str | Item],
    reward: str | Reward,
    particles: int | None = None,
    method: Named | Method = DEFAULT,
    *,
    sampler: Named | Sampler | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch: int = 16,
    call: Mapping[str, Any] | None = None,
) -> Steered:
    """Samples of a diffusers pipeline (or a policy), steered toward a reward while they are made.

    prompt: one or several; or items, such as ``{"prompt": ..., "image": ...}``. reward: a function whose arguments say what it wants
    (``image`` [B, 3, H, W] in [0, 1], ``prompt``, ...) and that gives B numbers, or a registered name. particles: of each prompt, the
    method's own number by default. method: a name, ``{"use": "fk", "lambda": 10.0}``, or a :class:`~tropism.steering.base.Method`.
    sampler: by default one with noise that fits the model, see :func:`fitting`. steps: by default the pipeline's own. batch: rows at once
    on the device. call: arguments of the pipeline's own call, such as ``{"guidance_scale": 7.5, "height": 512}``.

    Returns ``samples`` (what was chosen), and the whole population: ``media``, ``reward`` [P, K], ``weights`` [P, K], ``log_z`` [P],
    ``points`` (what happened on the way). Raises SteeringError for a method that cannot work with the sampler or the reward, and
    CaptureRefused for a pipeline that cannot be followed.
    """
    catalog = api.loaded()[1]
    policy: Policy = source if isinstance(getattr(source, "emits", None), frozenset) else capture(source, **dict(call or {}))
    if call is not None and policy is source:
        raise SteeringError("call: these are arguments of a pipeline's call, but a policy was given; capture the pipeline with them")
    chosen = method if isinstance(method, Method) else _method(method, particles, catalog)
    if particles is not None and chosen.particles != particles:
        raise SteeringError(f"particles: {particles}, but the method that was given has {chosen.particles}; leave one of the two out")
    steps = steps or _own_steps(policy)
    kernel: Sampler = _made("samplers", sampler, catalog) if isinstance(sampler, str | Mapping) else sampler or fitting(policy, steps)
    given = [prompt] if isinstance(prompt, str | Mapping) else list(prompt)
    items: list[Item] = [{"prompt": one} if isinstance(one, str) else dict(one) for one in given]
    if not items:
        raise SteeringError("there is no prompt to steer")
    name, asked = (
        (reward, _made("rewards", reward, catalog)) if isinstance(reward, str) else (getattr(reward, "__name__", "reward"), reward)
    )
    if callable(place := getattr(asked, "to", None)):
        place(next(policy.trainable().parameters()).device)
    cond = condition(items, seed, chosen.particles)
    cond.encoded = Conditions(policy).encode(cond.items)
    return run(policy, cond, kernel, steps, Combined([Weighted(name, asked)]), chosen, chunk=batch)


def fitting(policy: Policy, steps: int) -> Sampler:
    """A sampler with noise for a policy: ``consistency`` for a consistency model, ``flow-sde`` for a flow, else ``ddim`` with eta 1."""
    levels = policy.schedule.levels(steps)
    if policy.schedule.boundary_weights(levels[:1])[0].any():
        return Consistency()
    ddim = DDIM(eta=1.0)
    if policy.schedule.parametrization == "flow" or not (ddim.deviation(levels[:-1], levels[1:]) > 0).any():
        return FlowSde()
    return ddim


def _method(given: Named, particles: int | None, catalog: Catalog) -> Method:
    more = {} if particles is None else {"particles": particles}
    made = _made("steering", {**({"use": given} if isinstance(given, str) else given), **more}, catalog)
    if not isinstance(made, Method):
        raise SteeringError(f"method {given!r} is a {type(made).__name__}, which is no subclass of tropism.steering.base.Method")
    return made


def _made(kind: str, given: Named, catalog: Catalog) -> Any:
    part = Part.model_validate({"use": given} if isinstance(given, str) else dict(given))
    try:
        return assemble.make(catalog, kind, part)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{kind} '{part.use}': {error}") from error


def _own_steps(policy: Policy) -> int:
    call = getattr(policy, "call", None)
    found = getattr(call, "steps", None)
    if found is None and call is not None:
        parameter = inspect.signature(call.pipe.__call__).parameters.get("num_inference_steps")
        found = parameter.default if parameter is not None else None
    if not isinstance(found, int):
        raise SteeringError(f"{type(policy).__name__} does not say how many steps it takes; give steps=")
    return found
