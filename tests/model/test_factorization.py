"""The factorization in a basis: exact products, optimal truncation, directions that no machine changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model.base_model import BaseModel
from acip_core.model.factorization import DAMPING, Factors, factorize, factorize_layer, factorize_two_sided
from acip_core.model.second_moments import (
    SecondMoment,
    compress_moment,
    plain_basis,
)
from acip_core.progress import finish
from tests.support.moments import random_moment, root_of
from tests.support.tiny import generator, target_weights, tiny_base, tiny_basis

SHAPES = {"tall": (60, 24), "wide": (24, 60), "square": (32, 32)}


def random_weight(kind: str, deficient: bool = False) -> torch.Tensor:
    m, n = SHAPES[kind]
    source = generator(8)
    if deficient:
        return torch.randn(m, 5, generator=source) @ torch.randn(5, n, generator=source)
    return torch.randn(m, n, generator=source)


def assert_exact(weight: torch.Tensor, factors: Factors) -> None:
    """Orthonormal rows, and a full-rank product within 1e-5 of the weight."""
    u = factors.directions
    assert u.shape == (min(weight.shape), weight.shape[0]) and u.is_contiguous()
    assert torch.dist(u @ u.T, torch.eye(len(u)).to(u)) <= 1e-5 * len(u) ** 0.5
    assert torch.dist(u.T @ factors.down(weight), weight) <= 1e-5 * weight.norm()


@pytest.mark.parametrize("deficient", [False, True], ids=["full", "deficient"])
@pytest.mark.parametrize(
    ("kind", "side"),  # an output moment serves layers whose output is not the wider side
    [*((kind, side) for kind in SHAPES for side in (None, "input")), ("wide", "output"), ("square", "output")],
)
def test_full_rank_product_is_exact(kind: str, deficient: bool, side: str | None):
    weight = random_weight(kind, deficient)
    m, n = weight.shape
    moment = random_moment(m if side == "output" else n) if side else None
    factors = factorize_layer(weight, None if moment is None else root_of(moment), side or "input")
    assert_exact(weight, factors)
    assert (factors.singular_values.diff() <= 0).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_a_weight_of_zeros_survives(kind: str):
    weight = torch.zeros(SHAPES[kind])
    factors = factorize_layer(weight, root_of(random_moment(weight.shape[1])))
    assert factors.directions.isfinite().all()
    assert torch.equal(factors.directions.T @ factors.down(weight), weight)


@pytest.mark.parametrize("kind", SHAPES)
def test_plain_svd_truncates_as_well_as_torch(kind: str):
    weight = random_weight(kind)
    factors = factorize_layer(weight)
    expected = torch.linalg.svdvals(weight.double())
    assert torch.allclose(factors.singular_values.double(), expected, rtol=1e-3, atol=1e-3)
    for k in range(min(weight.shape) + 1):
        u = factors.directions[:k].double()
        error = torch.dist(u.T @ (u @ weight.double()), weight.double()).square()
        assert error == pytest.approx(expected[k:].square().sum().item(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", SHAPES)
def test_whitened_truncation_is_optimal_and_beats_plain_svd(kind: str):
    """tr((W − W_k) C (W − W_k)ᵀ) is the sum of the dropped σ² of W·chol(C), and no cut of that rank does better."""
    weight = random_weight(kind)
    moment = random_moment(weight.shape[1])
    w, c = weight.double(), moment.double()
    optimal = torch.linalg.svdvals(w @ torch.linalg.cholesky(c))
    whitened, plain = factorize_layer(weight, root_of(moment)), factorize_layer(weight)

    def error(factors: Factors, k: int) -> float:
        u = factors.directions[:k].double()
        rest = w - u.T @ (u @ w)
        return ((rest @ c) * rest).sum().item()

    total = optimal.square().sum().item()
    for k in range(0, min(w.shape), 4):
        assert error(whitened, k) == pytest.approx(optimal[k:].square().sum().item(), rel=1e-3, abs=1e-6 * total)
        own = whitened.singular_values[k:].double().square().sum().item()
        assert error(whitened, k) == pytest.approx(own, rel=1e-3, abs=1e-5 * total)
    assert error(whitened, 8) < 0.9 * error(plain, 8)


def test_output_moment_fixes_the_same_directions_as_the_input_moment():
    weight, moment = random_weight("wide"), random_moment(60)
    by_input = factorize_layer(weight, root_of(moment))
    by_output = factorize_layer(weight, root_of(weight @ moment @ weight.T), "output")
    for k in (1, 6, 12):
        projections = [f.directions[:k].T @ f.directions[:k] for f in (by_input, by_output)]
        assert torch.dist(*projections) < 1e-2


def test_all_layers_of_a_model(base: BaseModel):
    weights, basis, seen = target_weights(base), tiny_basis(base), []
    torch.set_num_threads(2)  # two layer groups at a time
    factors = finish(factorize(weights, basis), seen.append)
    assert list(factors) == list(weights) and torch.get_num_threads() == 2
    assert seen[-1].done == seen[-1].total == len(weights)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    for name, weight in weights.items():
        assert_exact(weight, factors[name])


def test_a_weight_that_is_not_finite_is_refused():
    weights = target_weights(tiny_base())
    name = list(weights)[4]
    weights[name] = weights[name].clone().fill_diagonal_(float("nan"))
    with pytest.raises(ModelError, match=name):
        finish(factorize(weights, plain_basis(weights)))


def test_a_moment_that_is_not_finite_is_one_clear_error():
    weights = target_weights(tiny_base())
    basis = tiny_basis(tiny_base())
    name = list(weights)[3]  # alone in its group
    broken = replace(basis[name], scale=torch.full_like(basis[name].scale, torch.nan))
    with pytest.raises(ModelError, match=f"Cannot factorize {name}"):
        finish(factorize(weights, basis | {name: broken}))


@pytest.mark.parametrize("kind", SHAPES)
def test_the_plain_basis_is_the_plain_svd(kind: str):
    weight = random_weight(kind)
    root = plain_basis({"layer": weight})["layer"].root()
    for k in (1, 5, 20):
        one, other = (
            f.directions[:k].T @ f.directions[:k] for f in (factorize_layer(weight, root), factorize_layer(weight))
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def two_sided(kind: str, deficient: bool = False) -> tuple[torch.Tensor, SecondMoment, SecondMoment]:
    weight = random_weight(kind, deficient)
    m, n = weight.shape
    inputs = compress_moment(("layer",), "input", random_moment(n), n)
    return weight, inputs, compress_moment(("layer",), "gradient", random_moment(m), m)


@pytest.mark.parametrize("kind", SHAPES)
def test_two_sided_directions_cost_the_loss_what_their_singular_values_say(kind: str):
    """tr(G D C Dᵀ) of a cut is the sum of the dropped σ², and no one-sided cut of that rank predicts less."""
    weight, inputs, gradients = two_sided(kind)
    factors = factorize_two_sided(weight, inputs, gradients)
    w = weight.double()
    device = torch.device("cpu")
    c, g = (
        moment + torch.eye(len(moment)) * share * moment.diagonal().mean()
        for moment, share in zip((inputs.matrix(device), gradients.matrix(device)), DAMPING, strict=True)
    )
    down, up = factors.down(weight).double(), factors.up.double()
    assert torch.dist(up.T @ down, w) < 1e-5 * w.norm()
    one_sided = factorize_layer(weight, inputs.root())

    def loss(up: torch.Tensor, down: torch.Tensor) -> float:
        rest = w - up.T @ down
        return ((g @ rest) * (rest @ c)).sum().item()

    total = loss(up[:0], down[:0])
    for k in range(0, min(w.shape), 3):
        own = factors.singular_values[k:].double().square().sum().item()
        assert loss(up[:k], down[:k]) == pytest.approx(own, rel=1e-3, abs=1e-6 * total)
        u = one_sided.directions[:k].double()
        assert loss(up[:k], down[:k]) <= loss(u, u @ w) + 1e-6 * total
    assert (factors.singular_values.diff() <= 0).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_two_sided_factors_of_a_deficient_weight_are_exact(kind: str):
    weight, inputs, gradients = two_sided(kind, deficient=True)
    factors = factorize_two_sided(weight, inputs, gradients)
    assert torch.dist(factors.up.T @ factors.down(weight), weight) <= 1e-5 * weight.norm()
    assert torch.dist(factors.up @ factors.directions.T, torch.eye(min(weight.shape))) <= 1e-4


@pytest.mark.parametrize("q", [4, 300], ids=["low rank", "full rank"])
def test_signs_of_a_tall_weight_are_those_of_its_whitened_directions(q: int):
    """More channels than one block of the moment's Cholesky factor has."""
    m, n = 300, 8
    weight = torch.randn(m, n, generator=generator(8))
    inputs = compress_moment(("layer",), "input", random_moment(n), n)
    gradients = compress_moment(("layer",), "gradient", random_moment(m), q)
    factors = factorize_two_sided(weight, inputs, gradients)
    g = gradients.matrix(torch.device("cpu"))
    k = torch.linalg.cholesky(g + torch.eye(m) * DAMPING[1] * g.diagonal().mean())
    u = factors.up.double() @ k  # (n, m), orthonormal rows
    assert torch.dist(u @ u.T, torch.eye(n)) < 1e-5
    assert (u.gather(1, u.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_two_sided_directions_do_not_depend_on_the_eigensolver(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A trained difference fits the directions of any machine, so their signs are fixed, too."""
    weight, inputs, gradients = two_sided(kind)
    expected = factorize_two_sided(weight, inputs, gradients)
    eigh = torch.linalg.eigh

    def other(matrix: torch.Tensor):
        symmetric = matrix.tril() + matrix.tril(-1).T  # the other triangle is nobody's
        values, vectors = eigh(symmetric.flip(0, 1))
        return values, -vectors.flip(0)

    monkeypatch.setattr(torch.linalg, "eigh", other)
    found = factorize_two_sided(weight, inputs, gradients)
    assert torch.allclose(found.directions, expected.directions, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found.up, expected.up, rtol=1e-5, atol=1e-6)


def test_zeros_survive_two_sided_too():
    inputs = compress_moment(("layer",), "input", torch.zeros(12, 12), 4)
    gradients = compress_moment(("layer",), "gradient", torch.zeros(8, 8), 4)
    factors = factorize_two_sided(torch.zeros(8, 12), inputs, gradients)
    assert factors.directions.isfinite().all() and factors.up.isfinite().all()


def test_channels_that_are_never_used_leave_it_positive_definite():
    moment = random_moment(20)
    moment[3], moment[:, 3] = 0, 0
    root = compress_moment(("layer",), "input", moment, 20).root()
    torch.linalg.cholesky(root.matrix())
    weight = torch.randn(9, 20, generator=generator())
    assert_exact(weight, factorize_layer(weight, root))
