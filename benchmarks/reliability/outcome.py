"""What a campaign's trials came to: counts by outcome, the faults in words, one line, and rows for the documents."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..figure import Figure, markdown_table

PREFIX = "reliability, "  # of the names of all rows
FAULTS = "faults"
_SHOWN = 12  # faults that are printed
_EVERY = 15.0  # seconds between two lines of progress


@dataclass
class Tally:
    """Counts by outcome of one campaign.

    Attributes:
        campaign: its name.
        outcomes: all names that a count can have besides `faults`, so that none of a former run stays in the results.
        planned: trials, for progress.
        measured: values besides counts, each with its unit and target.
    """

    campaign: str
    outcomes: tuple[str, ...]
    planned: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    measured: list[Figure] = field(default_factory=list)
    _told: float = field(default_factory=time.monotonic)

    def add(self, outcome: str, count: int = 1) -> None:
        """Trials that ended well."""
        if outcome not in self.outcomes:
            raise ValueError(f"'{outcome}' is no outcome of {self.campaign}")
        self.counts[outcome] += count
        self._tell()

    def fault(self, sentence: str, count: int = 1) -> None:
        """Trials that did not."""
        self.faults[sentence] += count
        self._tell()

    @property
    def trials(self) -> int:
        return self.counts.total() + self.faults.total()

    def line(self) -> str:
        """The one line that the campaign prints."""
        parts = [f"{self.counts[name]:,} {name}" for name in self.outcomes]
        parts += [f"{figure.value:.3g} {figure.name}" for figure in self.measured]
        return f"{self.campaign}: {self.trials:,} trials: {', '.join(parts)}, {self.faults.total():,} {FAULTS}"

    def shown(self) -> list[str]:
        """The faults, the most frequent first."""
        lines = [f"  FAULT × {count}: {sentence}" for sentence, count in self.faults.most_common(_SHOWN)]
        return lines + (["  …"] if len(self.faults) > _SHOWN else [])

    def figures(self) -> list[Figure]:
        """Rows of the results: every count, and no faults as the target."""
        name = f"{PREFIX}{self.campaign}: "
        return [
            *(Figure(name + outcome, self.counts[outcome], "") for outcome in self.outcomes),
            *(Figure(name + f.name, f.value, f.unit, f.target) for f in self.measured),
            Figure(name + FAULTS, self.faults.total(), "", 0),
        ]

    def _tell(self) -> None:
        if time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            told = f"{self.campaign}: {self.trials:,} of {self.planned:,}, {self.faults.total():,} {FAULTS}"
            print(told, file=sys.stderr, flush=True)


def reliability_table(figures: Sequence[Figure]) -> list[str]:
    """One row a campaign, of all rows there are."""
    campaigns: dict[str, list[Figure]] = {}
    for figure in figures:
        if figure.name.startswith(PREFIX):
            campaigns.setdefault(figure.name[len(PREFIX) :].partition(": ")[0], []).append(figure)
    if not campaigns:
        return ["Not run yet: `python -m benchmarks reliability`."]
    rows = []
    for campaign, measured in campaigns.items():
        named = [(row.name.partition(": ")[2], row) for row in measured]
        outcomes = ", ".join(_told(name, row) for name, row in named if name != FAULTS)
        faults = next((row.value for name, row in named if name == FAULTS), 0)
        rows.append([campaign, outcomes, f"{faults:,.0f}"])
    return markdown_table(["campaign", "outcomes", "faults"], rows)


def _told(name: str, row: Figure) -> str:
    return f"{row.value:,.0f} {name}" if not row.unit else f"{name} {row.value:.3g} {row.unit}"
