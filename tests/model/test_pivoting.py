"""Pivots: the same matrix in fewer numbers."""

from __future__ import annotations

import pytest
import torch

from acip_core.model.pivoting import pivoted_factors
from acip_core.model.rank_costs import factor_parameters, pivot_bytes
from tests.support.tiny import generator

SHAPES = [(32, 56, 7), (56, 32, 31), (16, 16, 16), (8, 12, 1), (5, 9, 0)]


def whole(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The matrix that pivots and coefficients stand for."""
    parts = pivoted_factors(up, down)
    bits = [(int(byte) >> place) & 1 for byte in parts.pivots for place in range(8)]
    chosen = torch.tensor(bits[: down.shape[1]], dtype=torch.bool)
    matrix = torch.empty(len(up), down.shape[1], dtype=torch.float64)
    matrix[:, chosen] = parts.columns.double()
    matrix[:, ~chosen] = parts.columns.double() @ parts.coefficients.double()
    assert int(chosen.sum()) == len(down) and not any(bits[down.shape[1] :])
    return matrix


@pytest.mark.parametrize(("m", "n", "rank"), SHAPES)
def test_the_product_is_the_same_and_holds_as_many_numbers_as_was_said(m: int, n: int, rank: int) -> None:
    up, down = torch.randn(m, rank, generator=generator()), torch.randn(rank, n, generator=generator())
    torch.testing.assert_close(whole(up, down), up.double() @ down.double(), rtol=1e-5, atol=1e-5)
    parts = pivoted_factors(up, down)
    assert parts.columns.numel() + parts.coefficients.numel() == factor_parameters(rank, m + n, pivoted=True)
    assert parts.pivots.numel() == pivot_bytes(n)


def test_rows_may_be_as_far_apart_as_singular_values_are() -> None:
    """Directions come with their singular values in them, which span many orders of magnitude."""
    up, down = torch.randn(24, 12, generator=generator()), torch.randn(12, 40, generator=generator())
    down *= torch.logspace(0, -7, 12)[:, None]
    product = up.double() @ down.double()
    assert (whole(up, down) - product).norm() < 1e-6 * product.norm()
    assert pivoted_factors(up, down).coefficients.abs().max() < 100


def test_columns_that_are_zero_are_no_pivots() -> None:
    down = torch.randn(4, 12, generator=generator())
    down[:, [0, 5]] = 0
    parts = pivoted_factors(torch.eye(4), down)
    assert not int(parts.pivots[0]) & 0b100001
