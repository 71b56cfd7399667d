"""What a person sees while a run goes on: one live line a phase on a terminal, plain lines elsewhere, and everything in ``log.txt``."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

TAUGHT = ("loss", "implicit_accuracy", "winner_change", "loser_change", "good_change", "bad_change")


class Progress:
    """Prints to the console and appends to ``log.txt``. ``total``: iterations, for the time left."""

    def __init__(self, console: Console, log: Path | None = None, total: int = 0, every: int = 1) -> None:
        self.console, self.path, self.total, self.every = console, log, total, every
        self._live: Live | None = None
        self._phase, self._done, self._step = "start", 0, 0
        self._begin, self._first = time.monotonic(), -1

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(Text(""), console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, name: str, step: int) -> None:
        if self._first < 0:
            self._first, self._begin = step, time.monotonic()
        self._phase, self._done, self._step = name, 0, step
        self._show()

    def advance(self, count: int) -> None:
        self._done += count
        self._show()

    def scored(self, step: int, rewards: dict[str, list[float]], logged: dict[str, float]) -> None:
        """A line per iteration: each raw reward of the rollout with its interval (of judged media: what they taught), and the time left."""
        if step % self.every == 0 or step == self.total:
            numbers = "  ".join(f"{name} {mean:.4g} ±{(high - low) / 2:.2g}" for name, (mean, low, high) in rewards.items())
            if not rewards:
                numbers = "  ".join(f"{name} {logged[f'train/{name}']:.4g}" for name in TAUGHT if f"train/{name}" in logged)
            self.say(f"{step:>5}/{self.total}  {numbers}  {self.left(step)}")

    def evaluated(self, step: int, found: dict[str, list[float]]) -> None:
        numbers = "  ".join(f"{name} {mean:.4g} [{low:.4g}, {high:.4g}]" for name, (mean, low, high) in found.items())
        self.say(f"evaluation at {step}: {numbers}")

    def left(self, step: int) -> str:
        done = step - max(self._first, 0)
        if done < 1 or step >= self.total:
            return ""
        seconds = (time.monotonic() - self._begin) / done * (self.total - step)
        return f"{seconds / 60:.1f} min left" if seconds >= 90 else f"{seconds:.0f} s left"

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(
                Text(f"iteration {self._step + 1}/{self.total}  {self._phase}  {self._done} samples  {self.left(self._step)}", style="dim")
            )
