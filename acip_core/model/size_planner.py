"""Scores → ranks for a target size: pure arithmetic on one sorted order; no model, no device.

All directions of the model, sorted once by score, and the cumulative parameter count along that order. A target of
any unit is then one binary search. In a layer of shape (m, n) with adapter rank a,

    rank k costs (a + k)(m + n) parameters   until that reaches m n: from there the layer is dense and costs m n

(paper, section D.3), or less where pivots store it (`rank_costs`); so the cut that keeps all is the base model itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import SizeError, check_ratio, finite, shown
from .ordering import falling
from .rank_costs import BytesPerParameter, break_even_rank, factor_parameters, pivot_bytes

DENSE = -1  # rank of a layer that runs its original weight
DIRECTIONS, BITS, BOTH = MODES = ("directions", "bits", "both")  # what a size may spend
_STRIDE = 4096  # directions between two stored rank counts


@dataclass(frozen=True)
class Footprint:
    """What a size ratio means for the whole model: everything outside the target layers is always kept.

    Attributes:
        other_parameters: parameters outside the target weights (embeddings, head, norms, biases), tied ones once.
        bytes_per_parameter: of the dtype it is stored in, 4 for float32, 2 for bfloat16.
        storage: of the target layers, where they are quantized.
        extra_bytes: what is stored outside the target weights beyond that: buffers, parameters in a wider dtype.
        wider: what each target weight takes beyond that where it is published in a wider dtype.
    """

    other_parameters: int = 0
    bytes_per_parameter: int = 4
    storage: BytesPerParameter | None = None
    extra_bytes: int = 0
    wider: tuple[int, ...] = ()

    @property
    def other_bytes(self) -> int:
        """Bytes of everything outside the target weights."""
        return self.other_parameters * self.bytes_per_parameter + self.extra_bytes


@dataclass(frozen=True)
class Plan:
    """One size of the model.

    Attributes:
        ranks: directions kept per layer, `DENSE` where the original weight runs.
        target_parameters: stored parameters of the target layers, adapters included.
        base_target_parameters: the same of the base model.
        parameters: stored parameters of the whole model.
        base_parameters: the same of the base model.
        bytes: of the whole model in the dtype it is stored in, quantized target layers at their precision.
        base_bytes: the same of the base model, nothing quantized.
        mode: what was spent: directions, bits, or both.
        tables: states of the embedding and the head where they have codes.
        loss: predicted rise of the loss in nats per token, where it is known.
    """

    ranks: tuple[int, ...]
    target_parameters: int
    base_target_parameters: int
    parameters: int
    base_parameters: int
    bytes: int
    base_bytes: int
    mode: str = DIRECTIONS
    tables: tuple[int, ...] = ()
    loss: float | None = None

    @property
    def states(self) -> tuple[int, ...]:
        """Of the layers, then of the tables."""
        return self.ranks + self.tables

    @property
    def ratio(self) -> float:
        """Size ratio: of the target layers' parameters, the paper's r; where bits are spent, of the model's bytes."""
        if self.mode != DIRECTIONS:
            return self.bytes / self.base_bytes
        return self.target_parameters / self.base_target_parameters

    @property
    def saved(self) -> float:
        """Share of the whole model's bytes that this size saves."""
        return 1 - self.bytes / self.base_bytes


