"""Block training: the factors of one decoder block after another, towards what the full model's block puts out.

In front of a block stand two kinds of hidden states of every window: the full model's, and for two sizes, one of the
smaller and one of the larger half of the range, those of the model cut to it so far. The block, cut to the same size,
learns to turn the second into what the full block makes of the first, and so mends what the blocks before have lost as
well. A batch keeps its two sizes through all blocks, and every batch has its own, so that the cuts of a run lie all
over the order; a size is a prefix of it all along.

Memory: one block at a time has gradients and an optimizer (16 bytes for each entry of its factors); hidden states take
four times windows · length · width numbers, on the CPU unless the accelerator has plenty of room; the trained factors,
4 bytes an entry, wait on the CPU. A 7B model (32 blocks of 0.2 · 10⁹ entries, width 4,096) needs 3.2 GB and a block's
activations beside itself on the accelerator, and on the CPU 4.3 GB for 256 windows of 512 tokens in bfloat16 and 26 GB
for the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from ..errors import ModelError
from ..model.elastic_model import ElasticModel
from ..model.layers import ElasticLinear
from ..progress import Progress, Steps
from ..storage.digests import digest
from ..storage.resumable import ResumableRun
from .balanced import BalancedFactors, FactorPair, frozen
from .block_states import Batch, BlockStates
from .checkpoint import Checkpoint
from .data_parallel import average_gradients, check_batch, mean_numbers
from .distillation import one_cycle, window_at

_TINY = 1e-8  # of a squared relative error: a block that loses nothing at a size has no direction to go


@dataclass(frozen=True)
class BlockConfig:
    """How factors are trained block by block.

    Attributes:
        steps: optimization steps for each block.
        batch: windows per step, each read at two sizes.
        windows: windows that are read, all of them by every block.
        learning_rate: peak of a one-cycle cosine schedule, of factors whose rows are as long on both sides.
        smallest, largest: sizes are drawn from this range, one of its lower and one of its upper half.
        seed: fixes the choice and order of windows and the sizes.
    """

    steps: int = 64
    batch: int = 16
    windows: int = 256
    learning_rate: float = 1e-3
    smallest: float = 0.3
    largest: float = 0.97
    seed: int = 0


@dataclass(frozen=True)
class TrainedBlocks:
    """Factors of every layer, on the CPU.

    Attributes:
        errors: relative errors at the two sizes of each step, (blocks that have target layers, steps, 2).
    """

    factors: dict[str, FactorPair]
    errors: torch.Tensor


def train_blocks(
    elastic: ElasticModel, windows: torch.Tensor, settings: BlockConfig, resumable: ResumableRun = ResumableRun(None)
) -> Steps[TrainedBlocks]:
    """Train the factors of an elastic model without adapters, one block after another; its own stay as they are.

    Every random draw depends on the seed and the step alone; a run that is killed goes on within the block where it was
    and ends in the same factors. Under `accelerate launch` every process reads, and holds, its share of each batch.

    Args:
        windows: (windows, length) token ids.
        resumable: where the factors of every block are kept; one place for all processes.

    Raises:
        ModelError: an error is not finite (the message names block and step), a batch cannot be split over the
            processes, or the model's blocks cannot be run one after another.
    """
    check_batch(settings.batch)
    run = BlockRun(elastic, windows, settings)
    kept = resumable.part("blocks", run.identity())
    factors: dict[str, FactorPair] = {}
    errors = [torch.empty(0, settings.steps, 2)]
    with frozen(elastic.model):
        yield from run.passing(0, run.states.begin())
        for block in range(len(run.states.chain)):
            yield from run.passing(block, run.states.aim(block))
            if layers := run.layers_of(block):
                state = kept.path(f"state-{block}.safetensors")
                found = yield from kept.tensors(f"block-{block}", run.trained(block, state))
                if state is not None:
                    state.unlink(missing_ok=True)
                errors.append(found["errors"][None])
                factors |= {name: (found[f"{name}.down"], found[f"{name}.up"]) for name in layers}
            with BalancedFactors(layers, factors).attached():
                yield from run.passing(block, run.states.move(block))
    return TrainedBlocks(factors, torch.cat(errors))


class BlockRun:
    """The blocks of one run, each trained in turn on the hidden states in front of it."""

    def __init__(self, elastic: ElasticModel, windows: torch.Tensor, settings: BlockConfig):
        self.elastic, self.windows, self.settings = elastic, windows, settings
        sizes = settings.smallest, settings.largest
        self.states = BlockStates(elastic, windows, settings.batch, settings.windows, sizes, settings.seed)

    def passing(self, block: int, batches: Iterator[None]) -> Steps[None]:
        """Hidden states of one batch after another pass a block."""
        for _ in batches:
            yield self._progress(block, 0, "hidden states")

    def layers_of(self, block: int) -> dict[str, ElasticLinear]:
        """The elastic layers of a block by name."""
        inside = f"{self.states.chain.name}.{block}."
        return {name: layer for name, layer in self.elastic.elastic_layers().items() if name.startswith(inside)}

    def trained(self, block: int, checkpoint: Path | None) -> Steps[dict[str, torch.Tensor]]:
        """A block's factors after its steps, on the CPU, by layer and side, and the relative errors on the way."""
        steps, factors = self.settings.steps, BalancedFactors(self.layers_of(block))
        optimizer = factors.adam(self.settings.learning_rate)
        store = Checkpoint(checkpoint, f"block {block}")  # its folder is that of this very run
        errors: list[list[float]] = []
        if state := store.load(factors.parameters, optimizer, {"errors": None}):
            errors = state[1]["errors"].tolist()
        with factors.attached():
            while len(errors) < steps:
                errors.append(self._advance(block, len(errors), factors.parameters, optimizer))
                if PartialState().is_main_process and store.due():
                    store.save(len(errors), factors.parameters, optimizer, {"errors": torch.tensor(errors)})
                small, large = torch.tensor(errors[-len(self.states.batches) :]).mean(0).tolist()
                said = f"error {small:.1%} at small, {large:.1%} at large sizes"
                yield self._progress(block, len(errors), said)
        result = {"errors": torch.tensor(errors)}
        for name, (down, up) in factors.factors().items():
            result |= {f"{name}.down": down.cpu(), f"{name}.up": up.cpu()}
        return result

    def _advance(
        self, block: int, step: int, parameters: list[torch.Tensor], optimizer: torch.optim.Optimizer
    ) -> list[float]:
        """One optimization step of a block; its relative errors."""
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * one_cycle(step, self.settings.steps)
        batches = self.states.batches
        errors = self._backward(block, batches[window_at(step, len(batches), self.settings.seed)])
        if not all(map(math.isfinite, errors)):
            raise ModelError(
                f"The error of block {block + 1} is not finite at step {step + 1}; lower the learning rate."
            )
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return errors

    def _backward(self, block: int, batch: Batch) -> list[float]:
        """Relative error at a batch's sizes, the mean over its sequences; its gradient is added up."""
        errors = [0.0, 0.0]
        rows = len(batch.ids)
        for side, (cut, plan) in enumerate(zip(batch.cuts, batch.plans, strict=True)):
            for hidden, target in zip(cut.split(self.states.part), batch.target.split(self.states.part), strict=True):
                output = self.states.outputs(block, hidden, plan)
                error = relative_error(output, target.to(output.device)).sum() / rows
                errors[side] += error.item()
                if error.requires_grad and math.isfinite(errors[side]):  # not where all of the block is dense
                    error.backward()
        return mean_numbers(errors, self.states.device)

    def _progress(self, block: int, done: int, said: str) -> Progress:
        blocks, steps = len(self.states.chain), self.settings.steps
        return Progress("training blocks", block * steps + done, blocks * steps, f"block {block + 1}: {said}")

    def identity(self) -> str:
        """What makes two runs the same: settings, text and the factors they start from."""
        factors = (layer.up[:, :8].float() for layer in self.elastic.elastic_layers().values())
        plans = [str(plan.states) for batch in self.states.batches for plan in batch.plans]
        return digest(asdict(self.settings), plans, self.windows, factors)


def relative_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(sequences,) root of the mean squared difference, each token's relative to its target's length.

    A few tokens, such as the first, have states a thousand times as long as others.
    """
    difference = (output.float() - target.float()).square().sum(-1)
    return (difference / target.float().square().sum(-1).clamp_min(1e-20)).mean(-1).add(_TINY).sqrt()
