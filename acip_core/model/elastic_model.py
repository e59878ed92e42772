"""A base model whose target layers are elastic: build it once, then run it at any size.

Takes factors, scores and adapters as given; knows nothing of files, text or pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..progress import Progress, Steps
from ..storage.heap import give_heap_back
from ..storage.mapped import give_pages_back
from ..storage.scratch import ScratchFolder
from .base_model import BaseModel
from .byte_planner import BytePlanner
from .code_cache import CodedModel
from .coded_layers import segments
from .cut import BatchStates, Cut, Ranking
from .factorization import Factors
from .kernels import linear
from .layers import Adapter, ElasticLinear
from .offloading import changing, is_offloaded, keep_on_disk, stored
from .published_types import footprint
from .rank_costs import BytesPerParameter, break_even_rank
from .size_planner import DIRECTIONS, Plan, SizePlanner
from .target_layers import TargetLayers, named_layers
from .trained_factors import FactorUpdate

Scores = Mapping[str, torch.Tensor]  # (r,) per layer, one score per direction, in the order of its factors


@dataclass(frozen=True)
class AdapterWeights:
    """Trained adapter of one layer, `y += x aᵀ bᵀ` (PEFT's scaling already multiplied into b).

    Attributes:
        a: (rank, in_features).
        b: (out_features, rank).
    """

    a: torch.Tensor
    b: torch.Tensor

    @classmethod
    def of(cls, adapter: Adapter) -> AdapterWeights:
        """A copy of an adapter in training."""
        return cls(adapter.a.detach().cpu().clone(), (adapter.b.detach() * adapter.scaling).cpu().clone())


@dataclass(frozen=True)
class Calibration:
    """What predicted losses turned out to be, measured = scale · predicted^power, fitted to a few measured plans.

    Attributes:
        repaired: share of a coded layer's loss that is left with its adapter.
    """

    scale: float = 1.0
    power: float = 1.0
    repaired: float = 1.0

    def __call__(self, loss: float) -> float:
        """The rise that is to be expected where `loss` is predicted, nats per token."""
        return self.scale * loss**self.power if loss > 0 else 0.0


@dataclass(frozen=True)
class CodedStates:
    """What `coded_states.install_codes` put into a model.

    Attributes:
        coded: the codes of every layer and table.
        calibration: for the planners.
        tables: names of the embedding and the head where they have codes, a tied one once.
        exact: bytes of every layer and table where it loses nothing.
    """

    coded: CodedModel
    calibration: Calibration
    tables: tuple[str, ...]
    exact: Mapping[str, int]


@dataclass(frozen=True)
class BatchPlan:
    """The sizes of a batch's sequences, largest first; made by `ElasticModel.batch`."""

    plans: tuple[Plan, ...]
    states: Ranking


class ElasticModel:
    """An ordinary transformers model (`model`) that runs at the size last set.

    Attributes:
        model: the base model with elastic layers; `forward`, `generate`, `to` and `eval` work as ever.
        planner: turns targets into plans that spend directions; touches no weights.
        planners: of every mode that this model has, by what may be spent; those of codes come with `install_codes`.
        coded: what `coded_states.install_codes` put in; None before.
        pivoted: whether ranks cost what pivots and coefficients take, which is what they are exported as.
        cut: the states in force, for layers that are installed later.
        plan: the size in force.
    """

    def __init__(
        self,
        base: BaseModel,
        cut: Cut,
        scores: Scores,
        count_adapters: bool = True,
        reset: bool = True,
        pivoted: bool = False,
    ):
        self.base, self.pivoted = base, pivoted
        self.cut, self._scores, self._count_adapters, self._reset = cut, scores, count_adapters, reset
        base.model.register_forward_pre_hook(cut.hold)
        base.model.register_forward_hook(cut.release, always_call=True)
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, ElasticLinear)}
        self._layers = TargetLayers(self.model, layers)
        self._footprint = footprint(base, self.elastic_layers())
        self.planner = self.planner_for(0)
        self.planners: dict[str, SizePlanner | BytePlanner] = {DIRECTIONS: self.planner}
        self.coded: CodedStates | None = None
        self.plan: Plan | BatchPlan = self.planner.at_ratio(1.0)

    @property
    def adapter_rank(self) -> int:
        """Rank of the adapters that are installed; 0 where none are."""
        return next(iter(self.elastic_layers().values())).adapter_rank

    def planner_for(self, adapter_rank: int, storage: BytesPerParameter | None = None) -> SizePlanner:
        """A planner for this model's scores.

        Args:
            adapter_rank: of the adapters that every factorized layer has.
            storage: of the target layers, where they are quantized.
        """
        shapes = self._layers.shapes
        scores = {name: self._scores[name].numpy() for name in shapes}
        footprint = replace(self._footprint, storage=storage)
        return SizePlanner(shapes, scores, adapter_rank, footprint, self._count_adapters, self._reset, self.pivoted)

    def install(self, adapters: Mapping[str, AdapterWeights]) -> None:
        """Put trained adapters in front of every layer's factors; from now on they count in every size."""
        for name, layer in self.elastic_layers().items():
            with changing(layer):
                layer.prepend_adapter(adapters[name].a, adapters[name].b)
        self.planner = self.planners[DIRECTIONS] = self.planner_for(self.adapter_rank, self.planner.footprint.storage)
        self.apply(self.planner.at_ratio(1.0))

    def update_factors(self, updates: Mapping[str, FactorUpdate]) -> None:
        """Add what training changed to every layer's factors; sizes stay what they are."""
        for name, layer in self.elastic_layers().items():
            with changing(layer):
                layer.update(updates[name].down.matrix(), updates[name].up.matrix())

    def round_factors(self) -> None:
        """Hold the factors in bfloat16, as they are exported, where a model published in it computes in float32.

        A CPU has half of the bytes to read then. What trains them wants them unrounded.
        """
        dtypes = self.base.stored_dtype, self.base.dtype
        on_cpu = self.base.device.type == "cpu" and not is_offloaded(self.model)
        if on_cpu and dtypes == (torch.bfloat16, torch.float32):
            for layer in self.elastic_layers().values():
                layer.store_factors(torch.bfloat16)
                give_pages_back(0.1)

    def store_as(self, storage: BytesPerParameter) -> None:
        """Count the target layers at these bytes from now on."""
        self.planner = self.planners[DIRECTIONS] = self.planner_for(self.adapter_rank, storage)
        self.apply(self.planner.at_ratio(1.0))

    @property
    def model(self) -> PreTrainedModel:
        """The model whose layers were replaced by elastic ones; it runs at the size in force."""
        return self.base.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return self.base.tokenizer

    def batch(self, plans: Sequence[Plan]) -> BatchPlan:
        """A plan by which each sequence of a batch runs at a size of its own, as it would alone.

        Args:
            plans: of the sequences; fastest where those of one planner come together, the largest first.
        """
        layers = [layer.in_batch for layer in self.elastic_layers().values()]
        tables = [segments] * max(len(plan.tables) for plan in plans)
        return BatchPlan(tuple(plans), BatchStates([plan.states for plan in plans], [*layers, *tables]))

    def apply(self, plan: Plan | BatchPlan) -> None:
        """Run at `plan` from now on: one assignment, no weight is touched."""
        self.cut.ranks = plan.states
        self.plan = plan

    def set_size(self, ratio: float) -> Plan:
        """Run at a size ratio in (0, 1] from now on.

        Raises:
            SizeError: no cut has that size.
        """
        plan = self.planner.at_ratio(ratio)
        self.apply(plan)
        return plan

    @contextmanager
    def at(self, plan: Plan | BatchPlan) -> Iterator[None]:
        """Run at `plan` within the block, then at the size before."""
        before = self.plan
        self.apply(plan)
        try:
            yield
        finally:
            self.apply(before)

    @contextmanager
    def on_this_thread(self, plan: Plan | BatchPlan) -> Iterator[None]:
        """Run at `plan` within the block on this thread; all other threads stay at the size in force."""
        with self.cut.on_this_thread(plan.states):
            yield

    def elastic_layers(self) -> TargetLayers[ElasticLinear]:
        """The elastic layers by name, in model order."""
        return self._layers


