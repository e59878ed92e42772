"""Hidden states of text between two decoder blocks: the full model's, and those of the model cut to two sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..model.autocast import mixed_precision
from ..model.block_chain import BlockChain
from ..model.elastic_model import ElasticModel
from ..model.size_planner import Plan
from .data_parallel import own_share
from .distillation import window_at

_PLENTY = 8  # free memory of an accelerator by that of all hidden states, from which on they stay there
_NOTHING = torch.empty(0)


@dataclass
class Batch:
    """This process's share of one batch.

    Attributes:
        ids: (sequences, length).
        plans: its two sizes, the smaller first.
        full: hidden states of the full model in front of a block, (sequences, length, width) as all of them.
        target: what the full block makes of them.
        cuts: those of the model cut to either size.
    """

    ids: torch.Tensor
    plans: tuple[Plan, Plan]
    full: torch.Tensor = _NOTHING
    target: torch.Tensor = _NOTHING
    cuts: tuple[torch.Tensor, torch.Tensor] = (_NOTHING, _NOTHING)


class BlockStates:
    """The batches of a run, moved through the model one block at a time.

    Args:
        windows: (windows, length) token ids.
        batch, count: windows of a batch, and of all.
        sizes: smallest and largest; every batch has one of the lower and one of the upper half, spread evenly.
        seed: fixes which windows and which sizes.

    Attributes:
        chain: the model's blocks.
    """

    def __init__(
        self,
        elastic: ElasticModel,
        windows: torch.Tensor,
        batch: int,
        count: int,
        sizes: tuple[float, float],
        seed: int,
    ):
        self.elastic, self.device = elastic, elastic.model.device
        planner, total = elastic.planner_for(0), max(1, min(count, len(windows)) // batch)
        self.dense, half = planner.at_ratio(1.0), (sizes[1] - sizes[0]) / 2
        places = _spread(2, total, seed)
        self.batches = []
        for index, (small, large) in enumerate(places):
            drawn = own_share([window_at(index * batch + i, len(windows), seed) for i in range(batch)])
            plans = planner.at_ratio(sizes[0] + half * small), planner.at_ratio(sizes[0] + half * (1 + large))
            self.batches.append(Batch(windows[drawn], plans))
        self.part = len(self.batches[0].ids) if self.device.type == "cuda" else 1  # sequences read at once
        with elastic.on_this_thread(self.dense), mixed_precision(self.device):
            self.chain = BlockChain(elastic.model, windows[[0, -1]].to(self.device))
            self.chain.record(self.batches[0].ids[: self.part].to(self.device))

    def begin(self) -> Iterator[None]:
        """Go in front of the first block, which reads the same at every size; yields after each batch."""
        for index, batch in enumerate(self.batches):
            with self.elastic.on_this_thread(self.dense), mixed_precision(self.device):
                parts = [self.chain.inputs(ids.to(self.device)) for ids in batch.ids.split(self.part)]
            if index == 0:
                self.home = self._home(parts[0])
            batch.full = torch.cat([part.to(self.home) for part in parts])
            batch.cuts = batch.full, batch.full
            yield

    def aim(self, block: int) -> Iterator[None]:
        """Compute every batch's target of a block."""
        for batch in self.batches:
            batch.target = self._moved(block, batch.full, self.dense)
            yield

    def move(self, block: int) -> Iterator[None]:
        """Go behind a block, which runs the factors that are attached."""
        for batch in self.batches:
            small, large = (self._moved(block, h, plan) for h, plan in zip(batch.cuts, batch.plans, strict=True))
            batch.full, batch.target, batch.cuts = batch.target, _NOTHING, (small, large)
            yield

    def outputs(self, block: int, hidden: torch.Tensor, plan: Plan) -> torch.Tensor:
        """What a block makes of hidden states (≤ part, length, width) at a size, on the device."""
        with self.elastic.on_this_thread(plan), mixed_precision(self.device):
            return self.chain.run(block, hidden.to(self.device))

    @torch.no_grad()
    def _moved(self, block: int, hidden: torch.Tensor, plan: Plan) -> torch.Tensor:
        return torch.cat([self.outputs(block, part, plan).to(self.home) for part in hidden.split(self.part)])

    def _home(self, part: torch.Tensor) -> torch.device:
        """Where hidden states are kept: on the device if it has plenty of room for them."""
        if self.device.type != "cuda":
            return self.device
        sequences = sum(len(batch.ids) for batch in self.batches)
        needed = 4 * part[0].nbytes * sequences
        return self.device if torch.cuda.mem_get_info(self.device)[0] > _PLENTY * needed else torch.device("cpu")


def _spread(sides: int, count: int, seed: int) -> list[list[float]]:
    """(count, sides) numbers in [0, 1), of every side one in each of `count` equal parts, in random order."""
    source = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(count, generator=source) + torch.rand(count, generator=source) for _ in range(sides)]
    return (torch.stack(drawn, 1) / count).tolist()
