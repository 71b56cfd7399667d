"""From a recipe to its parts, and every reason why the parts cannot work together.

What fits with what is computed from what the parts declare, so an impossible recipe is refused before any weight is loaded.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import torch

from tropism import judged
from tropism.credit import Credit
from tropism.data.layout import Layout
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.samplers import Consistency, Sampler
from tropism.diffusion.schedules import Diffusion
from tropism.entry import Entry
from tropism.errors import PluginError, RecipeError, TropismError, nearest
from tropism.judges import Judge
from tropism.optimizers.base import Optimizer
from tropism.plugins import Catalog
from tropism.recipe import Lines, Mistakes, Part, Recipe, locate, mistaken
from tropism.rewards.base import needs
from tropism.rewards.combine import Combined
from tropism.rewards.combine import Part as Weighted
from tropism.steering.base import Method
from tropism.turning import steerable
from tropism.types import Item

Path = tuple[str | int, ...]
ALWAYS = {"x0", "seed", "t"}
PLACES: dict[Path, str] = {  # where a recipe names parts, and the kind of entry that each names
    ("policy",): "policies",
    ("data",): "datasets",
    ("offline",): "datasets",
    ("rollout", "sampler"): "samplers",
    ("rewards",): "rewards",
    ("credit",): "credits",
    ("optimizer",): "optimizers",
    ("steering",): "steering",
    ("evaluate", "rewards"): "rewards",
    ("evaluate", "evaluators"): "evaluators",
    ("evaluate", "sampler"): "samplers",
    ("track",): "trackers",
}


@dataclass
class Parts:
    """Everything of a run that needs no weights."""

    sampler: Sampler
    evaluation_sampler: Sampler
    credit: Credit
    optimizer: Optimizer
    train: list[Item]
    heldout: list[Item]
    steering: Method | None = None
    reader: Layout | None = None  # of the judged media of an offline run


def named_parts(recipe: Recipe) -> Iterator[tuple[Path, str, Part]]:
    """Every part of a recipe with its place and the kind of entry that it names."""
    for place, kind in PLACES.items():
        for path, part in _each(place, functools.reduce(getattr, map(str, place), recipe)):
            if part is not None:
                yield path, kind, part


def _each(place: Path, found: Any) -> list[tuple[Path, Any]]:
    """What stands at a place: one thing, or the items of a list with their own paths."""
    return [((*place, index), item) for index, item in enumerate(found)] if isinstance(found, list | tuple) else [(place, found)]


def check(recipe: Recipe, catalog: Catalog, text: str = "", where: str = "recipe") -> Parts:
    """Build all that needs no weights. Raises RecipeError with every problem, each with its line in ``text``."""
    problems: list[tuple[Path, str]] = []
    targets: dict[Path, Any] = {}
    for path, kind, part in named_parts(recipe):
        try:
            targets[path] = catalog.load(kind, part.use)
            problems.extend((path, complaint) for complaint in _arguments(targets[path], kind, part))
        except PluginError as error:
            problems.append((path, str(error)))
    parts = None
    if not problems:
        parts = _build(recipe, targets, problems, catalog)
    if problems or parts is None:
        raise RecipeError(mistaken(where, _placed(problems, locate(text) if text else {})))
    return parts


def also(found: Mistakes, catalog: Catalog) -> Mistakes:
    """The mistakes of a recipe that cannot be read, with those of its parts that can be looked at, so that all are told at once."""
    more = [(path, complaint) for path, kind, raw in _raw_parts(found.data) for complaint in _complaints(kind, raw, catalog)]
    return Mistakes(found.where, [*found.found, *_placed(more, found.lines)], found.data, found.lines)


def _placed(problems: list[tuple[Path, str]], lines: Lines) -> list[tuple[int, str]]:
    """Complaints with their lines, under the dotted names of their places."""
    return [(_line(path, lines), f"{'.'.join(map(str, path))}: {complaint}") for path, complaint in problems]


def _raw_parts(data: dict[str, Any]) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Every part of a recipe's raw content that at least names what it is."""
    for place, kind in PLACES.items():
        inner: Any = data
        for key in place:
            inner = inner.get(key) if isinstance(inner, dict) else None
        for path, raw in _each(place, inner):
            if isinstance(raw, dict) and isinstance(raw.get("use"), str):
                yield path, kind, raw


