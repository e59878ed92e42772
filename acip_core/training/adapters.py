"""Adapters for all sizes: one set of low-rank updates trained while the model's size changes at every step.

The score map is fixed; each step draws a size and a window of text and moves the adapters towards what the full
model says there: a mixture of distillation (KL divergence from the full model's next-token distribution) and the
text's own likelihood. The full model is the same model at size 1.0, so nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from ..errors import ModelError
from ..model import autocast
from ..model.autocast import mixed_precision
from ..model.byte_planner import BytePlanner
from ..model.elastic_model import AdapterWeights, ElasticModel
from ..model.layers import Adapter
from ..model.size_planner import Plan, SizePlanner
from ..progress import Progress, Steps
from ..storage.digests import digest
from .checkpoint import Checkpoint
from .data_parallel import average_gradients, evenly_shared, mean_numbers
from .distillation import distilled_loss, one_cycle, window_at
from .sharding import sharded


@dataclass(frozen=True)
class AdapterConfig:
    """How adapters are trained; the defaults were chosen on the validation split (benchmarks/LOG.md).

    Attributes:
        rank: LoRA rank r.
        alpha: LoRA α; an adapter's output is scaled by α / r.
        steps: optimization steps.
        batch: windows per step, each at a size of its own.
        learning_rate: peak of a one-cycle cosine schedule.
        smallest, largest: sizes are drawn uniformly from this range.
        distillation: weight of the KL divergence; the text's likelihood has the rest.
        seed: fixes initial values, order of windows and sizes.
    """

    rank: int = 16
    alpha: int = 32
    steps: int = 1200
    batch: int = 1
    learning_rate: float = 2e-3
    smallest: float = 0.3
    largest: float = 0.95
    distillation: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class TrainedAdapters:
    """Adapters by layer and the loss at every step (steps,), with the size ratio it was measured at (steps,)."""

    weights: dict[str, AdapterWeights]
    losses: torch.Tensor
    ratios: torch.Tensor


def train_adapters(
    elastic: ElasticModel,
    windows: torch.Tensor,
    settings: AdapterConfig,
    checkpoint: Path | None = None,
    start: Mapping[str, AdapterWeights] | None = None,
    planner: SizePlanner | BytePlanner | None = None,
) -> Steps[TrainedAdapters]:
    """Train one adapter per target layer for all sizes of a range at once.

    Every random draw depends on the seed and the step alone, so a run that is killed and continued from its
    checkpoint ends in the same adapters as one that was not.

    Args:
        elastic: the model without adapters.
        windows: (windows, length) calibration token ids.
        checkpoint: file written every 45 s and read when it belongs to this very run.
        start: adapters of this rank to continue from; fresh ones otherwise.
        planner: of the sizes that are drawn; by default of those that spend directions.

    Returns:
        The adapters, not yet installed, with the history of the run.

    Raises:
        ModelError: the loss is not finite; the message names the step, the checkpoint keeps the last good state.

    Under `accelerate launch` every process reads its share of each batch, if there is an even one, and all end with the
    same adapters; with FSDP in its configuration, the model is divided over them meanwhile.
    """
    run = AdapterRun(elastic, windows, settings, start or {}, planner)
    store = Checkpoint(checkpoint, run.identity())
    if state := store.load(run.parameters, run.optimizer, dict.fromkeys(run.history())):
        run.step, run.losses, run.ratios = state[0], *(state[1][name].tolist() for name in run.history())
    with run.adapters_attached(), sharded(elastic.model, run.parameters):
        while run.step < settings.steps:
            loss = run.advance()
            recent = torch.tensor(run.losses[-50:]).mean()
            stage = "refining adapters" if start else "training adapters"
            yield Progress(stage, run.step, settings.steps, f"loss {loss:.3f} (mean of 50: {recent:.3f})")
            if PartialState().is_main_process and (run.step == settings.steps or store.due()):
                store.save(run.step, run.parameters, run.optimizer, run.history())
    return TrainedAdapters(run.weights(), torch.tensor(run.losses), torch.tensor(run.ratios))


def averaged(
    before: Mapping[str, AdapterWeights], after: Mapping[str, AdapterWeights], share: float
) -> dict[str, AdapterWeights]:
    """The mean of two adapters' matrices; `share` weighs the second, which was trained on from the first.

    It keeps most of what either is better at (weight averaging, arXiv 2109.01903).
    """
    return {
        name: AdapterWeights(torch.lerp(old.a, after[name].a, share), torch.lerp(old.b, after[name].b, share))
        for name, old in before.items()
    }


class AdapterRun:
    """State of one training run: adapters, optimizer, history."""

    def __init__(
        self,
        elastic: ElasticModel,
        windows: torch.Tensor,
        settings: AdapterConfig,
        start: Mapping[str, AdapterWeights],
        planner: SizePlanner | BytePlanner | None = None,
    ):
        self.elastic, self.windows, self.settings = elastic, windows, settings
        self.layers = elastic.elastic_layers()
        self.planner = planner if planner is not None else elastic.planner_for(settings.rank)
        generator = torch.Generator().manual_seed(settings.seed)
        scaling = settings.alpha / settings.rank
        self.adapters = {name: Adapter(layer, settings.rank, scaling, generator) for name, layer in self.layers.items()}
        self.continues = bool(start)
        for name, weights in start.items():
            self.adapters[name].a.data.copy_(weights.a)
            self.adapters[name].b.data.copy_(weights.b / scaling)
        self.parameters = [p for adapter in self.adapters.values() for p in (adapter.a, adapter.b)]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, betas=(0.9, 0.98))
        self.step = 0
        self.losses: list[float] = []
        self.ratios: list[float] = []

    @contextmanager
    def adapters_attached(self) -> Iterator[None]:
        """Meanwhile the layers run with the adapters, which alone are trained; all is put back afterwards."""
        model = self.elastic.model
        trainable = {p: p.requires_grad for p in model.parameters()}
        model.requires_grad_(False)
        exact = {name: (layer.weight.data, layer.down, layer.up) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.adapter = self.adapters[name]
            if autocast.mixed_precision_is_native(model.device):  # once, not at every step as autocast would
                layer.weight.data, layer.down, layer.up = (t.bfloat16() for t in exact[name])
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                layer.adapter = None
                layer.weight.data, layer.down, layer.up = exact[name]
            for parameter, flag in trainable.items():
                parameter.requires_grad_(flag)

    def advance(self) -> float:
        """One optimization step; returns its loss in nats per token."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * one_cycle(self.step, self.settings.steps)
        losses, ratios = [], []
        share = evenly_shared(range(self.step * self.settings.batch, (self.step + 1) * self.settings.batch))
        for index in share:
            window, plan = self._draw(index)
            loss = self._loss(window[None].to(self.elastic.model.device), plan)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"The loss is not finite at step {self.step + 1} (size {plan.ratio:.2f}); lower the learning rate."
                )
            (loss / len(share)).backward()
            losses.append(loss.item())
            ratios.append(plan.ratio)
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        means = [sum(losses) / len(losses), sum(ratios) / len(ratios)]
        loss_of_all, ratio_of_all = mean_numbers(means, self.elastic.model.device)
        self.losses.append(loss_of_all)
        self.ratios.append(ratio_of_all)
        return self.losses[-1]

    def _draw(self, index: int) -> tuple[torch.Tensor, Plan]:
        """The `index`-th window and its size: a new order of the windows each epoch, sizes uniform."""
        s = self.settings
        draw = torch.rand((), generator=torch.Generator().manual_seed(s.seed * 1_000_003 + index)).item()
        window = self.windows[window_at(index, len(self.windows), s.seed)]
        return window, self.planner.at_ratio(s.smallest + (s.largest - s.smallest) * draw)

    def _loss(self, ids: torch.Tensor, plan: Plan) -> torch.Tensor:
        model, weight = self.elastic.model, self.settings.distillation
        teacher = None
        if weight > 0:
            with torch.no_grad(), mixed_precision(model.device), self.elastic.at(self.planner.at_ratio(1.0)):
                teacher = model(ids, use_cache=False).logits[0, :-1].float()  # (tokens, vocabulary)
        with mixed_precision(model.device), self.elastic.at(plan):
            logits = model(ids, use_cache=False).logits[0, :-1].float()
        return distilled_loss(logits, ids[0, 1:], teacher, weight)

    def history(self) -> dict[str, torch.Tensor]:
        """Loss and size ratio of every step."""
        return {"losses": torch.tensor(self.losses), "ratios": torch.tensor(self.ratios)}

    def weights(self) -> dict[str, AdapterWeights]:
        """The adapters as trained so far, by layer."""
        return {name: AdapterWeights.of(adapter) for name, adapter in self.adapters.items()}

    def identity(self) -> str:
        """What makes two runs the same: settings, text and the frozen factors they train against.

        The factors are taken in bfloat16, which is all that is left of them while adapters are attached.
        """
        start = self.parameters if self.continues else []
        factors = (layer.up[:, :8].bfloat16().float() for layer in self.layers.values())
        smallest = self.planner.at_ratio(self.settings.smallest).states  # tells one order from another
        return digest(asdict(self.settings), str(smallest), self.windows, *start, factors)
