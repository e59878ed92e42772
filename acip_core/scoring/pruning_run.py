"""One pruning run of ACIP: masks, adapters and optimizer, step by step until the size is reached; resumable."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import torch
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from ..errors import ModelError
from ..model import autocast
from ..model.autocast import mixed_precision
from ..model.base_model import BaseModel
from ..model.elastic_model import AdapterWeights
from ..model.factorization import Factors
from ..model.layers import Adapter
from ..model.target_layers import named_layers
from ..progress import Progress
from ..storage.digests import digest
from ..training.checkpoint import Checkpoint
from ..training.data_parallel import average_gradients, mean_numbers, mean_over_processes, own_share
from ..training.distillation import distilled_loss, window_at
from .mask_parameters import Masks, initial_masks, sampled_directions
from .masked import MaskedLinear, swapped_modules
from .pruning_config import PruningConfig

log = logging.getLogger("acip")
_LOOK_BACK = 20  # steps over which the speed of the masks is measured for the estimate of the time left


class PruningRun:
    """State of one pruning run: masks, adapters, optimizer, history."""

    def __init__(
        self,
        base: BaseModel,
        factors: Mapping[str, Factors],
        windows: torch.Tensor,
        settings: PruningConfig,
        warm: Mapping[str, torch.Tensor] | None,
        state: PartialState,
    ):
        self.model, self.factors = base.model, factors
        self.windows, self.settings, self.process = windows, settings, state
        self.targets = named_layers(base.model, factors)
        generator = torch.Generator().manual_seed(settings.seed)
        scaling = settings.alpha / settings.rank
        self.adapters = {
            name: Adapter(layer, settings.rank, scaling, generator) for name, layer in self.targets.items()
        }
        shapes = list(self.targets.shapes.values())
        self.initial = initial_masks(settings, sum(min(shape) for shape in shapes), _flat(warm, self.targets))
        self.masks = Masks(shapes, self.initial.to(self.model.device))
        excluded = torch.tensor([name.rpartition(".")[2] in settings.exclude for name in self.targets])
        self.prunable = ~excluded.to(self.model.device)[self.masks.layer]
        adapter_parameters = [p for adapter in self.adapters.values() for p in (adapter.a, adapter.b)]
        self.parameters = [self.masks.values, *adapter_parameters]
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.masks.values], "lr": settings.mask_learning_rate},
                {"params": adapter_parameters, "lr": settings.adapter_learning_rate},
            ]
        )
        self.sample = sampled_directions(self.masks.slices)
        self.step = 0
        self.mixed = settings.mixed_precision and autocast.mixed_precision_is_native(self.model.device)
        self.stopped_at: int | None = None
        self.sizes: list[float] = []
        self.losses: list[float] = []
        self.trajectories: list[torch.Tensor] = []
        self.shed_at = [0] * len(self.targets)  # step after which a layer's working factors were last copied
        self.micro_batch = min(settings.micro_batch, settings.batch // state.num_processes)
        self.layers: list[MaskedLinear] = []
        self._stride = max(1, len(self.initial) // 10_000)
        self._recent: list[tuple[float, torch.Tensor]] = []  # times and some of the masks after the last steps

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The model with masked layers in place of its target layers, its own parameters frozen."""
        model, was_training = self.model, self.model.training
        try:
            with swapped_modules(model, self.factors, self._masked) as self.layers:
                if self.settings.checkpointing:
                    model.gradient_checkpointing_enable({"use_reentrant": False})
                    model.train()
                yield
        finally:
            if self.settings.checkpointing:
                model.gradient_checkpointing_disable()
                model.train(was_training)

    def _masked(self, name: str, layer: nn.Linear) -> MaskedLinear:
        """A layer with the working factors that it had after the last step, in a resumed run too."""
        index = list(self.targets).index(name)
        dtype = torch.bfloat16 if self.mixed else layer.weight.dtype
        up = self.factors[name].up
        down = self.factors[name].down(layer.weight.detach().float())
        pruned_at = self.masks.pruned_at[self.masks.slices[index]]
        left = ((pruned_at < 0) | (pruned_at > self.shed_at[index])).nonzero().squeeze(1)
        masked = MaskedLinear(layer, down.to(dtype), up.to(dtype), left, self.adapters[name], self.settings.dropout)
        if (pruned_at > self.shed_at[index]).any():
            masked.mask = (pruned_at[left] < 0).to(dtype)
        return masked

    def finished(self) -> bool:
        """Whether the stop was reached and the steps behind it are done."""
        return self.stopped_at is not None and self.step >= self.stopped_at + self.settings.post_steps

    def advance(self) -> None:
        """One optimization step and, until the stop, its pruning."""
        if self.stopped_at is None and self.step >= self.settings.max_steps:
            raise ModelError(
                f"Pruning has reached a size ratio of {self.masks.size:.2f} after {self.step} steps, not "
                f"{self.settings.stop_ratio}; raise the penalty's growth, the mask learning rate or the step limit."
            )
        loss, gradient = self._gradients()
        penalty = self.settings.penalty_at(self.step)
        values = self.masks.values
        if self.stopped_at is None:
            left = (self.masks.pruned_at < 0) & self.prunable
            before = values.detach().clone()
            values.grad = (gradient + penalty) * left
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.stopped_at is None:
            values.data = torch.where(left, values.data, before)  # Adam's momentum would move them on
            for index in self.masks.prune(self.step):
                self._shed(index)
            if self.masks.size <= self.settings.stop_ratio:
                self.stopped_at = self.step
        self.losses.append(loss)
        self.sizes.append(self.masks.size)
        self.trajectories.append(values.detach()[self.sample].cpu())

    def _shed(self, index: int) -> None:
        if self.layers[index].prune(self.masks.pruned_at[self.masks.slices[index]] >= 0):
            self.shed_at[index] = self.step

    def _gradients(self) -> tuple[float, torch.Tensor]:
        """Fill the adapters' gradients from this step's batch; returns its mean loss and the gradient of the masks."""
        s = self.settings
        chosen = [window_at(self.step * s.batch + i, len(self.windows), s.seed) for i in range(s.batch)]
        share = own_share(chosen)
        while True:
            try:
                loss = self._accumulate(share)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self.micro_batch == 1:
                    raise ModelError(
                        f"Memory does not hold one window of {self.windows.shape[1]} tokens; use shorter windows or "
                        "gradient checkpointing."
                    ) from error
                self.micro_batch = max(1, self.micro_batch // 2)
                log.warning("Out of memory; continuing with %d windows per backward pass.", self.micro_batch)
        gradient = torch.zeros_like(self.masks.values)
        for layer, part in zip(self.layers, self.masks.slices, strict=True):
            gradient[part][layer.left] = layer.gradient
        gradient = mean_over_processes(gradient)
        average_gradients(self.parameters[1:])
        (loss,) = mean_numbers([loss], self.model.device)
        if not math.isfinite(loss):
            raise ModelError(
                f"The loss is not finite at step {self.step + 1}, calibration windows {sorted(chosen)}; lower the "
                "learning rates or look at these windows."
            )
        return loss, gradient

    def _accumulate(self, share: Sequence[int]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.layers:
            layer.gradient.zero_()
        total = 0.0
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed((self.settings.seed * 1_000_003 + self.step) * 97 + self.process.process_index)
            for start in range(0, len(share), self.micro_batch):
                part = share[start : start + self.micro_batch]
                loss = self._loss(self.windows[part].to(device)) * (len(part) / len(share))
                loss.backward()
                total += loss.item()
        return total

    def _loss(self, ids: torch.Tensor) -> torch.Tensor:
        teacher = None
        if self.settings.distillation > 0:
            with torch.no_grad(), self._dense():
                teacher = self._logits(ids)
        logits = self._logits(ids)
        return distilled_loss(logits, ids[:, 1:].flatten(), teacher, self.settings.distillation)

    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        with mixed_precision(self.model.device) if self.mixed else nullcontext():
            return self.model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()

    @contextmanager
    def _dense(self) -> Iterator[None]:
        for layer in self.layers:
            layer.dense = True
        try:
            yield
        finally:
            for layer in self.layers:
                layer.dense = False

    def progress(self) -> Progress:
        """Share of the way to the stop, then of the post-tuning, in permille, with an estimate of the time left."""
        s = self.settings
        self._recent.append((time.monotonic(), self.masks.values.detach()[:: self._stride].clone()))
        del self._recent[:-_LOOK_BACK]
        rate = (len(self._recent) - 1) / max(1e-9, self._recent[-1][0] - self._recent[0][0])
        note = f"size {self.masks.size:.1%}, loss {self.losses[-1]:.3f}, λ {s.penalty_at(self.step):.2e}, {rate:.2f}/s"
        if self.stopped_at is not None:
            return Progress("adapters alone", self.step - self.stopped_at, s.post_steps, note)
        if rate > 0:
            note += f", about {self._steps_left() / rate / 60:.0f} min to the stop"
        way = (1 - self.masks.size) / (1 - s.stop_ratio)
        return Progress("pruning", min(1000, round(1000 * way)), 1000, note)

    def _steps_left(self) -> float:
        """Estimated steps to the stop, if the masks move on as fast as in the last steps."""
        (_, then), (_, now) = self._recent[0], self._recent[-1]
        arrival = now.clamp_min(0) / ((then - now) / (len(self._recent) - 1)).clamp_min(1e-9)
        needed = math.ceil(self.masks.share_to_prune(self.settings.stop_ratio) * len(now))
        return arrival.kthvalue(min(max(needed, 1), len(now))).values.item()

    def scores(self) -> dict[str, torch.Tensor]:
        """For each layer (directions,), comparable between layers; what cannot be pruned stands above all."""
        flat = self.masks.scores(self.stopped_at if self.stopped_at is not None else self.step)
        flat[~self.prunable.cpu()] = flat.max() + 1
        return {name: flat[part].clone() for name, part in zip(self.targets, self.masks.slices, strict=True)}

    def weights(self) -> dict[str, AdapterWeights]:
        """The adapters as trained so far, by layer."""
        return {name: AdapterWeights.of(adapter) for name, adapter in self.adapters.items()}

    def history(self) -> dict[str, torch.Tensor]:
        """What the artifact shows of the run: a value for each step, and the masks of a sample of directions."""
        starts = torch.tensor([part.start for part in self.masks.slices])
        layer = self.masks.layer.cpu()[self.sample]
        by_name = {name: place for place, name in enumerate(sorted(self.targets))}
        return {
            "size": torch.tensor(self.sizes),
            "loss": torch.tensor(self.losses),
            "lambda": torch.tensor([self.settings.penalty_at(step) for step in range(self.step)]),
            "trajectories": torch.stack(self.trajectories),
            "sample": torch.stack([layer, self.sample - starts[layer]], 1),
            "places": torch.tensor([by_name[name] for name in self.targets]),
        }

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds besides parameters and optimizer; `resume` reads it."""
        return {
            "sizes": torch.tensor(self.sizes, dtype=torch.float64),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "trajectories": torch.stack(self.trajectories),
            "pruned_at": self.masks.pruned_at,
            "shed_at": torch.tensor(self.shed_at),
            "stopped_at": torch.tensor([-1 if self.stopped_at is None else self.stopped_at]),
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue where the checkpoint was written; a missing one, or that of another run, changes nothing."""
        lengths = {"sizes": None, "losses": None, "trajectories": None, "stopped_at": 1}
        lengths |= {"pruned_at": len(self.masks.values), "shed_at": len(self.targets)}
        loaded = checkpoint.load(self.parameters, self.optimizer, lengths)
        if loaded is None:
            return
        self.step, state = loaded
        self.sizes, self.losses = state["sizes"].tolist(), state["losses"].tolist()
        self.trajectories = list(state["trajectories"].unbind())
        self.masks.restore(state["pruned_at"])
        self.shed_at = state["shed_at"].tolist()
        stopped = int(state["stopped_at"])
        self.stopped_at = None if stopped < 0 else stopped

    def identity(self) -> str:
        """What makes two runs the same: settings, text, factors and where the masks start."""
        directions = (factors.directions[:, :8] for factors in self.factors.values())
        return digest(asdict(self.settings), self.windows, directions, self.initial)


def _flat(scores: Mapping[str, torch.Tensor] | None, layers: Mapping[str, nn.Module]) -> torch.Tensor | None:
    return None if scores is None else torch.cat([scores[name].cpu() for name in layers])
