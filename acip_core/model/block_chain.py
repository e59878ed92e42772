"""The decoder blocks of a model, run one at a time on hidden states that are kept between them.

What a block needs besides hidden states (masks, position embeddings) depends on a batch's shape alone; it is recorded
while the model itself runs once, so nothing here knows of a family.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from .target_layers import decoder_blocks


class _Reached(Exception):
    """The first block was reached: its hidden states are all that was wanted of the pass."""


class BlockChain:
    """Decoder blocks that can be called on their own, in order.

    Args:
        model: a transformers decoder.
        ids: (2, length), two windows of text that tell whether the blocks read hidden states alone.

    Attributes:
        name: of the list of blocks, the beginning of their layers' names.
        gives_tuples: whether hidden states are the first of several things that a block puts out.

    Raises:
        ModelError: the model does more between its blocks than to hand hidden states on.
    """

    def __init__(self, model: Any, ids: torch.Tensor):
        self.model = model
        self.name, self.blocks = decoder_blocks(model)
        self.gives_tuples = False
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._check(ids)

    def __len__(self) -> int:
        return len(self.blocks)

    @torch.no_grad()
    def inputs(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (sequences, length, width) that the first block reads for token ids (sequences, length)."""
        found: list[torch.Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        handle = self.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.model(ids, use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]

    def run(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states behind block `index` for those before it, (sequences, length, width) as `record` was given."""
        args, kwargs = self._calls[len(hidden)][index]
        output = self.blocks[index](hidden, *args, **kwargs)
        self.gives_tuples = isinstance(output, tuple)
        return output[0] if self.gives_tuples else output

    @torch.no_grad()
    def record(self, ids: torch.Tensor) -> torch.Tensor:
        """Learn how blocks are called with batches like ids (sequences, length); returns what the last one puts out."""
        calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        outputs: list[torch.Tensor] = []

        def before(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                calls[index] = args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}

            return hook

        def behind(_: nn.Module, __: Any, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as stack:
            for index, block in enumerate(self.blocks):
                stack.callback(block.register_forward_pre_hook(before(index), with_kwargs=True).remove)
            stack.callback(self.blocks[-1].register_forward_hook(behind).remove)
            self.model(ids, use_cache=False)
        self._calls[len(ids)] = [calls[index] for index in sorted(calls)]
        return outputs[-1]

    @torch.no_grad()
    def _check(self, ids: torch.Tensor) -> None:
        """The chain must do to other text what the model does."""
        first, other = ids.split(1)
        wanted = self.record(other)
        self.record(first)
        hidden = self.inputs(other)
        if len(self._calls[1]) == len(self):
            for index in range(len(self)):
                hidden = self.run(index, hidden)
            if torch.allclose(hidden, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().float().median())):
                return
        raise ModelError(
            f"The blocks of {type(self.model).__name__} cannot be run one after another on hidden states alone; leave "
            "--block-steps out, and give the model a device that holds it."
        )
