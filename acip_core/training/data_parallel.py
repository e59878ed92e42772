"""Data-parallel training under `accelerate launch`: each process reads its share of a batch, gradients are averaged.

With one process nothing happens here. All processes draw the same windows and sizes, start from the same numbers and
take the same steps, so they stay equal; what is written is written by the main one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce

from ..errors import ModelError

T = TypeVar("T")


def check_batch(batch: int) -> None:
    """Refuse a batch that cannot be split evenly.

    Raises:
        ModelError: its windows are no multiple of the processes.
    """
    processes = PartialState().num_processes
    if batch % processes:
        raise ModelError(f"A batch of {batch} windows cannot be split over {processes} processes.")


def own_share(items: Sequence[T]) -> Sequence[T]:
    """What this process reads of a batch."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def evenly_shared(items: Sequence[T]) -> Sequence[T]:
    """What this process reads of a batch; all of it where it cannot be split evenly, so that all do the same."""
    return items if len(items) % PartialState().num_processes else own_share(items)


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of what all processes hold of a tensor, on its device."""
    return reduce(values, "mean") if PartialState().num_processes > 1 else values


def mean_numbers(values: Sequence[float], device: torch.device) -> list[float]:
    """The mean over all processes of each of some numbers; the device is the one they communicate by."""
    if PartialState().num_processes == 1:
        return list(values)
    return mean_over_processes(torch.tensor(values, device=device)).tolist()


def average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Make every gradient the mean of those of all processes; where only some have one, the others' is zero."""
    if PartialState().num_processes == 1 or not parameters:
        return
    have = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    for parameter, share in zip(parameters, mean_over_processes(have).tolist(), strict=True):
        if share > 0:
            parameter.grad = mean_over_processes(
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )
