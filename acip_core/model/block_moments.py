"""Second moments of a model whose decoder blocks stay in their files: measured one block after another.

All windows pass a block before the next one is read, so a block, the sums of its own layers' moments and the windows'
hidden states are in memory, however many blocks there are. For the gradients, the hidden states in front of every block
are written down on the way forth, and the blocks are read again from the last to the first. The numbers are those of
`measure_basis` and `measure_coding_moments`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import nn

from ..progress import Progress, Steps
from ..storage.atomic import reporting_write_errors
from ..storage.scratch import ScratchFolder
from ..storage.verified import read_tensors, save_tensors
from .block_chain import BlockChain
from .coding_moments import GRADIENT_RANK, add_moment, sampled_loss
from .offloading import resident
from .second_moments import GRADIENT, Basis, InputCollector, compress_moment
from .target_layers import TargetLayers, named_layers


def measure_basis_by_block(
    model: Any, windows: torch.Tensor, rank: int, layers: Collection[str], of_inputs: bool = False
) -> Steps[Basis]:
    """`measure_basis`, with one decoder block in memory at a time.

    Raises:
        ModelError: as `measure_basis`, or the model's blocks cannot be run one after another.
    """
    passes, basis = _Passes(model, windows, layers), Basis()
    for block in range(len(passes.chain)):
        collector = InputCollector(passes.layers_of(block), of_inputs)
        try:
            with resident(passes.chain.blocks[block]):
                for done in passes.forth(block):
                    collector.end_of_pass(windows.shape[1])
                    yield passes.progress("second moments", block, done)
                groups = collector.moments()
        finally:
            collector.close()
        for group, side, matrix in groups:
            basis |= dict.fromkeys(group, compress_moment(group, side, matrix, rank))
    return {name: basis[name] for name in layers}


def measure_gradients_by_block(
    model: Any, windows: torch.Tensor, layers: Collection[str], seed: int = 0
) -> Steps[Basis]:
    """The moments of gradients of `measure_coding_moments`, with one decoder block in memory at a time.

    Raises:
        ModelError: as `measure_coding_moments`, or the model's blocks cannot be run one after another.
        StorageError: hidden states cannot be written.
    """
    passes, gradients = _Passes(model, windows, layers), Basis()
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    try:
        with closing(ScratchFolder("states")) as folder:
            for block in range(len(passes.chain)):
                with reporting_write_errors(path := folder.path / f"{block}"):
                    save_tensors({"states": passes.states}, path)
                with resident(passes.chain.blocks[block]):
                    for done in passes.forth(block):
                        yield passes.progress("hidden states", block, done)
            for done in passes.turn(seed):
                yield Progress("gradient moments", done, len(windows), "head")
            for block in reversed(range(len(passes.chain))):
                before = read_tensors(folder.path / f"{block}")[0]["states"]
                sums: dict[str, torch.Tensor] = {}
                with resident(passes.chain.blocks[block]), _adding(passes.layers_of(block), sums):
                    for done in passes.back(block, before):
                        yield passes.progress("gradient moments", len(passes.chain) - 1 - block, done)
                for name in list(sums):
                    total = sums.pop(name) / windows.numel()
                    gradients[name] = compress_moment((name,), GRADIENT, total, GRADIENT_RANK)
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
    return {name: gradients[name] for name in layers}


class _Passes:
    """Windows of text on their way through the blocks.

    Attributes:
        states: (windows, length, width) in front of the next block, later the loss's gradients by them; on the CPU.
    """

    def __init__(self, model: Any, windows: torch.Tensor, layers: Collection[str]):
        self.model, self.windows, self.targets = model, windows, named_layers(model, layers)
        two = windows[:2] if len(windows) > 1 else windows.repeat(2, 1)
        self.chain = BlockChain(model, two.to(model.device))
        self.states = torch.cat([self.chain.inputs(ids[None].to(model.device)).cpu() for ids in windows])

    def layers_of(self, block: int) -> TargetLayers[nn.Linear]:
        inside = f"{self.chain.name}.{block}."
        return TargetLayers(self.model, {n: layer for n, layer in self.targets.items() if n.startswith(inside)})

    def forth(self, block: int) -> Iterator[int]:
        """One window after another passes a block; yields how many have."""
        for index in range(len(self.states)):
            with torch.no_grad():
                state = self.chain.run(block, self._state(self.states, index))
                self.states[index] = state[0].cpu()
            yield index + 1

    def turn(self, seed: int) -> Iterator[int]:
        """The gradients of the loss by what the last block puts out, for labels that the model itself draws."""
        for index, ids in enumerate(self.windows):
            last = self._state(self.states, index).requires_grad_()
            with torch.enable_grad(), self._given(last):
                logits = self.model(ids[None].to(self.model.device), use_cache=False).logits[0].float()
                sampled_loss(logits, seed * 1_000_003 + index)[0].backward()
            self.states[index] = _gradient(last)
            yield index + 1

    def back(self, block: int, before: torch.Tensor) -> Iterator[int]:
        """One window's gradients after another pass a block, whose layers' hooks see theirs.

        Args:
            before: hidden states in front of the block, as `states` was then.
        """
        for index in range(len(self.states)):
            state = self._state(before, index).requires_grad_()
            with torch.enable_grad():
                self.chain.run(block, state).backward(self._state(self.states, index))
            self.states[index] = _gradient(state)
            yield index + 1

    def _state(self, states: torch.Tensor, index: int) -> torch.Tensor:
        """(1, length, width) of one window, a copy."""
        return states[index : index + 1].to(self.model.device, copy=True)

    @contextmanager
    def _given(self, last: torch.Tensor) -> Iterator[None]:
        """The model's blocks do nothing within this, and the last one puts this out."""
        blocks = list(self.chain.blocks)
        before = [vars(block).get("forward") for block in blocks]
        for block in blocks:
            block.forward = lambda *_, **__: (last,) if self.chain.gives_tuples else last
        try:
            yield
        finally:
            for block, forward in zip(blocks, before, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward

    def progress(self, stage: str, done: int, windows: int) -> Progress:
        """How far a stage is, as passes of one window through one block."""
        count = len(self.windows)
        return Progress(stage, done * count + windows, len(self.chain) * count)


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad[0].cpu()


@contextmanager
def _adding(layers: TargetLayers[nn.Linear], sums: dict[str, torch.Tensor]) -> Iterator[None]:
    """Sums of the outer products of the gradients by every layer's output, added up within the block."""

    def watch(name: str):
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda gradient: add_moment(sums, name, gradient))

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
