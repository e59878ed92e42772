"""What a layer may cost and what it then loses: its operating points, and those of them that are worth having.

An operating point is a state of a layer (as published, or codes at one level, with its adapter or without), the bytes
that a file holds of it, and the predicted rise of the loss ΔL in nats per token. Of a layer's points only those on the
lower convex hull are ever chosen: any other is beaten by running between two of the hull.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .size_planner import DENSE


@dataclass(frozen=True)
class OperatingPoint:
    """One way to store a layer.

    Attributes:
        bytes: of the layer in a file, scales, classes and adapter included.
        loss: predicted rise of the loss when the layer runs there, nats per token.
        state: what the elastic layer runs at: `DENSE` or `coded_state`.
    """

    bytes: int
    loss: float
    state: int


LayerPoints = Mapping[str, tuple[OperatingPoint, ...]]  # by the name of a layer


def coded_state(level: int, adapted: bool) -> int:
    """The state of a layer that runs codes: below every rank and below `DENSE`, so that one number says it.

    Args:
        level: index of the code, 0 the finest.
        adapted: whether the adapter trained for coded layers runs beside it.
    """
    return DENSE - 1 - (2 * level + adapted)


def is_coded(state: int) -> bool:
    """Whether a layer at this state runs codes."""
    return state < DENSE


def code_of(state: int) -> tuple[int, bool]:
    """The level and whether it is adapted, of a coded state."""
    level, adapted = divmod(DENSE - 1 - state, 2)
    return level, bool(adapted)


def lower_hull(points: Iterable[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """The points on the lower convex hull, from the fewest bytes to the most: each further byte buys less."""
    hull: list[OperatingPoint] = []
    for point in sorted(points, key=lambda p: (p.bytes, p.loss)):
        if hull and point.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and slope(hull[-2], hull[-1]) <= slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return tuple(hull)


def slope(cheaper: OperatingPoint, dearer: OperatingPoint) -> float:
    """Loss that a byte buys between two points."""
    return (cheaper.loss - dearer.loss) / (dearer.bytes - cheaper.bytes)
