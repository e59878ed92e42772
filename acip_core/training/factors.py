"""Factor training: every entry of every layer's factors, for all sizes at once, by the full model's predictions alone.

Each step reads a few windows at two sizes, one of the smaller and one of the larger half of the range, and moves the
factors towards the full model's next-token distribution (KL divergence). A size is a prefix of the order all along, so
one set of factors serves every size; the weights that run where a layer is not cut stay untouched, and with them the
model at size 1.0. Nothing is added to a cut's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch.nn import functional as F

from ..errors import ModelError
from ..model.autocast import mixed_precision
from ..model.elastic_model import ElasticModel
from ..model.trained_factors import FactorUpdate
from ..progress import Progress, Steps
from ..storage.digests import digest
from .balanced import BalancedFactors, FactorPair, FactorsInTraining, frozen, updates_of
from .checkpoint import Checkpoint
from .data_parallel import average_gradients, check_batch, mean_numbers, own_share
from .distillation import divergence, one_cycle, window_at

_CHECKPOINT_EVERY = 6  # times as seldom as of adapters: a state is a hundred times as large
_SMALL = 0.02  # nats; two sizes closer to the full model than this pull at the factors alike


@dataclass(frozen=True)
class FactorConfig:
    """How factors are trained.

    Attributes:
        steps: optimization steps.
        batch: windows per step, each read at two sizes.
        learning_rate: peak of a one-cycle cosine schedule, of factors whose rows are as long on both sides.
        smallest, largest: sizes are drawn from this range, one of its lower and one of its upper half.
        sampled: windows of text that the model itself writes and that are read beside the corpora's.
        evenness: a size's gradient is divided by its divergence to this power. At 0 the smallest sizes' own would drown
            the others; at 1 all sizes count by the logarithm of their divergence.
        rounded: whether the factors run as they will be kept, signs and zeros (straight-through gradients).
        seed: fixes the order of windows and the sizes.
    """

    steps: int = 120
    batch: int = 16
    learning_rate: float = 5e-4
    smallest: float = 0.3
    largest: float = 0.97
    sampled: int = 1228
    evenness: float = 0.75
    rounded: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TrainedFactors:
    """Differences by layer, as they are kept, and the divergence at every step (steps, 2), with its size ratios."""

    updates: dict[str, FactorUpdate]
    losses: torch.Tensor
    ratios: torch.Tensor
    settings: FactorConfig


def train_factors(
    elastic: ElasticModel,
    windows: torch.Tensor,
    settings: FactorConfig,
    checkpoint: Path | None = None,
    start: Mapping[str, FactorPair] | None = None,
) -> Steps[TrainedFactors]:
    """Train the factors of an elastic model without adapters; its own stay as they are.

    Every random draw depends on the seed and the step alone, so a run that is killed and continued from its
    checkpoint ends in the same factors as one that was not. Under `accelerate launch` every process reads its share of
    each batch and all end with the same factors.

    Args:
        windows: (windows, length) token ids.
        checkpoint: file written every few minutes and read when it belongs to this very run.
        start: factors to start from, as `train_blocks` leaves them; the model's own by default.

    Returns:
        What training adds to the model's factors, not yet installed, with the history of the run.

    Raises:
        ModelError: the divergence is not finite (the message names the step, the checkpoint keeps the last good state),
            or a batch cannot be split over the processes.
    """
    factors = BalancedFactors(elastic.elastic_layers(), start, rounded=settings.rounded)
    run = FactorRun(elastic, windows, settings, factors)
    yield from run.train("training factors", checkpoint)
    updates = updates_of(factors.layers, factors.factors())
    return TrainedFactors(updates, torch.tensor(run.losses), torch.tensor(run.ratios), settings)


class FactorRun:
    """State of one training run: factors, optimizer, history.

    Args:
        factors: what is trained of the model's factors.
    """

    def __init__(
        self,
        elastic: ElasticModel,
        windows: torch.Tensor,
        settings: FactorConfig,
        factors: FactorsInTraining,
    ):
        check_batch(settings.batch)
        self.elastic, self.windows, self.settings, self.factors = elastic, windows, settings, factors
        self.planner = elastic.planner_for(0)
        self.parameters = factors.parameters
        self.optimizer = factors.adam(settings.learning_rate)
        self.step = 0
        self.losses: list[list[float]] = []
        self.ratios: list[list[float]] = []

    def train(self, stage: str, checkpoint: Path | None) -> Steps[None]:
        """All steps, or those that the checkpoint of such a run has not done.

        Raises:
            ModelError: as `train_factors`.
        """
        store, steps = Checkpoint(checkpoint, self.identity(), _CHECKPOINT_EVERY), self.settings.steps
        if state := store.load(self.parameters, self.optimizer, dict.fromkeys(self.history())):
            self.step, self.losses, self.ratios = state[0], *(state[1][name].tolist() for name in self.history())
        with self.attached():
            while self.step < steps:
                self.advance()
                small, large = torch.tensor(self.losses[-20:]).mean(0).tolist()
                said = f"divergence {small:.3f} at small, {large:.3f} at large sizes"
                yield Progress(stage, self.step, steps, said)
                if PartialState().is_main_process and (self.step == steps or store.due()):
                    store.save(self.step, self.parameters, self.optimizer, self.history())

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The model with the factors in training, its own parameters frozen."""
        with frozen(self.elastic.model), self.factors.attached():
            yield

    def advance(self) -> None:
        """One optimization step."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * one_cycle(self.step, s.steps)
        draws = torch.rand(2, generator=torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)).tolist()
        half = (s.largest - s.smallest) / 2
        plans = [self.planner.at_ratio(s.smallest + half * (place + draw)) for place, draw in enumerate(draws)]
        indices = own_share(range(self.step * s.batch, (self.step + 1) * s.batch))
        ids = torch.stack([self.windows[window_at(index, len(self.windows), s.seed)] for index in indices])
        parts = ids.split(len(ids) if self.elastic.model.device.type == "cuda" else 1)
        losses = [0.0, 0.0]
        self.factors.round()
        for part in parts:
            for place, loss in enumerate(self._backward(part.to(self.elastic.model.device), plans, len(parts))):
                losses[place] += loss / len(parts)
        losses = mean_numbers(losses, self.elastic.model.device)
        if not all(map(math.isfinite, losses)):
            raise ModelError(f"The divergence is not finite at step {self.step + 1}; lower the learning rate.")
        self.factors.pass_gradients()
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(losses)
        self.ratios.append([plan.ratio for plan in plans])

    def _backward(self, ids: torch.Tensor, plans: list, parts: int) -> list[float]:
        """Divergence (nats per token) of windows (windows, length) at each plan, its gradient added up."""
        with torch.no_grad():
            teacher = self._logits(ids, self.planner.at_ratio(1.0))
        found = []
        for plan in plans:
            loss = divergence(teacher, F.log_softmax(self._logits(ids, plan), dim=-1))
            found.append(loss.item())
            if math.isfinite(found[-1]):
                (loss / (parts * (max(found[-1], 0.0) + _SMALL) ** self.settings.evenness)).backward()
        return found

    def _logits(self, ids: torch.Tensor, plan) -> torch.Tensor:
        with mixed_precision(ids.device), self.elastic.at(plan):
            return self.elastic.model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()

    def history(self) -> dict[str, torch.Tensor]:
        """Loss and size ratio of every step."""
        return {"factors.loss": torch.tensor(self.losses), "factors.ratio": torch.tensor(self.ratios)}

    def identity(self) -> str:
        """What makes two runs the same, asked for before the first step: settings, text and where the factors start."""
        smallest = self.planner.at_ratio(self.settings.smallest).states  # tells one order from another
        return digest(asdict(self.settings), str(smallest), self.windows, self.factors.begun_from())
