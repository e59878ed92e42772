"""One measured figure, and how several are shown and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from tabulate import tabulate

from acip_core.model.placement import best_device


@dataclass(frozen=True)
class Figure:
    """A figure with what it should be.

    Attributes:
        unit: `×` for ratios; otherwise the unit of `value`.
        target: what is aimed at, None where there is none.
        spread: half the distance between the quartiles of the repetitions, in `unit`.
        better: `lower` or `higher`.
        limit: what the memory's bandwidth would allow, in `unit`.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    spread: float = 0.0
    better: str = "lower"
    limit: float | None = None

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return bool(self.value <= self.target if self.better == "lower" else self.value >= self.target)


def median_of(
    name: str, values: Sequence[float], unit: str, target: float | None = None, better: str = "lower"
) -> Figure:
    """The median of repeated measurements with their spread."""
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else (0.0, 0.0, 0.0)
    return Figure(name, statistics.median(ordered), unit, target, (quartiles[2] - quartiles[0]) / 2, better)


def clock() -> float:
    """Seconds, once the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def machine() -> str:
    """The processor, its cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    device = torch.cuda.get_device_name() if best_device().type == "cuda" else "no GPU"
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{model} with {vectors}, {os.cpu_count()} cores, {device}, torch {torch.__version__}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return tabulate(rows, header, tablefmt="github", disable_numparse=True).splitlines()


def table(figures: Sequence[Figure]) -> list[str]:
    """Markdown, one row a figure."""
    return markdown_table(["figure", "measured", "target", "reached", "limit"], [_row(figure) for figure in figures])


def _row(figure: Figure) -> list[str]:
    f, sign = figure, "≤" if figure.better == "lower" else "≥"
    spread = f" ± {f.spread:.2g}" if f.spread else ""
    target = "" if f.target is None else f"{sign} {f.target:g} {f.unit}"
    reached = {None: "", True: "yes", False: "**no**"}[f.reached]
    limit = "" if f.limit is None else f"{f.limit:.3g} {f.unit}"
    return [f.name, f"{f.value:.3g}{spread} {f.unit}", target, reached, limit]


@dataclass(frozen=True)
class Measured:
    """A figure with the day and the machine that it was measured on."""

    figure: Figure
    date: str
    machine: str


def read(path: Path) -> list[Measured]:
    """What a JSON file of `merge` holds; nothing where there is none."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    fields = Figure.__dataclass_fields__
    return [
        Measured(Figure(**{k: v for k, v in entry.items() if k in fields}), entry["date"], entry["machine"])
        for entry in stored
    ]


def merge(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures to a JSON file, in the place of those of the same name."""
    known = {measured.figure.name: measured for measured in read(path)}
    today, here = date.today().isoformat(), machine()
    known |= {figure.name: Measured(figure, today, here) for figure in figures}
    entries = [
        asdict(m.figure) | {"reached": m.figure.reached, "date": m.date, "machine": m.machine} for m in known.values()
    ]
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def where_and_when(figures: Sequence[Measured]) -> str:
    """A sentence for each machine, the one of most figures first; those of the others are named."""
    by_machine: dict[str, list[Measured]] = {}
    for measured in figures:
        by_machine.setdefault(measured.machine, []).append(measured)
    sentences = []
    for index, (name, group) in enumerate(sorted(by_machine.items(), key=lambda item: -len(item[1]))):
        first, last = min(m.date for m in group), max(m.date for m in group)
        days = f"on {first}" if first == last else f"between {first} and {last}"
        which = "Measured" if index == 0 else f"{'; '.join(m.figure.name for m in group)}: measured"
        sentences.append(f"{which} {days}, on {name}.")
    return " ".join(sentences)
