"""Two worlds in which steering has exact answers: a Gaussian mixture, and a masked text of few tokens whose every law is a small table.

Both walk by exact reverse kernels, so that any number of steps gives the base law without error of discretisation, and what is left is the
error of steering alone. They are processes of :mod:`tropism.steering`; its tests and its tutorial run in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from tropism.steering.process import Noise, stops
from tropism.steering.scorer import Plain
from tropism.steering.task import Task
from tropism.types import Tree


class Pooled:
    """Random numbers of many rows from one stream: for worlds where what counts is how many rows there are, not which is which."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.generator = rows, torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn((self.rows, *shape), generator=self.generator, dtype=torch.float64)

    def uniform(self, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.rand((self.rows, *shape), generator=self.generator, dtype=torch.float64)

    def take(self, rows: Sequence[int]) -> Pooled:
        """As many numbers as there are rows, from the same stream."""
        taken = Pooled(len(rows), 0)
        taken.generator = self.generator
        return taken


def task(
    process: MixtureChain | MaskedChain, reward: Callable[[torch.Tensor], torch.Tensor], prompts: int, particles: int, seed: int = 0
) -> Task:
    """``prompts`` independent runs of ``particles`` each, at once."""
    rows = prompts * particles
    draw, guess, chance = Pooled(rows, 3 * seed), Pooled(rows, 3 * seed + 1), Pooled(prompts, 3 * seed + 2)
    return Task(process, Plain(reward), draw, guess, chance, prompts, particles)


@dataclass(frozen=True)
class Linear:
    """r(x) = a.x, with the Gaussian integral that the answers come from."""

    a: torch.Tensor  # [d]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a

    def tilted(self, mean: torch.Tensor, variance: float, lam: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Of N(mean [..., d], variance I): log E exp(lam r) [...], and the mean and the variance of the law that is tilted by it."""
        log = lam * (mean @ self.a) + lam**2 * variance * self.a.square().sum() / 2
        return log, mean + lam * variance * self.a, variance


@dataclass(frozen=True)
class Quadratic:
    """r(x) = -|x - centre|^2 / 2."""

    centre: torch.Tensor  # [d]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return -(x - self.centre).square().sum(-1) / 2

    def tilted(self, mean: torch.Tensor, variance: float, lam: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        """As of :class:`Linear`."""
        grown = 1 + lam * variance
        log = -(lam * (mean - self.centre).square().sum(-1) / grown + len(self.centre) * math.log(grown)) / 2
        return log, (mean + lam * variance * self.centre) / grown, variance / grown


class MixtureChain:
    """x0 from a mixture of N(means [M, d], variance I); level i has alpha = cos(pi t / 2), sigma = sin(pi t / 2) with t = 1 - i / steps.

    A step draws a component by its responsibility for x, x0 from that component's posterior, and the next state from q(. | x, x0): in all a
    mixture of Gaussians of one variance. Float64.
    """

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, variance: float, steps: int) -> None:
        self.logs, self.means, self.variance, self.steps, self.forwards = weights.double().log(), means.double(), variance, steps, 0

    def level(self, index: int) -> tuple[float, float]:
        """(alpha, sigma)."""
        angle = math.pi / 2 * (1 - index / self.steps)
        return (math.cos(angle), math.sin(angle)) if index else (0.0, 1.0)

    def noisy(self, index: int) -> bool:
        return True

    def start(self, draw: Noise) -> Tree:
        x = draw((self.means.shape[1],))
        return {"x": x.double(), "row": torch.arange(len(x))}

    def responsibilities(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Log chance [B, M] of each component given x [B, d]."""
        alpha, sigma = self.level(index)
        inner = alpha * x @ self.means.T - alpha**2 * self.means.square().sum(1) / 2
        return torch.log_softmax(self.logs + inner / (alpha**2 * self.variance + sigma**2), 1)

    def posterior(self, x: torch.Tensor, index: int, means: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Mean and variance of x0 given x and the component, of mean ``means``."""
        alpha, sigma = self.level(index)
        total = alpha**2 * self.variance + sigma**2
        return (sigma**2 * means + alpha * self.variance * x) / total, self.variance * sigma**2 / total

    def look(self, state: Tree, index: int) -> Tree:
        self.forwards += len(state["x"])
        mean = self.responsibilities(state["x"], index).exp() @ self.means
        return {**state, "x0": self.posterior(state["x"], index, mean)[0]}

    def noise(self, draw: Noise, state: Tree, index: int) -> Tree:
        return {"component": draw.uniform().double(), "normal": draw((self.means.shape[1],)).double()}

    def kernel(self, x: torch.Tensor, index: int, means: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Mean and variance of the next state given x and the component, of mean ``means``."""
        x0, spread = self.posterior(x, index, means)
        (alpha, sigma), (beta, rest) = self.level(index), self.level(index + 1)
        fresh = (rest / sigma) ** 2 * (sigma**2 - (alpha / beta * rest) ** 2)
        kept = math.sqrt(max(rest**2 - fresh, 0.0)) / sigma
        return beta * x0 + kept * (x - alpha * x0), (beta - kept * alpha) ** 2 * spread + fresh

    def move(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        before, logs = state["x"], self.responsibilities(state["x"], index)
        mean, variance = self.kernel(before, index, self.means[_drawn(logs.exp(), noise["component"])])
        x = mean + math.sqrt(variance) * noise["normal"]
        if pull is None:
            return {"x": x, "row": state["row"]}, torch.zeros(len(x), dtype=torch.float64)

        def density(at: torch.Tensor) -> torch.Tensor:
            gap = at[:, None] - self.kernel(before[:, None], index, self.means)[0]
            return torch.logsumexp(logs - gap.square().sum(-1) / (2 * variance), 1)

        moved = x + variance * pull
        return {"x": moved, "row": state["row"]}, density(moved) - density(x)

    def plausible(self, state: Tree, index: int, noise: Tree) -> torch.Tensor:
        """Exactly from the law of x0 given x."""
        component = _drawn(self.responsibilities(state["x"], index).exp(), noise["component"])
        mean, variance = self.posterior(state["x"], index, self.means[component])
        drawn: torch.Tensor = mean + math.sqrt(variance) * noise["normal"]
        return drawn

    def ahead(self, state: Tree, index: int, steps: int) -> torch.Tensor:
        """Along the DDIM steps without noise, with the exact posterior mean."""
        x: torch.Tensor = state["x"]
        x0 = state["x0"]
        for here, there in itertools.pairwise(stops(index, steps, self.steps)):
            (alpha, sigma), (beta, rest) = self.level(here), self.level(there)
            x0 = x0 if here == index else self.look({"x": x}, here)["x0"]
            x = beta * x0 + rest * (x - alpha * x0) / sigma
        return x

    def value(self, tilt: Linear | Quadratic, lam: float) -> Callable[[Tree, int], torch.Tensor]:
        """The exact value function, log E[exp(lam r(x0)) | x] / lam."""

        def exact(state: Tree, index: int) -> torch.Tensor:
            means, spread = self.posterior(state["x"][:, None], index, self.means)
            return torch.logsumexp(self.responsibilities(state["x"], index) + tilt.tilted(means, spread, lam)[0], 1) / lam

        return exact

    def target(self, tilt: Linear | Quadratic, lam: float) -> tuple[float, torch.Tensor, torch.Tensor]:
        """log Z, and the weights [M] and means [M, d] of the tilted mixture."""
        logs, means, _ = tilt.tilted(self.means, self.variance, lam)
        return float(torch.logsumexp(self.logs + logs, 0)), torch.softmax(self.logs + logs, 0), means


class MaskedChain:
    """A text of ``length`` tokens 0 .. tokens - 1, masked (token ``tokens``) at first; its law is a Dirichlet draw of ``seed`` 7.

    The network is the exact conditional law of each masked token given the others that are seen. Step j unmasks every masked place with
    chance 1 / (steps - j), independently, as masked diffusion does: so the base law is the sampler's, not quite that of the data.
    """

    def __init__(self, length: int, steps: int, tokens: int = 3) -> None:
        self.length, self.steps, self.tokens, self.forwards = length, steps, tokens, 0
        seen = _texts(tokens, length)
        self.states = _texts(tokens + 1, length)
        compatible = ((self.states[:, None] == seen) | (self.states[:, None] == tokens)).all(-1)
        joint = compatible * data_law(tokens**length)
        chances = joint @ torch.nn.functional.one_hot(seen, tokens).double().flatten(1) / joint.sum(1, keepdim=True)
        self.table = chances.reshape(-1, length, tokens)  # of each state: the law of every token, seen or not

    def noisy(self, index: int) -> bool:
        return True

    def start(self, draw: Noise) -> Tree:
        rows = len(draw.uniform())
        return {"x": torch.full((rows, self.length), self.tokens), "row": torch.arange(rows)}

    def look(self, state: Tree, index: int) -> Tree:
        """``x0`` [B, length, tokens]: the law of every token."""
        self.forwards += len(state["x"])
        return {**state, "x0": self.table[self.number(state["x"])]}

    def noise(self, draw: Noise, state: Tree, index: int) -> Tree:
        numbers = draw.uniform((self.length, 2)).double()
        return {"when": numbers[..., 0], "what": numbers[..., 1]}

    def move(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        assert pull is None, "tokens have no gradient"
        now = (state["x"] == self.tokens) & (noise["when"] * (self.steps - index) < 1)
        x = torch.where(now, _drawn(state["x0"], noise["what"]), state["x"])
        return {"x": x, "row": state["row"]}, torch.zeros(len(x), dtype=torch.float64)

    def plausible(self, state: Tree, index: int, noise: Tree) -> torch.Tensor:
        """All masked places filled at once, independently."""
        return torch.where(state["x"] == self.tokens, _drawn(state["x0"], noise["what"]), state["x"])

    def ahead(self, state: Tree, index: int, steps: int) -> torch.Tensor:
        """All masked places filled with their most likely tokens."""
        return torch.where(state["x"] == self.tokens, state["x0"].argmax(-1), state["x"])

    def reward(self, x: torch.Tensor) -> torch.Tensor:
        """The fraction of token 0 in texts [B, length], or expected of laws [B, length, tokens]."""
        return x[..., 0].mean(1) if x.is_floating_point() else (x == 0).double().mean(1)

    def number(self, x: torch.Tensor) -> torch.Tensor:
        """The row of :attr:`states` of each text [B, length]."""
        places = (self.tokens + 1) ** torch.arange(self.length - 1, -1, -1)
        return (x * places).sum(1)

    @cached_property
    def kernels(self) -> list[torch.Tensor]:
        """[S, S] for each step: the chance of a state after another."""
        found = []
        seen = torch.nn.functional.one_hot(self.states, self.tokens + 1).double()  # [S, length, tokens + 1]
        for index in range(self.steps):
            chance = 1 / (self.steps - index)
            fresh = torch.nn.functional.pad(chance * self.table, (0, 1), value=1 - chance)
            token = torch.where((self.states == self.tokens)[..., None], fresh, seen)
            kernel = torch.ones(len(self.states), 1, dtype=torch.float64)
            for place in range(self.length):
                kernel = (kernel[:, :, None] * token[:, None, place]).flatten(1)
            found.append(kernel)
        return found

    def base(self) -> torch.Tensor:
        """The law [S] of finished texts."""
        law = torch.nn.functional.one_hot(torch.tensor(len(self.states) - 1), len(self.states)).double()
        for kernel in self.kernels:
            law = law @ kernel
        return law

    def twists(self, lam: float) -> list[torch.Tensor]:
        """[S] for each point 0 .. steps: E[exp(lam r(x0)) | state]; of all masked it is Z."""
        found = [torch.exp(lam * self.reward(self.states))]
        for kernel in reversed(self.kernels):
            found.insert(0, kernel @ found[0])
        return found


def data_law(texts: int) -> torch.Tensor:
    """A draw [texts] of a Dirichlet law with parameters 1/2, the one of numpy's ``default_rng(7)``."""
    import numpy  # only here: torch draws other numbers

    return torch.from_numpy(numpy.random.default_rng(7).dirichlet(0.5 * numpy.ones(texts)))


def _texts(tokens: int, length: int) -> torch.Tensor:
    """All texts [tokens^length, length], in lexicographic order."""
    return torch.cartesian_prod(*[torch.arange(tokens)] * length).reshape(-1, length)


def _drawn(chances: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """One of the last axis by its chance, for uniform numbers of the other axes."""
    heights = chances.cumsum(-1)
    return (heights[..., :-1] <= (u * heights[..., -1])[..., None]).sum(-1)
