"""Score maps of other methods: what each promises, on tiny models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acip_core import training
from acip_core.base import target_layers
from acip_core.elastic import build_elastic
from acip_core.errors import ModelError
from acip_core.factorize import factorize
from acip_core.progress import finish
from acip_core.scoring.asvd import _interpolated, asvd_basis, asvd_scores
from acip_core.scoring.baselines import gradient_scores, svd_magnitude_scores, uniform_scores
from acip_core.scoring.dobi import DobiSettings, dobi_scores
from acip_core.scoring.fisher import fisher_densities, fisher_gains
from acip_core.sizing import DENSE
from tests.tiny import calibration, target_weights, tiny_base, tiny_factors


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "mixed_precision_is_native", lambda device: False)


def test_gradients_and_fisher_agree_on_one_window(family: str):
    base = tiny_base(family)
    factors, window = tiny_factors(base), calibration()[:1]
    gains = finish(fisher_gains(base.model, factors, window))
    densities = finish(fisher_densities(base.model, factors, window))
    for name, score in finish(gradient_scores(base.model, factors, window)).items():
        torch.testing.assert_close(score.square(), gains[name])
        torch.testing.assert_close(densities[name] * sum(target_weights(base)[name].shape), gains[name])


def test_uniform_ranks_give_every_layer_the_same_ratio():
    base = tiny_base()
    factors = tiny_factors(base)
    shapes = {name: tuple(w.shape) for name, w in target_weights(base).items()}
    elastic = finish(build_elastic(base, factors, uniform_scores(factors, shapes)))
    for ratio in (0.7, 0.4):
        for rank, (m, n) in zip(elastic.planner.at_ratio(ratio).ranks, shapes.values(), strict=True):
            assert rank * (m + n) == pytest.approx(ratio * m * n, abs=m + n)


# ASVD


def test_without_scaling_it_is_the_plain_svd(family: str):
    base = tiny_base(family)
    weights = target_weights(base)
    factors = finish(factorize(weights, finish(asvd_basis(base.model, calibration(), alpha=0.0))))
    for name, score in svd_magnitude_scores(factors).items():
        torch.testing.assert_close(score, torch.linalg.svdvals(weights[name]), rtol=1e-3, atol=1e-3)


def test_scaling_favours_directions_that_loud_channels_read():
    base = tiny_base()
    basis = finish(asvd_basis(base.model, calibration()))
    assert list(basis) == list(target_weights(base)) and all(m.factor.shape[1] == 0 for m in basis.values())
    seen = {}
    name = "model.layers.1.mlp.down_proj"
    layer = base.model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0].flatten(0, 1)))
    with torch.no_grad():
        base.model(calibration())
    handle.remove()
    torch.testing.assert_close(basis[name].scale, seen["x"].abs().mean(0).sqrt(), rtol=1e-4, atol=1e-5)
    assert not any(target._forward_pre_hooks for target in target_layers(base.model).values())


def test_sensitivity_follows_singular_values_and_finds_the_useless_layer():
    base = tiny_base()
    with torch.no_grad():
        base.model.model.layers[0].self_attn.o_proj.weight.mul_(1e-4)
    factors = finish(factorize(target_weights(base), finish(asvd_basis(base.model, calibration()))))
    scores = finish(asvd_scores(base, factors, calibration()[:2]))
    assert all((score.diff() <= 1e-6).all() for score in scores.values())
    top = {name: score[0].item() for name, score in scores.items()}
    assert min(top, key=top.__getitem__) in [f"model.layers.0.self_attn.{x}_proj" for x in "qkvo"]
    useless = top["model.layers.0.self_attn.o_proj"]
    assert useless < 0.1 * sorted(top.values())[len(top) // 2]


def test_interpolation_by_hand():
    at = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, 1.5])
    found = _interpolated([1.0, 0.8, 0.2], [0.0, 1.0, 4.0], at)
    torch.testing.assert_close(found, torch.tensor([5.0, 4.5, 4.0, 2.5, 1.0, 0.5, 0.0, -0.5]))


# Dobi-SVD

SETTINGS = DobiSettings(steps=60, learning_rate=0.02, sharpness=20.0)


@pytest.mark.parametrize("ratio", [0.8, 0.5])
def test_positions_land_on_the_target(family: str, ratio: float):
    base = tiny_base(family)
    factors = tiny_factors(base)
    scores = finish(dobi_scores(base, factors, calibration(), ratio, SETTINGS))
    shapes = [tuple(w.shape) for w in target_weights(base).values()]
    left = [int((score > 0).sum()) for score in scores.values()]
    cost = sum(min(k * (m + n), m * n) for k, (m, n) in zip(left, shapes, strict=True))
    assert cost / sum(m * n for m, n in shapes) == pytest.approx(ratio, abs=0.05)
    elastic = finish(build_elastic(base, factors, scores))
    for planned, k, (m, n) in zip(elastic.planner.at_ratio(ratio).ranks, left, shapes, strict=True):
        assert planned == DENSE or abs(planned - k) <= 0.15 * min(m, n)


def test_a_layer_that_matters_less_gets_less():
    base = tiny_base()
    with torch.no_grad():
        base.model.model.layers[1].mlp.down_proj.weight.mul_(1e-3)
    scores = finish(dobi_scores(base, tiny_factors(base), calibration(), 0.5, SETTINGS))
    kept = {name: (score > 0).float().mean().item() for name, score in scores.items()}
    assert kept["model.layers.1.mlp.up_proj"] < kept["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("how", ["finished", "cancelled", "failed"])
def test_the_model_is_as_before(how: str, family: str):
    base = tiny_base(family)
    factors, before = tiny_factors(base), base.model(calibration()).logits
    flags = [p.requires_grad for p in base.model.parameters()]
    steps = dobi_scores(base, factors, calibration(), 0.6, replace(SETTINGS, steps=3))
    next(steps)
    if how == "finished":
        finish(steps)
    elif how == "cancelled":
        steps.close()
    else:
        norm = base.model.model.norm.weight
        kept = norm.detach().clone()
        norm.data.fill_(float("nan"))
        with pytest.raises(ModelError, match="step 2 of Dobi-SVD at 60%"):
            next(steps)
        norm.data.copy_(kept)
    assert [p.requires_grad for p in base.model.parameters()] == flags
    assert torch.equal(base.model(calibration()).logits, before)
