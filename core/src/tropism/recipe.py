"""Recipes: one YAML file that names every part of a run. Data, not code; every mistake is shown at once.

A part is written ``{use: name, argument: value, ...}``; its arguments are those of the class that the name stands for. Overrides on the
command line are ``dotted.path=value``, with the value read as YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tropism.diffusion.window import Window
from tropism.errors import RecipeError, nearest
from tropism.overrides import change

Place = tuple[str | int, ...]
Lines = dict[Place, int]
KEYWORDS = {"from": "source", "lambda": "lam"}


class Loader(yaml.SafeLoader):
    """Safe YAML in which 3e-4 is a number, as everyone means (YAML 1.1 wants 3.0e-4)."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789"))


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(BaseModel):
    """A named thing with its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What the part is made with; ``from`` and ``lambda`` read well in a recipe but are keywords in Python: ``source``, ``lam``."""
        return {KEYWORDS.get(name, name): value for name, value in (self.model_extra or {}).items()}


class RewardPart(Part):
    """A reward in the sum that is trained on."""

    weight: float = 1.0
    normalise: Literal["none", "batch", "group", "running"] = "none"


class WatchedPart(Part):
    """A reward that is evaluated and not trained on. better: which way is good, so that an alarm knows when it gets worse."""

    better: Literal["higher", "lower"] = "higher"


class OfflinePart(Part):
    """Judged media on disk, which are learned from instead of rollouts: a reader with its arguments.

    ties: left out, or kept (they teach nothing unless their segments were judged). window: rows that are shuffled together, and in memory.
    axis: of x0 [B, ...] along which segments lie (2 for [B, C, F, H, W]), for optimizers that learn from segments.
    """

    ties: Literal["skip", "keep"] = "skip"
    window: int = Field(1024, ge=1, le=1_000_000)
    axis: int | None = Field(None, ge=1, le=8)


class Adapter(Strict):
    """What learns: ``lora`` or ``full``."""

    kind: Literal["lora", "full"] = "lora"
    rank: int = Field(16, ge=1, le=1024)
    alpha: float = Field(32.0, gt=0)
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    ema: float | None = Field(None, gt=0, lt=1)


class RolloutPart(Strict):
    """How samples are made. samples: per iteration; batch: at once on the device; decode: of a batch at once through the decoder (all of
    it if not given); group: siblings per prompt; window: the trained steps; start: whether each ``sample`` begins with noise of its own, or
    all of a ``group`` with the same; steering: whether each group is the particles of the recipe's ``steering``. An offline run takes
    ``samples`` pairs or labelled media an iteration; the rest is for evaluations."""

    sampler: Part
    steps: int = Field(ge=1, le=1000)
    samples: int = Field(64, ge=1, le=1_000_000)
    batch: int = Field(32, ge=1, le=65536)
    decode: int | None = Field(None, ge=1, le=65536)
    group: int = Field(1, ge=1, le=4096)
    window: Window | None = None
    start: Literal["sample", "group"] = "sample"
    steering: bool = False


class Train(Strict):
    """How the policy is changed. updates: optimizer steps per rollout pass; passes: times each rollout is used."""

    iterations: int = Field(ge=0, le=10_000_000)
    lr: float = Field(1e-4, gt=0, lt=10)
    warmup: int = Field(0, ge=0, le=10_000_000, description="iterations over which lr rises in a line to its value")
    decay: float = Field(0.0, ge=0, le=1, description="share of the iterations, at the end, over which lr falls in a line toward zero")
    updates: int = Field(1, ge=1, le=100_000)
    passes: int = Field(1, ge=1, le=1000)
    micro: int | None = Field(None, ge=1, description="sampler steps per forward; the rollout's batch if not given")
    max_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpointing: bool = Field(
        False, description="keep fewer activations and compute them again in the backward pass: less memory, a third slower"
    )
    compile: Literal["inductor", "aot_eager", "eager"] | None = Field(
        None, description="compile the network with this backend of torch.compile; the last two are for finding out where it goes wrong"
    )
    shard: bool = Field(False, description="spread the weights over the processes of --nproc (FSDP2), for networks that no GPU holds")
    offload: bool = Field(False, description="encoders and decoders wait on the CPU while the network samples and learns")
    deterministic: bool = Field(False, description="exact repetition also on CUDA, by slower kernels; on the CPU it is always exact")

    def rate(self, step: int) -> float:
        """The learning rate of iteration ``step``, counted from 0."""
        rise = (step + 1) / self.warmup if self.warmup else 1.0
        fall = (self.iterations - step) / (self.decay * self.iterations) if self.decay else 1.0
        return self.lr * min(rise, fall, 1.0)


