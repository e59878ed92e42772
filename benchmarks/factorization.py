"""Factorization of all target layers against `torch.linalg.svd` of the same layers, interleaved."""

from __future__ import annotations

import torch

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.reader import read_artifact
from acip_core.model.base_model import load_base
from acip_core.model.factorization import factorize
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish

from .figure import Figure, clock, median_of


def measure_factorization(rounds: int = 3) -> list[Figure]:
    """Time ratio, and the largest relative error of a full-rank product."""
    base = load_base()
    weights = target_layers(base.model).weights()
    artifact = read_artifact(default_artifact(base.name))
    ratios, error = [], 0.0
    for _ in range(rounds):
        began = clock()
        factors = finish(factorize(weights, artifact.basis, artifact.gradients))
        ours = clock() - began
        began = clock()
        for weight in weights.values():
            torch.linalg.svd(weight, full_matrices=False)
        ratios.append(ours / (clock() - began))
    for name, weight in weights.items():
        product = factors[name].up.T @ factors[name].down(weight)
        error = max(error, ((product - weight).norm() / weight.norm()).item())
    return [
        median_of("factorization time ÷ torch.linalg.svd", ratios, "×", 1 / 3),
        Figure("largest relative error of a full-rank product", error, "", 1e-5),
    ]