def _complaints(kind: str, raw: dict[str, Any], catalog: Catalog) -> list[str]:
    reserved = {"rewards": {"weight", "normalise"}, "datasets": {"ties", "window", "axis"}}.get(kind, set())
    part = Part.model_validate({key: value for key, value in raw.items() if key not in reserved})
    try:
        return list(_arguments(catalog.load(kind, part.use), kind, part))
    except PluginError as error:
        return [str(error)]


def make(catalog: Catalog, kind: str, part: Part) -> Any:
    """Build one part. A reward that is a plain function is not called but taken with the part's arguments filled in."""
    target = catalog.load(kind, part.use)
    if _is_factory(target, kind):
        return target(**part.arguments)
    return functools.partial(target, **part.arguments) if part.arguments else target


def rewards(recipe: Recipe, catalog: Catalog) -> tuple[Combined, dict[str, Any]]:
    """The trained sum, and the rewards that are only watched, by name."""
    trained = [Weighted(part.use, make(catalog, "rewards", part), part.weight, part.normalise) for part in recipe.rewards]
    watched = {part.use: make(catalog, "rewards", part) for part in recipe.evaluate.rewards}
    return Combined(trained), watched


def _is_factory(target: Any, kind: str) -> bool:
    return isinstance(target, type) or kind != "rewards"


def _arguments(target: Any, kind: str, part: Part) -> Iterator[str]:
    """What is wrong with a part's arguments, by the target's own signature."""
    if not callable(target):
        yield f"'{part.use}' is a {type(target).__name__}, which cannot be built"
        return
    known = inspect.signature(target).parameters
    for name in part.arguments:
        if why := getattr(target, "without", {}).get(name):
            yield f"'{part.use}' has no {name}: {why}"
        elif name not in known:
            names = ["lambda" if other == "lam" else other for other in known]
            yield f"'{part.use}' takes no argument '{name}'{nearest(name, names)}; it takes {', '.join(names) or 'none'}"
    if _is_factory(target, kind):
        for name, parameter in known.items():
            if parameter.default is parameter.empty and name not in part.arguments and parameter.kind is not parameter.VAR_KEYWORD:
                yield f"'{part.use}' needs the argument '{name}'"


def _build(recipe: Recipe, targets: dict[Path, Any], problems: list[tuple[Path, str]], catalog: Catalog) -> Parts | None:
    def built(path: Path, part: Part) -> Any:
        try:
            return targets[path](**part.arguments)
        except (TropismError, ValueError, TypeError) as error:
            problems.append((path, str(error)))

    sampler = built(("rollout", "sampler"), recipe.rollout.sampler)
    credit = built(("credit",), recipe.credit)
    optimizer = built(("optimizer",), recipe.optimizer)
    data = built(("data",), recipe.data)
    layout = judged.reader(built(("offline",), recipe.offline), optimizer) if recipe.offline else None
    evaluation = built(("evaluate", "sampler"), recipe.evaluate.sampler) if recipe.evaluate.sampler else None
    steering = built(("steering",), recipe.steering) if recipe.steering else None
    problems.extend(judged.misplaced(recipe, data, layout))
    if problems:
        return None
    problems.extend(_misfits(recipe, targets, sampler, credit, optimizer, data))
    problems.extend(_unlearnable(recipe, targets, sampler, credit, optimizer))
    problems.extend(_unscalable(recipe, targets["policy",], optimizer))
    followed = [targets["rewards", index] for index in range(len(recipe.rewards))]
    problems.extend(steerable.misfits(recipe, followed, sampler, noisy_steps(sampler, recipe.rollout.steps), steering, optimizer))
    if layout is not None and isinstance(optimizer, Optimizer):
        problems.extend(judged.misfits(recipe, _made(targets["policy",]), _emits(targets["policy",]), optimizer, layout, catalog))
    mostly_ode = recipe.rollout.window is not None and recipe.rollout.window.elsewhere == "ode"
    return Parts(sampler, evaluation or (Ode() if mostly_ode else sampler), credit, optimizer, data.train, data.heldout, steering, layout)


