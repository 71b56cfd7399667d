"""A folder of steered samples as data: ``summary.json`` with what every method did, and ``samples/`` with what it chose."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator

from tropism.errors import TropismError
from tropism.report.read import Interval


class Moment(BaseModel):
    """A point of the schedule, for one prompt of K particles. ancestors: which of the K each of the next goes on from; -1 is a first noise
    that is new."""

    index: int  # before that step; the number of steps for the finished samples
    reward: list[float | None]
    ess: float | None
    lam: float | None
    ancestors: list[int]
    resampled: bool


class Prompt(BaseModel):
    """What became of one prompt's particles."""

    prompt: str
    first: int  # first noises at the start
    moments: list[Moment]
    root: list[int]  # the first noise of each particle that came out; new ones on the way are numbered on
    weight: list[float | None]
    reward: list[float | None]
    chosen: list[int]
    log_z: float | None
    lam: float | None

    @model_validator(mode="after")
    def _whole(self) -> Prompt:
        """Every particle comes from one that there is."""
        if not self.moments:
            raise ValueError("a prompt has no moments; expected at least that of the finished samples")
        count = self.first
        for moment in self.moments:
            if any(not -1 <= parent < count for parent in moment.ancestors):
                raise ValueError(f"before step {moment.index} an ancestor is none of {count} particles")
            count = len(moment.ancestors)
        if not len(self.root) == len(self.weight) == len(self.reward) == count or any(not 0 <= one < count for one in self.chosen):
            raise ValueError(f"{count} particles came out, but root, weight, reward or chosen are of another number")
        return self

    @property
    def noises(self) -> int:
        """How many first noises there were in all."""
        return self.first + sum(parent < 0 for moment in self.moments for parent in moment.ancestors)


class Outcome(BaseModel):
    """One method on all prompts. metrics: of the chosen samples, with intervals over prompts; ``memory`` in MiB where it can be told."""

    label: str
    method: dict[str, object]
    particles: int
    forwards: int
    calls: int
    unscored: int
    seconds: float
    memory: float | None
    metrics: dict[str, Interval]
    prompts: list[Prompt]


class Told(BaseModel):
    """``summary.json`` of a steered folder. trained: the rewards that were followed; the other metrics were only watched."""

    steered: str  # the recipe's name, or the run's folder
    seed: int
    sampler: str
    steps: int
    device: str
    trained: list[str]
    outcomes: list[Outcome]


def read(folder: Path) -> Told:
    """Raises TropismError for a folder that ``tropism steer`` has not written, or for a broken file."""
    file = folder / "summary.json"
    try:
        return TypeAdapter(Told).validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TropismError(f"{folder} is no folder of steered samples: {file.name} cannot be read: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise TropismError(
            f"{file}: not what tropism steer writes: {'.'.join(map(str, fault['loc'])) or 'json'}: {fault['msg']}"
        ) from error