def build_elastic(
    base: BaseModel,
    factors: Mapping[str, Factors],
    scores: Scores,
    adapters: Mapping[str, AdapterWeights] | None = None,
    count_adapters: bool = True,
    reset: bool = True,
    updates: Mapping[str, FactorUpdate] | None = None,
    pivoted: bool = False,
) -> Steps[ElasticModel]:
    """Replace the target layers of a base model by elastic ones, in place.

    Args:
        factors: singular directions per target layer; the layers of other names stay as they are.
        scores: importance of these directions.
        adapters: trained adapters of one common rank for every target layer, or None.
        count_adapters: False reproduces the paper's size convention.
        updates: what training added to the factors, or None.
        pivoted: count ranks as they are stored by pivots (`rank_costs`).

    Returns:
        The elastic model at size 1.0, where it is the base model bit for bit.
    """
    targets = named_layers(base.model, factors)
    cut, folder = Cut(len(targets)), ScratchFolder("banks") if is_offloaded(base.model) else None
    for index, (name, layer) in enumerate(targets.items()):
        down, up = _bank(stored(layer), factors[name], scores[name], reset, pivoted)
        elastic_layer = ElasticLinear(layer, index, cut, down, up)
        if folder is not None and layer.weight.is_meta:
            keep_on_disk(elastic_layer, layer, folder)
            give_heap_back()
        targets.replace(name, elastic_layer)
        give_pages_back(0.1)  # of factors that were read
        yield Progress("building elastic layers", index + 1, len(targets))
    elastic = ElasticModel(base, cut, scores, count_adapters, reset, pivoted)
    if updates is not None:
        elastic.update_factors(updates)
    if adapters is not None:
        elastic.install(adapters)
    return elastic


def _bank(
    weight: torch.Tensor, factors: Factors, scores: torch.Tensor, reset: bool, pivoted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of both factors in descending order of score, up to break-even where the dense weight takes over there."""
    m, n = weight.shape
    count = min(break_even_rank(m, n, pivoted=pivoted), len(scores)) if reset else len(scores)
    order = scores.argsort(descending=True, stable=True)[:count].to(weight.device)
    up = factors.up[order]  # (K, m)
    down = linear(factors.directions[order], weight.float().t())  # (K, n)
    return down.to(weight.dtype).contiguous(), up.to(weight.dtype).contiguous()