def _misfits(recipe: Recipe, targets: dict[Path, Any], sampler: Any, credit: Any, optimizer: Any, data: Any) -> Iterator[tuple[Path, str]]:
    if recipe.rollout.group < credit.min_group:
        least, group = credit.min_group, recipe.rollout.group
        yield (
            ("rollout", "group"),
            f"credit '{recipe.credit.use}' compares at least {least} samples of a prompt, but rollout.group is {group}",
        )
    for index, trained in enumerate(recipe.rewards):
        if trained.normalise == "group" and recipe.rollout.group < 2:
            yield ("rewards", index), f"normalise: group compares the samples of a prompt, but rollout.group is {recipe.rollout.group}"
    emits = _emits(targets["policy",])
    given = (emits or set()) | ALWAYS | set(data.train[0])
    for path, kind, part in named_parts(recipe):
        if kind == "rewards" and emits is not None:
            call = targets[path].__call__ if isinstance(targets[path], type) else functools.partial(targets[path], **part.arguments)
            if absent := [name for name in needs(call) if name not in given and name != "self"]:
                found = ", ".join(sorted(given))
                yield path, f"'{part.use}' needs {', '.join(absent)}, but '{recipe.policy.use}' on this data gives {found}"
    if recipe.guard is not None:
        watched = {part.use for part in (*recipe.rewards, *recipe.evaluate.rewards)}
        if recipe.guard.metric not in watched:
            yield ("guard",), f"guard.metric '{recipe.guard.metric}' is not evaluated{nearest(recipe.guard.metric, watched)}"


def _unlearnable(recipe: Recipe, targets: dict[Path, Any], sampler: Any, credit: Any, optimizer: Any) -> Iterator[tuple[Path, str]]:
    """Why an optimizer cannot learn from such rollouts and rewards."""
    name, kind, steps, window = recipe.optimizer.use, recipe.rollout.sampler.use, recipe.rollout.steps, recipe.rollout.window
    if not isinstance(optimizer, Optimizer):
        yield ("optimizer",), f"'{name}' is a {type(optimizer).__name__}, which is no subclass of tropism.optimizers.base.Optimizer"
        return
    if "steps" not in optimizer.needs and optimizer.needs & {"samples", "pairs", "labels"} and isinstance(sampler, Consistency):
        yield (
            ("optimizer",),
            f"'{name}' trains a denoiser on {'its own' if recipe.offline is None else 'finished'} samples, which makes a consistency model "
            "an ordinary one: its few-step samples blur; use policy-gradient, rlcm-direct or direct",
        )
    if recipe.offline is not None:
        return
    try:
        optimizer.kept(steps)
    except ValueError as error:
        yield ("optimizer",), str(error)
    if "steps" in optimizer.needs and not noisy_steps(sampler, steps):
        yield (
            ("rollout", "sampler"),
            f"'{name}' learns from noisy steps, but '{kind}' with these arguments and {steps} steps has none; "
            "give it noise (eta above 0), a stochastic sampler, or more steps",
        )
    if window is not None and (problem := window.problem(steps)):
        yield ("rollout", "window"), problem
    if window is not None and "branches" in optimizer.needs:
        yield ("rollout", "window"), f"'{name}' branches at all noisy steps but those that it skips; leave the window out"
    elif window is not None and ("steps" not in optimizer.needs or "endings" in optimizer.needs):
        yield ("rollout", "window"), f"'{name}' learns from whole samples; only optimizers that learn from steps alone have a window"
    if window is not None and window.elsewhere == "ode" and isinstance(sampler, Consistency):
        yield ("rollout", "window"), f"the ODE does not go where '{kind}' goes; write elsewhere: noise, and only the window is trained"
    yield from _unpaired(recipe, optimizer, credit)
    if "endings" in optimizer.needs:
        for index, part in enumerate(recipe.rewards):
            if not getattr(targets["rewards", index], "differentiable", False):
                yield ("rewards", index), f"'{name}' follows the reward's gradient, but '{part.use}' does not declare differentiable = True"
            if part.normalise != "none":
                yield ("rewards", index), f"'{name}' follows the reward itself; write normalise: none and give it a weight"