class Evaluate(Strict):
    """Before, during and after: samples of held-out prompts with fixed seeds, by the rollout's own sampler and step count
    unless told otherwise (where a window leaves most steps to the ODE: by the ODE)."""

    every: int = Field(10, ge=1)
    prompts: int = Field(24, ge=1, le=100_000)
    per_prompt: int = Field(4, ge=1, le=1024)
    steps: int | None = Field(None, ge=1, le=1000)
    sampler: Part | None = None
    rewards: tuple[WatchedPart, ...] = ()
    evaluators: tuple[Part, ...] = ()
    show: int = Field(16, ge=0, le=1000, description="prompts whose samples the report shows")


class Guard(Strict):
    """Stop when an evaluated reward falls below ``keep`` times the base model's, and go back to the last evaluated weights above it."""

    metric: str
    keep: float = Field(0.9, gt=0)


class Save(Strict):
    """Checkpoints: one every ``every`` iterations, the newest ``keep`` of them kept."""

    every: int = Field(5, ge=1)
    keep: int = Field(2, ge=1)


class Recipe(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=200)
    seed: int = Field(0, ge=0, lt=2**31)
    device: str | None = None
    policy: Part
    data: Part
    adapter: Adapter = Adapter()
    rollout: RolloutPart
    offline: OfflinePart | None = None
    rewards: tuple[RewardPart, ...] = ()
    credit: Part = Part(use="batch")
    optimizer: Part
    train: Train
    evaluate: Evaluate = Evaluate()
    steering: Part | None = None
    guard: Guard | None = None
    save: Save = Save()
    track: tuple[Part, ...] = ()

    @field_validator("rewards")
    @classmethod
    def _once(cls, rewards: tuple[RewardPart, ...]) -> tuple[RewardPart, ...]:
        names = [reward.use for reward in rewards]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"reward named twice: {', '.join(sorted(twice))}")
        return rewards

    @model_validator(mode="after")
    def _divides(self) -> Recipe:
        rollout, train = self.rollout, self.train
        wrong = []
        if not self.rewards and self.offline is None:
            wrong.append("rewards: what a run is to learn from is missing; name one or more, or judged media under offline")
        for small, large, what in (
            (rollout.group, rollout.samples, "rollout.samples must be a multiple of rollout.group"),
            (rollout.batch, rollout.samples, "rollout.samples must be a multiple of rollout.batch"),
            (train.updates, rollout.samples, "rollout.samples must be a multiple of train.updates"),
        ):
            if large % small:
                wrong.append(f"{what}; {large} is not a multiple of {small}")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def arithmetic(self) -> dict[str, int]:
        """Every number that follows from the recipe, printed by ``tropism check`` and at the start of a run."""
        rollout, train = self.rollout, self.train
        what = "samples" if self.offline is None else "records"
        return {
            f"{what} per iteration": rollout.samples,
            **({"prompts per iteration": rollout.samples // rollout.group} if self.offline is None else {}),
            f"{what} in all": rollout.samples * train.iterations,
            "optimizer steps in all": train.iterations * train.updates * train.passes,
            f"{what} per optimizer step": rollout.samples // train.updates,
            "evaluation samples": self.evaluate.prompts * self.evaluate.per_prompt,
        }

    def dump(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=120)


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file. Raises RecipeError that lists every mistake with its line and the nearest known name."""
    return parse(read_text(path), str(path), overrides)


def read_text(path: Path) -> str:
    """The text of a recipe file. Raises RecipeError that says why it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: {getattr(error, 'strerror', None) or error}") from error


def parse(text: str, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from text; see :func:`read`."""
    try:
        node = yaml.compose(text, Loader=Loader)
        data = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {error}") from error
    if not isinstance(data, dict) or node is None:
        raise RecipeError(f"{where}: expected keys and values, found {type(data).__name__}")
    mistakes: list[tuple[int, str]] = []
    lines = _lines(node, (), mistakes)
    for override in overrides:
        change(data, override, Loader)
    try:
        made = Recipe.model_validate(data)
    except ValidationError as error:
        mistakes.extend(mistake for item in _first_causes(error.errors()) for mistake in _explain(item, lines))
        made = None
    if mistakes or made is None:
        raise Mistakes(where, mistakes, data, lines)
    return made


class Mistakes(RecipeError):
    """What is wrong with a recipe's text, with the text's content so that its parts can be looked at all the same."""

    def __init__(self, where: str, found: Iterable[tuple[int, str]], data: dict[str, Any], lines: Lines) -> None:
        self.where, self.found, self.data, self.lines = where, list(found), data, lines
        super().__init__(mistaken(where, self.found))


def mistaken(where: str, mistakes: Iterable[tuple[int, str]]) -> str:
    """All mistakes, in the order of their lines, as one message."""
    ordered = sorted(set(mistakes))
    shown = "\n".join(f"  line {line}: {text}" if line else f"  {text}" for line, text in ordered)
    return f"{where}: {len(ordered)} mistake{'s' if len(ordered) > 1 else ''}\n{shown}"


def locate(text: str) -> Lines:
    """The line of every key path of a YAML text, for mistakes that are found after parsing."""
    node = yaml.compose(text, Loader=Loader)
    return _lines(node, (), []) if node is not None else {}


def _lines(node: yaml.Node, path: tuple[str | int, ...], mistakes: list[tuple[int, str]]) -> Lines:
    found: Lines = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, key.value)
            if inner in found:
                mistakes.append((key.start_mark.line + 1, f"{_dotted(inner)} is given twice (first on line {found[inner]})"))
            found.update(_lines(value, inner, mistakes))
            found[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found.update(_lines(value, (*path, index), mistakes))
    return found


def _first_causes(errors: Sequence[Any]) -> Iterator[Any]:
    """Without the complaint that a list is too short where pydantic counts only its faultless items."""
    for item in errors:
        inside = (other["loc"][: len(item["loc"])] == item["loc"] and other is not item for other in errors)
        if item["type"] != "too_short" or not any(inside):
            yield item


def _explain(item: Any, lines: Lines) -> Iterator[tuple[int, str]]:
    path, message = tuple(item["loc"]), item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        yield _line(path, lines), f"unknown key '{_dotted(path)}'{nearest(str(path[-1]), _known(path[:-1]))}"
    elif item["type"] == "missing":
        yield _line(path, lines), f"'{_dotted(path)}' is missing"
    elif path:
        found = "" if isinstance(item["input"], dict | Recipe) or item["type"] == "value_error" else f"; found {item['input']!r}"
        yield _line(path, lines), f"{_dotted(path)}: {message}{found}"
    else:  # of the recipe as a whole: one mistake a line, each beginning with the key that it is about
        for text in message.splitlines():
            yield _line(tuple(text.partition(" ")[0].split(".")), lines), text


def _line(path: tuple[str | int, ...], lines: Lines) -> int:
    """The line of a place, or of what it is in."""
    return next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), 0)


def _known(path: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand at a place of a recipe."""
    model: Any = Recipe
    for key in path:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation if key in getattr(model, "model_fields", {}) else None
        model = next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(key) for key in path)
