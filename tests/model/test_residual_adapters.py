"""Adapters that repair codes in closed form: what is left of the loss is what other directions hold."""

from __future__ import annotations

import pytest
import torch

from acip_core.model.codes import Codes, quantize
from acip_core.model.coding_moments import CodingMoments, measure_coding_moments
from acip_core.model.residual_adapters import residual_adapters
from acip_core.progress import finish
from tests.support.tiny import calibration, tiny_basis, tiny_elastic


@pytest.fixture(scope="module")
def problem() -> tuple[dict[str, torch.Tensor], dict[str, Codes], CodingMoments]:
    """Weights of a tiny model, their codes at a coarse level, and what errors of them cost."""
    elastic = tiny_elastic()
    weights = elastic.elastic_layers().weights()
    basis = tiny_basis(elastic.base)
    moments = finish(measure_coding_moments(elastic.model, calibration(), list(weights), basis))
    costs = {name: (moments.inputs[name].root().matrix(), moments.gradients[name].root().matrix()) for name in weights}
    codes = {name: quantize(weight, *costs[name], [-16])[0] for name, weight in weights.items()}
    return weights, codes, moments


def losses(off: torch.Tensor, moments: CodingMoments, name: str) -> torch.Tensor:
    """Of each direction of an error, the dearest first; their sum is tr(G D C Dᵀ)."""
    inputs, gradients = (of[name].root().matrix().double() for of in (moments.inputs, moments.gradients))
    c, g = torch.linalg.cholesky(inputs), torch.linalg.cholesky(gradients)
    return torch.linalg.svdvals(g.T @ off.double() @ c).square()


@pytest.mark.parametrize("rank", [1, 3])
def test_the_dearest_directions_are_repaired(problem, rank: int) -> None:
    weights, codes, moments = problem
    adapters = finish(residual_adapters(weights, codes, moments, rank))
    for name in weights:
        off = weights[name] - codes[name].matrix()
        expected = losses(off, moments, name)
        left = losses(off - adapters[f"{name}.b"] @ adapters[f"{name}.a"], moments, name)
        assert expected[:rank].sum() > 0.02 * expected.sum()
        assert left.sum().item() == pytest.approx(expected[rank:].sum().item(), rel=1e-3)


def test_more_directions_than_there_are(problem) -> None:
    weights, codes, moments = problem
    name, weight = next(iter(weights.items()))
    a, b = finish(residual_adapters({name: weight}, codes, moments, 100)).values()
    assert a.shape == (100, weight.shape[1]) and b.shape == (len(weight), 100)
    torch.testing.assert_close(codes[name].matrix() + b @ a, weight, atol=1e-4, rtol=0)
