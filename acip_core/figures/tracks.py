"""What the slider's positions mean in each mode: sizes in percent, and what is known of each beforehand.

In the mode `directions` they are whole percentages of the compressed layers, as ever. Where bits are spent they are
shares of the published bytes, each position the same factor of the next one; knows nothing of gradio.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..artifacts.coding import CodedCurve
from ..generation.speed import flops_per_token
from ..model.byte_planner import BytePlanner
from ..model.size_planner import DIRECTIONS, Plan, SizePlanner
from .size_table import LARGEST_PERCENT, Row, plan_at, smallest_percent

LEAST_SHARE = 40 / 269  # of the published bytes, the slider's lower end: the default model's 40 MB
COMPARED, COMPARED_BYTES = (100, 80, 60, 40), (100, 40, 30, 24)  # percent, that side by side starts with


@dataclass(frozen=True)
class Track:
    """The slider in one mode.

    Attributes:
        percents: what its positions mean, the smallest first.
    """

    planner: SizePlanner | BytePlanner
    percents: tuple[float, ...]

    @property
    def mode(self) -> str:
        return self.planner.mode if isinstance(self.planner, BytePlanner) else DIRECTIONS

    @property
    def step(self) -> int:
        """Positions between two sizes of which texts are written for a drag."""
        return 3 if isinstance(self.planner, BytePlanner) else 5

    @property
    def compared(self) -> list[float]:
        """Sizes that side by side starts with."""
        sizes = COMPARED if isinstance(self.planner, SizePlanner) else COMPARED_BYTES
        return [p for p in sizes if p >= self.percents[0]]

    def plan_at(self, percent: float | None) -> tuple[float, Plan]:
        """The size that is meant, and its plan; anything outside the slider's range means its nearest end."""
        if isinstance(self.planner, SizePlanner):
            return plan_at(self.planner, percent)
        wanted = LARGEST_PERCENT if percent is None or not math.isfinite(percent) else _rounded(percent)
        used = min(max(wanted, self.percents[0]), LARGEST_PERCENT)
        if used == LARGEST_PERCENT:  # the model itself, also where its exact file is a few bytes longer than published
            return used, self.planner.at_bytes(max(self.planner.largest, self.planner.base_bytes))
        return used, self.planner.at_ratio(used / 100)

    @cached_property
    def distinct(self) -> tuple[float, ...]:
        """Positions from the largest on; where bits are spent, of those with one plan the smallest alone, and 100."""
        if isinstance(self.planner, SizePlanner):
            return self.percents[::-1]
        bytes_at = [self.plan_at(percent)[1].bytes for percent in self.percents]
        new = [p for i, p in enumerate(self.percents) if i == 0 or bytes_at[i] != bytes_at[i - 1]]
        return tuple(dict.fromkeys([LARGEST_PERCENT, *reversed(new)]))

    def named(self, percent: float) -> str:
        """A size for people."""
        if isinstance(self.planner, SizePlanner):
            return f"{percent} %"
        return f"{percent / 100 * self.planner.base_bytes / 1e6:.3g} MB"


def directions_track(planner: SizePlanner) -> Track:
    """Whole percentages."""
    return Track(planner, tuple(range(smallest_percent(planner), LARGEST_PERCENT + 1)))


def byte_track(planner: BytePlanner, positions: int) -> Track:
    """Shares of the published bytes on a logarithmic track; the compared sizes and the exact one are among them."""
    least = max(LEAST_SHARE, planner.smallest / planner.base_bytes)
    low = math.ceil(1000 * least) / 10
    ratio = (LARGEST_PERCENT / low) ** (1 / max(1, positions - 1)) if low < LARGEST_PERCENT else 1.0
    percents = [low * ratio**i for i in range(positions)]
    percents[-1] = LARGEST_PERCENT
    exact = math.ceil(1000 * planner.largest / planner.base_bytes) / 10
    for special in (*COMPARED_BYTES[1:], exact):
        if low < special < LARGEST_PERCENT:
            nearest = min(range(1, positions - 1), key=lambda i: abs(math.log(percents[i] / special)), default=0)
            percents[nearest] = special if nearest else percents[nearest]
    return Track(planner, tuple(dict.fromkeys(_rounded(percent) for percent in sorted(percents))))


def _rounded(percent: float) -> float:
    """To a tenth; whole ones as integers, so that Python and JavaScript write them alike."""
    tenths = round(10 * percent)
    return tenths // 10 if tenths % 10 == 0 else tenths / 10


def relative_at(curve: CodedCurve, size: int, exact: int) -> float | None:
    """Perplexity ÷ base between the measured points, on straight lines of the logarithms; None below the smallest.

    Args:
        exact: bytes from which on nothing is lost.
    """
    if size >= exact:
        return 1.0
    points = [(p.bytes, p.perplexity / curve.base_perplexity) for p in curve.points if p.bytes < exact]
    points = [*sorted(points), (exact, 1.0)]
    for (low, a), (high, b) in itertools.pairwise(points):
        if low <= size <= high:
            share = math.log(size / low) / math.log(high / low)
            return math.exp(math.log(a) + (math.log(b) - math.log(a)) * share)
    return None


def byte_rows(track: Track, curves: Sequence[CodedCurve], bases: dict[str, float], lookups: int = 0) -> list[Row]:
    """One row for every position, the smallest first.

    Args:
        curves: of all modes.
        bases: perplexity of the full model by corpus.
        lookups: as `flops_per_token`.
    """
    planner = track.planner
    assert isinstance(planner, BytePlanner)
    own = [curve for curve in curves if curve.mode == track.mode and curve.points]
    rows = []
    for percent in track.percents:
        plan = track.plan_at(percent)[1]
        found = {curve.corpus: relative_at(curve, plan.bytes, planner.largest) for curve in own}
        measured = {corpus: value for corpus, value in found.items() if value is not None}
        predicted = math.exp(min(planner.measured(plan.loss or 0.0), 50.0))
        relative = max(measured.values(), default=predicted)
        perplexity = {corpus: base * measured.get(corpus, predicted) for corpus, base in bases.items()}
        row = Row(
            percent, plan.ratio, plan.parameters, plan.bytes, plan.saved, flops_per_token(plan, lookups), perplexity
        )
        bought = 1 - math.exp(-max(0.0, planner.slope_at(plan)))
        rows.append(replace(row, relative=relative, predicted=not measured, next_megabyte=bought))
    return rows