class SizePlanner:
    """Plans sizes from scores and shapes.

    Args:
        shapes: (out_features m, in_features n) per layer, in model order.
        scores: (r,) importance of each direction per layer, any order within a layer, finite.
        adapter_rank: a, rows that every factorized layer carries besides its directions.
        footprint: the rest of the model.
        count_adapters: False reproduces the paper's convention, which leaves adapter parameters out.
        reset: False never returns to the dense weight, however much the factors cost (the paper's ablation D.3).
        pivoted: ranks cost what pivots and coefficients take; not where the layers are quantized or `reset` is False.

    Raises:
        SizeError: layers differ between `shapes` and `scores`, or a score is not finite.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        scores: Mapping[str, np.ndarray],
        adapter_rank: int = 0,
        footprint: Footprint = Footprint(),
        count_adapters: bool = True,
        reset: bool = True,
        pivoted: bool = False,
    ):
        if list(shapes) != list(scores):
            raise SizeError("Shapes and scores name different layers; they must come from the same model.")
        self.footprint = footprint
        counted = adapter_rank if count_adapters else 0
        self._pivoted = pivoted and reset and footprint.storage is None
        m = np.array([s[0] for s in shapes.values()], dtype=np.int64)
        n = np.array([s[1] for s in shapes.values()], dtype=np.int64)
        self._row, self._dense = m + n, m * n  # parameters of one direction, of the dense weight
        self._adapters = counted
        self._break_even = np.array([break_even_rank(a, b, counted, self._pivoted) for a, b in shapes.values()])
        adapters = factor_parameters(counted, self._row, self._pivoted)
        self._floor = int(np.minimum(adapters, self._dense).sum())
        self._pivots = np.array([pivot_bytes(b) if self._pivoted else 0 for _, b in shapes.values()], dtype=np.int64)
        self._wider = np.array(footprint.wider or np.zeros(len(shapes)), dtype=np.int64)
        self._reset = reset
        if not reset:
            self._floor = int(counted * self._row.sum())
        self._sort(list(scores.values()))

    def _sort(self, scores: list[np.ndarray]) -> None:
        flat = np.concatenate([np.asarray(s, dtype=np.float32) for s in scores])
        if not np.isfinite(flat).all():
            raise SizeError("Scores hold values that are not finite; compute the score map again.")
        lengths = self._lengths = [len(s) for s in scores]
        if any(length < needed for length, needed in zip(lengths, self._break_even, strict=True)):
            raise SizeError(
                "A layer has fewer scores than directions below its break-even rank; compute the score map again."
            )
        layers = np.repeat(np.arange(len(lengths), dtype=np.int16 if len(lengths) < 2**15 else np.int32), lengths)
        self._layers = layers[falling(flat)]
        steps = np.concatenate([self._steps(i, length) for i, length in enumerate(lengths)])
        in_order = np.empty_like(steps)
        in_order[np.argsort(self._layers, kind="stable")] = steps  # k-th direction of a layer → its k-th step
        self._cumulative = np.concatenate([[0], np.cumsum(in_order)]) + self._floor
        starts = range(0, len(flat), _STRIDE)
        counts = [np.bincount(self._layers[i : i + _STRIDE], minlength=len(lengths)) for i in starts]
        self._counts = np.cumsum([np.zeros(len(lengths), dtype=np.int64), *counts], axis=0)

    def _steps(self, layer: int, length: int) -> np.ndarray:
        """Parameters each direction of a layer adds: what it is stored in, the remainder at break-even, then none."""
        row, dense, last = self._row[layer], self._dense[layer], self._break_even[layer]
        if not self._reset:
            return np.full(length, row, dtype=np.int64)
        rows = self._adapters + np.arange(last, dtype=np.int64)
        costs = factor_parameters(rows, row, self._pivoted)
        steps = np.zeros(length, dtype=np.int64)
        steps[:last] = np.diff(costs, append=dense)
        return steps

    @property
    def smallest(self) -> int:
        """Parameters of the target layers with no direction kept."""
        return self._floor

    @property
    def break_even(self) -> tuple[int, ...]:
        """Per layer, the first rank at which it is dense."""
        return tuple(self._break_even.tolist())

    @property
    def base_bytes(self) -> int:
        """Bytes of the base model, nothing quantized."""
        targets = self.base_target_parameters * self.footprint.bytes_per_parameter + int(self._wider.sum())
        return targets + self.footprint.other_bytes

    def bytes_of(self, parameters: int) -> int:
        """Bytes of any cut with so many parameters, of another score map too, nothing quantized or wider."""
        return parameters * self.footprint.bytes_per_parameter + self.footprint.extra_bytes

    @property
    def base_target_parameters(self) -> int:
        """Parameters of the target weights before anything is cut."""
        return int(self._dense.sum())

    def at_ratio(self, ratio: float) -> Plan:
        """The smallest cut whose target layers reach `ratio` of their original parameters (within one direction).

        Raises:
            SizeError: not a number in (0, 1], or below what the adapters alone cost.
        """
        wanted = math.ceil(round(check_ratio(ratio) * self.base_target_parameters, 6))
        if wanted < self._floor:
            least, other = self._floor / self.base_target_parameters, self.footprint.other_parameters
            raise SizeError(
                f"No cut of this model has a size ratio of {ratio:g}; it can have {least:.3f} to 1, which are "
                f"{other + self._floor:,} to {other + self.base_target_parameters:,} parameters."
            )
        return self._plan(wanted)

    def at_parameters(self, parameters: int) -> Plan:
        """The cut whose whole model reaches `parameters`.

        Raises:
            SizeError: no number, more than the base model has, or fewer than its parts that are always kept.
        """
        if finite(parameters) is None:
            raise SizeError(f"A size must be a number of parameters or bytes, not {shown(parameters)}.")
        return self._plan(int(parameters) - self.footprint.other_parameters)

    def at_bytes(self, size: int) -> Plan:
        """The cut whose whole model reaches `size` bytes.

        Raises:
            SizeError: as `at_parameters`.
        """
        other, storage = self.footprint.other_bytes, self.footprint.storage
        if finite(size) is None:
            return self.at_parameters(size)
        if storage is None:
            return self._plan(int(size - other - self._wider.sum()) // self.footprint.bytes_per_parameter)
        least, most = self._quantized_bytes
        prefix = int(np.searchsorted(least, size - other, side="right")) - 1
        if prefix < 0 or size > most + other:
            raise SizeError(
                f"No cut of this model has {size / 1e6:.1f} MB at this precision; it can have "
                f"{(least[0] + other) / 1e6:.1f} to {(most + other) / 1e6:.1f} MB."
            )
        return self._at(prefix)

    @cached_property
    def _quantized_bytes(self) -> tuple[np.ndarray, float]:
        """For every cut, the fewest bytes of the target layers at it or any larger one; and the most bytes of any cut.

        The fewest are those of the cut itself except where a larger one takes less, as a layer turned dense may.
        """
        layers = np.arange(len(self._row))
        before = np.concatenate([[0], np.cumsum(self._lengths)])
        steps = np.empty(int(before[-1]))
        for i in layers:
            ranks = np.arange(self._lengths[i] + 1)
            steps[before[i] : before[i + 1]] = np.diff(self._bytes(ranks, np.full(len(ranks), i)))
        in_order = np.empty_like(steps)
        in_order[np.argsort(self._layers, kind="stable")] = steps
        start = self._bytes(np.zeros(len(layers), dtype=np.int64), layers).sum()
        along = np.concatenate([[start], start + np.cumsum(in_order)])
        return np.minimum.accumulate(along[::-1])[::-1], float(along.max())

    def _bytes(self, ranks: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Bytes of quantized layers at these ranks."""
        storage, row = self.footprint.storage, self._row[layers]
        assert storage is not None
        leading = np.minimum(ranks, storage.directions)
        factors = row * ((self._adapters + leading) * storage.leading + (ranks - leading) * storage.rest)
        dense = (ranks >= self._break_even[layers]) & self._reset
        return np.where(dense, self._dense[layers] * storage.dense, factors)

    def _plan(self, wanted: int) -> Plan:
        if wanted > self.base_target_parameters or wanted < self._floor:
            other = self.footprint.other_parameters
            low, high = other + self._floor, other + self.base_target_parameters
            width, extra = self.footprint.bytes_per_parameter, self.footprint.extra_bytes
            megabytes = [(low * width + extra) / 1e6, self.base_bytes / 1e6]
            raise SizeError(
                f"No cut of this model has {other + wanted:,} parameters; it can have {low:,} to {high:,} "
                f"({megabytes[0]:.1f} to {megabytes[1]:.1f} MB)."
            )
        return self._at(int(np.searchsorted(self._cumulative, wanted)))

    def _at(self, prefix: int) -> Plan:
        """The cut that keeps the first `prefix` directions of the order."""
        start = prefix // _STRIDE
        kept_counts = self._counts[start] + np.bincount(
            self._layers[start * _STRIDE : prefix], minlength=len(self._row)
        )
        dense = (kept_counts >= self._break_even) & self._reset
        target = int(self._cumulative[prefix])
        other, width = self.footprint.other_parameters, self.footprint.bytes_per_parameter
        base, other_bytes = self.base_target_parameters, self.footprint.other_bytes
        ranks = tuple(np.where(dense, DENSE, kept_counts).tolist())
        stored = target * width + int(self._wider[dense].sum() + self._pivots[~dense].sum())
        if self.footprint.storage is not None:
            stored = round(self._bytes(kept_counts, np.arange(len(kept_counts))).sum())
        return Plan(ranks, target, base, target + other, base + other, stored + other_bytes, self.base_bytes)
