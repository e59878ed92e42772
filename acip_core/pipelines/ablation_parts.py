"""Rows of the ablation without a pruning run: what our own parts, basis, storage and training, are worth one by one.

All are scored alike, by the loss that dropping a direction is predicted to cost, on the envelope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..model.coding_moments import CodingMoments, measure_coding_moments, read_coding_moments, save_coding_moments
from ..model.elastic_model import ElasticModel, build_elastic
from ..model.factor_cache import cached_factors
from ..model.factorization import Factors
from ..model.second_moments import Basis, plain_basis
from ..progress import Steps
from ..scoring.envelope import envelope_scores
from ..training.adapters import train_adapters
from ..training.factors import train_factors
from .ablation_run import AblationRun


@dataclass(frozen=True)
class Part:
    """Attributes:
    basis: two-sided, activation (whitened by the inputs) or plain.
    trained: factors, adapters or nothing.
    pivoted: whether ranks count as they are stored by pivots.
    """

    basis: str = "two-sided"
    trained: str = ""
    pivoted: bool = False


PARTS = {
    "two-sided basis": Part(),
    "two-sided basis, stored by pivots": Part(pivoted=True),
    "activation-aware basis": Part(basis="activation"),
    "plain basis": Part(basis="plain"),
    "two-sided basis, factors trained": Part(trained="factors"),
    "two-sided basis, adapters trained": Part(trained="adapters"),
}


def part_model(run: AblationRun, part: Part) -> Steps[ElasticModel]:
    """The model of a row."""
    moments = yield from run.resumable.step(
        "moments.safetensors",
        measure_coding_moments(run.fresh().model, run.score_windows, run.weights, run.basis),
        lambda path: read_coding_moments(path, run.basis),
        lambda found, path: save_coding_moments(found, path, run.basis),
    )
    bases: dict[str, tuple[Basis, Basis | None]] = {
        "two-sided": (moments.inputs, moments.gradients),
        "activation": (run.basis, None),
        "plain": (plain_basis(run.weights), None),
    }
    factors = yield from cached_factors(run.weights, run.fingerprint, *bases[part.basis])
    gains = predicted_gains(factors, run.weights, moments)
    scores = {name: envelope_scores(gain, run.shapes[name], pivoted=part.pivoted) for name, gain in gains.items()}
    elastic = yield from build_elastic(run.fresh(), factors, scores, pivoted=part.pivoted)
    if part.trained == "factors":
        trained = yield from train_factors(
            elastic, run.calibration, run.settings.factors, run.resumable.path("factors.safetensors")
        )
        elastic.update_factors(trained.updates)
    elif part.trained == "adapters":
        path = run.resumable.path("adapters.safetensors")
        elastic.install((yield from train_adapters(elastic, run.calibration, run.settings.adapters, path)).weights)
    return elastic


def predicted_gains(
    factors: Mapping[str, Factors], weights: Mapping[str, torch.Tensor], moments: CodingMoments
) -> dict[str, torch.Tensor]:
    """Float32 (r,) per layer: what dropping each direction `u dᵀ` costs, `(uᵀ G u) (dᵀ C d)` nats, in any basis.

    Args:
        factors: of these weights (m, n).
    """
    gains = {}
    for name, found in factors.items():
        up, down = found.up.double(), found.down(weights[name].float()).double()
        of_up = ((up @ moments.gradients[name].matrix(up.device)) * up).sum(1)
        of_down = ((down @ moments.inputs[name].matrix(up.device)) * down).sum(1)
        gains[name] = (of_up * of_down).float().cpu()
    return gains
