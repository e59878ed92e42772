"""What the slider's positions mean in each mode: sizes in percent, and their plans.

In the mode `directions` they are whole percentages of the compressed layers, as ever. Where bits are spent they are
shares of the published bytes, each position the same factor of the next one. Touches no weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .byte_planner import BytePlanner
from .size_planner import DIRECTIONS, Plan, SizePlanner

SMALLEST_PERCENT, LARGEST_PERCENT = 30, 100
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
        """What may be spent: the planner's mode."""
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


def smallest_percent(planner: SizePlanner) -> int:
    """The slider's lower end: 30, or the smallest whole percentage that the adapters leave room for."""
    return max(SMALLEST_PERCENT, math.ceil(100 * planner.smallest / planner.base_target_parameters))


def plan_at(planner: SizePlanner, percent: float | None) -> tuple[int, Plan]:
    """The plan of a slider position; anything outside the slider's range means its nearest end.

    Returns:
        The whole percentage used, and its plan.
    """
    wanted = LARGEST_PERCENT if percent is None or not math.isfinite(percent) else round(percent)
    used = min(max(wanted, smallest_percent(planner)), LARGEST_PERCENT)
    return used, planner.at_ratio(used / 100)


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


def tracks_of(planners: Mapping[str, SizePlanner | BytePlanner]) -> dict[str, Track]:
    """The slider in every mode that a model has, by the planner of each; as many positions in all of them."""
    directions = planners[DIRECTIONS]
    assert isinstance(directions, SizePlanner)
    track = directions_track(directions)
    others = {
        mode: byte_track(planner, len(track.percents))
        for mode, planner in planners.items()
        if isinstance(planner, BytePlanner)
    }
    return {DIRECTIONS: track, **others}