def _unpaired(recipe: Recipe, optimizer: Optimizer, credit: Any) -> Iterator[tuple[Path, str]]:
    """Why an optimizer that learns from preferences finds none, or not those it needs, in such a rollout."""
    name, rollout = recipe.optimizer.use, recipe.rollout
    if "pairs" in optimizer.needs and not isinstance(credit, Judge):
        yield ("credit",), f"'{name}' learns from pairs, but '{recipe.credit.use}' makes none; use best-worst, all-pairs or pareto"
    if "segments" in optimizer.needs:
        yield ("optimizer",), f"'{name}' learns from labels of segments, but judges of a rollout compare whole samples; use dpo"
    if "shared start" in optimizer.needs and rollout.start != "group":
        yield ("rollout",), f"'{name}' compares samples that begin with the same noise; write start: group"
    if "branches" in optimizer.needs and rollout.batch % rollout.group:
        yield (
            ("rollout", "batch"),
            f"'{name}' takes the steps of a group together; {rollout.batch} is not a multiple of rollout.group, {rollout.group}",
        )
    if rollout.start == "group" and rollout.group < 2:
        yield ("rollout", "start"), f"start: group is for siblings, but rollout.group is {rollout.group}; write group: 2 or more"


def _unscalable(recipe: Recipe, policy: Any, optimizer: Any) -> Iterator[tuple[Path, str]]:
    """Why a policy cannot have the options that save memory or time."""
    train, rollout, made = recipe.train, recipe.rollout, _made(policy)
    if rollout.decode is not None and rollout.decode > rollout.batch:
        yield ("rollout", "decode"), f"{rollout.decode} at once, but a batch has only {rollout.batch}; leave it out"
    if train.offload and isinstance(made, type) and not hasattr(made, "offload"):
        yield ("train", "offload"), f"'{recipe.policy.use}' has no parts beside its network that could wait on the CPU; leave it out"
    if train.shard and train.compile:
        yield ("train", "shard"), "a sharded network is not compiled: its weights come and go inside the graph; leave one of the two out"
    if train.shard and getattr(optimizer, "recompute", False):
        yield ("train", "shard"), f"'{recipe.optimizer.use}' with recompute runs forwards in the backward pass; use train.checkpointing"


def _made(policy: Any) -> Any:
    """The class of what a policy entry makes; None where a factory does not say."""
    return policy if isinstance(policy, type) else typing.get_type_hints(policy).get("return")


def _emits(policy: Any) -> set[str] | None:
    """The media that a policy class gives, or those of the class that a factory says it returns; None where it does not say."""
    made = _made(policy)
    return set(made.emits) if hasattr(made, "emits") else None


def noisy_steps(sampler: Sampler, steps: int) -> int:
    """How many of ``steps`` steps have noise that reaches the sample, on a schedule like Stable Diffusion's."""
    bar = torch.cumprod(1 - torch.linspace(0.03, 0.11, 1000) ** 2, 0)
    try:
        levels = sampler.levels(Diffusion(bar=bar), steps)
    except TropismError:
        return 1  # the step count is refused later, by the schedule it does not fit
    return int((sampler.deviation(levels[:-1], levels[1:]) > 0).sum())


def describe(entry: Entry) -> str:
    """An entry's arguments with their defaults, for ``tropism show``."""
    target, lines = entry.load(), []
    made = {field.name: field.default_factory for field in (fields(target) if is_dataclass(target) else ())}
    for name, parameter in inspect.signature(target).parameters.items():
        kind = parameter.annotation if isinstance(parameter.annotation, str) else getattr(parameter.annotation, "__name__", "")
        factory = made.get(name, MISSING)
        default = parameter.default if factory is MISSING else factory()
        spoken = "lambda" if name == "lam" else name
        lines.append(spoken + (f": {kind}" if kind else "") + ("" if default is parameter.empty else f" = {default!r}"))
    return "\n".join(lines)


def _line(path: Path, lines: dict[Path, int]) -> int:
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)
