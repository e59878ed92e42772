"""Bytes → operating points: one sorted order of all steps between neighbouring points of all layers.

A step from one point of a layer's hull to the next buys loss at a price, its slope. All steps of a model, sorted once
by slope, are the order in which bytes are spent: any size is a prefix of it, so a larger size never predicts a higher
loss, and a target is one binary search. It is the equal-slope allocation of JPEG 2000 (Taubman 2000), and the order of
`size_planner` with bits in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ..errors import SizeError, check_ratio, finite, shown
from .operating_points import LayerPoints, is_coded, lower_hull, slope
from .size_planner import Plan


class BytePlanner:
    """Plans sizes in bytes.

    Args:
        points: of every target layer in model order, then of the tables (embedding, head) that have codes.
        tables: how many of them are tables.
        other_bytes: of a file, for everything that has no operating points.
        code_bytes: of a file that holds any code, for what all codes share.
        base_bytes: of the model as its publisher stores it.
        parameters: of the whole model; target_parameters: of the target layers.
        mode: what may be spent, for the plans to name.
        measured: predicted loss → the rise that is measured there; the identity by default.

    Raises:
        SizeError: a layer has no operating point, or a loss is not finite.
    """

    def __init__(
        self,
        points: LayerPoints,
        tables: int,
        other_bytes: int,
        base_bytes: int,
        parameters: int,
        target_parameters: int,
        mode: str,
        code_bytes: int = 0,
        measured: Callable[[float], float] = float,
    ):
        self.mode, self.measured = mode, measured
        self.base_bytes, self.other_bytes, self.code_bytes = base_bytes, other_bytes, code_bytes
        self._tables, self._parameters, self._target_parameters = tables, parameters, target_parameters
        self.hulls = {name: lower_hull(of_layer) for name, of_layer in points.items()}
        for name, hull in self.hulls.items():
            if not hull or not np.isfinite([p.loss for p in hull]).all():
                raise SizeError(f"The operating points of {name} are missing or not finite; compute them again.")
        steps = [
            (-slope(low, high), layer, k + 1)
            for layer, hull in enumerate(self.hulls.values())
            for k, (low, high) in enumerate(itertools.pairwise(hull))
        ]
        steps.sort()  # slopes fall along a hull, so a layer's steps keep their order
        hulls = list(self.hulls.values())
        self._layers = np.array([layer for _, layer, _ in steps], dtype=np.int64)
        gained = [hulls[i][k].bytes - hulls[i][k - 1].bytes for _, i, k in steps]
        saved = [hulls[i][k - 1].loss - hulls[i][k].loss for _, i, k in steps]
        floor = other_bytes + code_bytes + sum(hull[0].bytes for hull in hulls)
        self._bytes = floor + np.concatenate([[0], np.cumsum(gained, dtype=np.int64)]).astype(np.int64)
        if not any(is_coded(hull[-1].state) for hull in hulls):
            self._bytes[-1] -= code_bytes  # so that it may take less than plans before it
        self._least = np.minimum.accumulate(self._bytes[::-1])[::-1]
        worst = float(sum(hull[0].loss for hull in hulls))
        self._losses = worst - np.concatenate([[0.0], np.cumsum(saved)])
        self._losses = np.maximum(self._losses - self._losses[-1] + sum(hull[-1].loss for hull in hulls), 0)

    @property
    def smallest(self) -> int:
        """Bytes of the smallest plan."""
        return int(self._least[0])

    @property
    def largest(self) -> int:
        """Bytes of the plan that loses nothing more: every layer at its best point."""
        return int(self._bytes[-1])

    def at_bytes(self, size: int | float) -> Plan:
        """The best plan whose file has at most `size` bytes; the largest where there is room for more.

        Raises:
            SizeError: no number, or below the smallest plan.
        """
        number = finite(size)
        if number is None or number <= 0:
            raise SizeError(f"A size must be a number of bytes, not {shown(size)}.")
        if number < self.smallest:
            raise SizeError(
                f"No plan of this model has {number / 1e6:.1f} MB; the smallest has {self.smallest / 1e6:.1f} MB "
                f"({self.smallest / self.base_bytes:.1%})."
            )
        return self._at(int(np.searchsorted(self._least, int(number), side="right")) - 1)

    def at_ratio(self, ratio: float) -> Plan:
        """The best plan whose file has at most this share of the published bytes.

        Raises:
            SizeError: not a number in (0, 1], or below the smallest plan.
        """
        return self.at_bytes(round(check_ratio(ratio) * self.base_bytes, 3))

    def at_loss(self, rise: float) -> Plan:
        """The smallest plan of which a rise of the loss of at most `rise` nats per token is to be expected.

        log(1.05) stands for a perplexity at most 5 % higher.

        Raises:
            SizeError: no number, or negative.
        """
        number = finite(rise)
        if number is None or number < 0:
            raise SizeError(f"A loss must be a number of nats from 0 on, not {shown(rise)}.")
        expected = np.array([self.measured(float(loss)) for loss in self._losses])
        within = np.flatnonzero(expected <= number + 1e-12)
        return self._at(int(within[self._bytes[within].argmin()]) if len(within) else len(self._bytes) - 1)

    def slope_at(self, plan: Plan) -> float:
        """Nats per token that the next megabyte buys; 0 at the largest plan."""
        prefix = int(np.searchsorted(self._least, plan.bytes, side="right")) - 1
        if prefix + 1 >= len(self._bytes):
            return 0.0
        ahead = min(int(np.searchsorted(self._least, plan.bytes + 1e6)), len(self._bytes) - 1)
        low, high = (self.measured(float(self._losses[i])) for i in (prefix, ahead))
        return (low - high) / float(self._bytes[ahead] - self._bytes[prefix]) * 1e6

    def _at(self, prefix: int) -> Plan:
        hulls = list(self.hulls.values())
        counts = np.bincount(self._layers[:prefix], minlength=len(hulls))
        states = tuple(hull[k].state for hull, k in zip(hulls, counts.tolist(), strict=True))
        layers = len(states) - self._tables
        return Plan(
            ranks=states[:layers],
            target_parameters=self._target_parameters,
            base_target_parameters=self._target_parameters,
            parameters=self._parameters,
            base_parameters=self._parameters,
            bytes=int(self._bytes[prefix]),
            base_bytes=self.base_bytes,
            mode=self.mode,
            tables=states[layers:],
            loss=float(self._losses[prefix]),
        )
