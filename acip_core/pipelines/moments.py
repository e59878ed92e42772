"""The stage that measures second moments: of what layers read, and of the loss's gradients by their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..model.block_moments import measure_basis_by_block, measure_gradients_by_block
from ..model.coding_moments import CodingMoments, measure_coding_moments
from ..model.offloading import is_offloaded
from ..model.second_moments import Basis, measure_basis, read_basis, save_basis
from ..progress import Steps
from ..storage.resumable import ResumableRun

Moments = tuple[Basis, Basis | None]
Weights = Mapping[str, torch.Tensor]


def inputs_alone(
    model: PreTrainedModel, weights: Weights, windows: torch.Tensor, rank: int, resumable: ResumableRun
) -> Steps[Moments]:
    """The moments of a one-sided basis.

    Args:
        weights: of the target layers, by name.
        windows: (windows, length) token ids.
        rank: columns that are kept of each moment.
        resumable: what the result is kept in, or read from.
    """
    steps = _measured(model, weights, windows, rank, False)
    return (yield from resumable.step("basis.safetensors", _alone(steps), read_basis, _save_both))


def both_sides(
    model: PreTrainedModel,
    weights: Weights,
    windows: torch.Tensor,
    fewer: torch.Tensor,
    rank: int,
    resumable: ResumableRun,
) -> Steps[Moments]:
    """The moments of a two-sided basis; as `inputs_alone`.

    Args:
        fewer: (windows, length) token ids whose gradients are measured.
    """
    steps = _measured(model, weights, windows, rank, True)
    basis, _ = yield from resumable.step("inputs.safetensors", _alone(steps), read_basis, _save_both)
    partial = resumable.part("gradients", fewer)
    if is_offloaded(model):
        both = _with(basis, measure_gradients_by_block(model, fewer, weights))
    else:
        both = _with_gradients(measure_coding_moments(model, fewer, weights, basis, partial=partial))
    moments = yield from resumable.step("basis.safetensors", both, read_basis, _save_both)
    partial.remove()
    return moments


def _measured(
    model: PreTrainedModel, weights: Weights, windows: torch.Tensor, rank: int, of_inputs: bool
) -> Steps[Basis]:
    measure = measure_basis_by_block if is_offloaded(model) else measure_basis
    return (yield from measure(model, windows, rank, weights, of_inputs=of_inputs))


def _alone(steps: Steps[Basis]) -> Steps[Moments]:
    return (yield from steps), None


def _with(basis: Basis, steps: Steps[Basis]) -> Steps[Moments]:
    return basis, (yield from steps)


def _with_gradients(steps: Steps[CodingMoments]) -> Steps[Moments]:
    moments = yield from steps
    return moments.inputs, moments.gradients


def _save_both(moments: Moments, path: Path) -> None:
    save_basis(moments[0], path, moments[1])
