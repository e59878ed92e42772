"""Low-bit codes: what they lose, what they cost, and that a level is the quality of a matrix."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from acip_core.model.code_cache import LEVELS, levels
from acip_core.model.codes import Codes, feedback, magnitude_classes, quantize, quantize_table, steps
from tests.support.tiny import generator


def moment(size: int, seed: int) -> torch.Tensor:
    """Of correlated channels of very different sizes."""
    source = generator(seed)
    x = torch.randn(4 * size, size, generator=source) @ torch.randn(size, size, generator=source)
    x = x * torch.logspace(-1, 1, size)
    return x.T @ x / len(x) / size


def loss(weight: torch.Tensor, code: Codes, inputs: torch.Tensor, gradients: torch.Tensor) -> float:
    off = weight - code.matrix()
    return float(((gradients @ off) * (off @ inputs)).sum())


@pytest.fixture(scope="module")
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(96, 80, generator=generator(1)), moment(80, 2), moment(96, 3) * 1e-3


def by_definition(
    weight: torch.Tensor, code: Codes, inputs: torch.Tensor, gradients: torch.Tensor, rows_at_once: int
) -> torch.Tensor:
    """The codes of given steps, one column of some rows after another in double precision.

    What is rounded is not the weight, but where it would best be, given the errors D of all that was rounded before:
    the rest of D that costs the least is D_r = −G_rr⁻¹ G_rs D_s for rows, and D_r = −D_s C_sr C_rr⁻¹ for columns.
    """
    w, c, g = weight.double(), damped(inputs, 0.01), damped(gradients, 0.03)
    row_steps, column_steps = (steps(exponents).double() for exponents in (code.rows, code.columns))
    z = torch.zeros_like(w)
    for start in range(0, len(w), rows_at_once):
        rows, rest = slice(start, start + rows_at_once), slice(start, None)
        errors = w[:start] - z[:start] * row_steps[:start, None] * column_steps
        best = w[rows] + torch.linalg.solve(g[rest, rest], g[rest, :start] @ errors)[:rows_at_once]
        step = row_steps[rows, None] * column_steps
        dead = 0.62 - 0.06 * ((best / step).abs().mean() - 0.3).clamp(0, 2)  # up to where zero is worth its error
        for j in range(w.shape[1]):
            errors = best[:, :j] - z[rows, :j] * step[:, :j]
            x = (best[:, j] + torch.linalg.solve(c[j:, j:], c[j:, :j] @ errors.T)[0]) / step[:, j]
            z[rows, j] = x.sign() * (x.abs() + 1 - dead).floor()
    return z


def damped(moment: torch.Tensor, share: float) -> torch.Tensor:
    moment = moment.double()
    return moment + share * moment.diagonal().mean() * torch.eye(len(moment))


def test_codes_are_those_of_the_definition(problem):
    weight, inputs, gradients = problem
    for code in quantize(weight, inputs, gradients, [-24, -8]):
        # No entry is closer than 5e-5 of a step to where it would be rounded to another code.
        assert torch.equal(code.z.double(), by_definition(weight, code, inputs, gradients, rows_at_once=32))


@pytest.mark.parametrize("level", [-32, -24, -16, -8])
def test_a_level_is_what_all_entries_lose(level):
    mixed = [torch.eye(size) + torch.randn(size, size, generator=generator(size)) / size**0.5 for size in (80, 96)]
    inputs, gradients = (matrix @ matrix.T for matrix in mixed)
    weight = torch.randn(96, 80, generator=generator(1))
    (code,) = quantize(weight, inputs, gradients, [level])
    assert loss(weight, code, inputs, gradients) == pytest.approx(weight.numel() * 2 ** (level / 4) / 12, rel=0.2)


def test_feedback_loses_less_than_rounding(problem):
    weight, inputs, gradients = problem
    code = quantize(weight, inputs, gradients, [-24])[0]
    step = steps(code.rows)[:, None] * steps(code.columns)
    rounded = Codes((weight / step).round().clamp(-127, 127).to(torch.int8), code.rows, code.columns)
    assert loss(weight, code, inputs, gradients) < 0.7 * loss(weight, rounded, inputs, gradients)


def test_finer_levels_lose_less_and_hold_larger_integers(problem):
    weight, inputs, gradients = problem
    codes = quantize(weight, inputs, gradients, list(range(-36, 4, 4)))
    losses = [loss(weight, code, inputs, gradients) for code in codes]
    assert losses == sorted(losses)
    sizes = [float(code.z.abs().float().mean()) for code in codes]
    assert sizes == sorted(sizes, reverse=True)


def test_exponents_of_a_side_fit_a_byte(problem):
    weight, inputs, gradients = problem
    weight = weight * torch.logspace(-12, 12, 96)[:, None]
    for code in quantize(weight, inputs, gradients, [-60, -20]):
        for exponents in (code.rows, code.columns):
            assert int(exponents.max()) - int(exponents.min()) <= 255


def test_rows_that_are_zero_stay_zero(problem):
    weight, inputs, gradients = problem
    weight = weight.clone()
    weight[7] = 0
    gradients = gradients.diagonal().diag()  # nothing is fed back from other rows
    code = quantize(weight, inputs, gradients, [-40])[0]
    assert not code.z[7].any()


def test_tokens_that_are_read_more_often_are_coded_finer():
    weight, weights = torch.randn(64, 24, generator=generator(4)), torch.logspace(-5, 0, 64)
    code = quantize_table(weight, moment(24, 5), weights, -32, block=16)
    error = (weight - code.matrix()).square().sum(1)
    assert error[:16].mean() > 10 * error[-16:].mean()


def test_classes_follow_the_magnitude():
    z = torch.ones(4, 6, dtype=torch.int8) * torch.tensor([1, 2, 4, 64], dtype=torch.int8)[:, None]
    rows, columns = magnitude_classes(z)
    assert rows.tolist() == sorted(rows.tolist()) and len(set(rows.tolist())) == 4
    assert rows.max() <= 15 and len(set(columns.tolist())) == 1
    assert not any(part.any() for part in magnitude_classes(torch.zeros(3, 5, dtype=torch.int8)))


def test_levels_share_a_loss_among_all_weights():
    small, large = levels(10**6), levels(64 * 10**6)
    assert len(small) == LEVELS
    assert [a - b for a, b in zip(small, large, strict=True)] == [24] * LEVELS  # √64 finer
    assert all(b - a == 4 for a, b in itertools.pairwise(small))
    assert 10**6 * 2 ** (2 * small[0] / 8) / 12 == pytest.approx(0.0165, rel=0.1)


def test_feedback_inverts_the_damped_moment():
    matrix = moment(12, 6)
    upper = feedback(matrix, 0.01)
    damped = matrix + torch.eye(12) * 0.01 * matrix.diagonal().mean()
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(12), atol=1e-2)
    assert math.isclose(float(upper.tril(-1).abs().max()), 0)
