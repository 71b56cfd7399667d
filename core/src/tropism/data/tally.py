"""What a pass over a data set found: how much is usable, what is not and why, ties, classes, and judgements that contradict each other."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

import torch

from tropism.data.faults import KINDS, BadRow
from tropism.data.layout import Where
from tropism.data.records import Label, Record

NAMED = 5  # rows of one kind of fault that are named; all are counted
SLOTS = 2**17  # judgements that are remembered for finding contradictions: 1 MB, however large the data set is


class Tally:
    """Counts of one pass, and the first few bad rows of each kind by name."""

    def __init__(self) -> None:
        self.rows = self.usable = self.ties = self.good = self.bad = self.conflicts = 0
        self.faults: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}
        self._seen = torch.zeros(SLOTS, dtype=torch.int64)

    def fault(self, where: Where, fault: BadRow) -> None:
        """Count rows that cannot be used. A reason about a medium says itself where it is."""
        self.faults[fault.kind] += fault.rows
        line = fault.reason if fault.reason.startswith(str(where.file)) else f"{where}: {fault.reason}"
        self.name(fault.kind, line + (f" ({fault.rows} rows)" if fault.rows > 1 else ""))

    def record(self, where: str, record: Record) -> None:
        """Count a record, usable or a tie, and find out whether an earlier one says the contrary."""
        if isinstance(record, Label):
            self.good, self.bad = self.good + record.label, self.bad + (not record.label)
            self._remember(where, record.prompt, [record.media.identity()], 1 if record.label else 2)
        else:
            self.ties += record.tie
            sides = [record.a.identity(), record.b.identity()]
            first = sides[0] <= sides[1]
            if not record.tie:
                self._remember(where, record.prompt, sorted(sides), 1 if (record.choice > 0.5) == first else 2)

    def _remember(self, where: str, prompt: str, sides: list[bytes], verdict: int) -> None:
        """Look for the same judgement with another verdict. A slot holds 61 bits of a digest and the verdict, the newest."""
        digest = int.from_bytes(blake2b(b"\0".join([prompt.encode(), *sides]), digest_size=8).digest(), "big") >> 3
        slot = digest % SLOTS
        held = int(self._seen[slot])
        if held >> 2 == digest and held & 3 != verdict:
            self.conflicts += 1
            self.name("conflict", f"{where}: an earlier row says the contrary")
        self._seen[slot] = digest << 2 | verdict

    def name(self, kind: str, line: str) -> None:
        """Keep a line for the summary, if fewer than five of its kind are kept."""
        lines = self.named.setdefault(kind, [])
        if len(lines) < NAMED:
            lines.append(line)

    def warnings(self) -> list[str]:
        """What is odd about the whole, and what to do about it."""
        found = []
        if self.good + self.bad and not (self.good and self.bad):
            which = "good" if self.good else "bad"
            found.append(
                f"all {self.good + self.bad} labels are '{which}': losses that compare good with bad (KTO, DRO) cannot learn from them"
            )
        if self.conflicts:
            found.append(f"{self.conflicts} judgements contradict an earlier one on the same media; all are kept")
        return found

    def lines(self) -> list[str]:
        """The summary for a person: one line of counts, one for each kind of fault with the rows that are named, and the warnings."""
        labels = f", {self.good} good and {self.bad} bad" if self.good + self.bad else ""
        lines = [f"{self.rows} rows read, {self.usable} records usable, {self.ties} ties{labels}"]
        for kind in [*KINDS, "conflict"]:
            if self.named.get(kind):
                count = self.conflicts if kind == "conflict" else self.faults[kind]
                lines.append(f"{kind}: {count}")
                lines.extend(f"  {line}" for line in self.named[kind])
                if count > len(self.named[kind]):
                    lines.append("  ...")
        return lines + self.warnings()

    def state_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("rows", "usable", "ties", "good", "bad", "conflicts")}
        named = {kind: list(lines) for kind, lines in self.named.items()}
        return {**counts, "faults": dict(self.faults), "named": named, "seen": self._seen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("rows", "usable", "ties", "good", "bad", "conflicts"):
            setattr(self, name, int(state[name]))
        self.faults = Counter(state["faults"])
        self.named = {kind: list(lines) for kind, lines in state["named"].items()}
        self._seen = state["seen"].clone()
