"""Score maps of other methods: what each promises, on tiny models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model import autocast
from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import build_elastic
from acip_core.model.factorization import factorize
from acip_core.model.size_planner import DENSE, SizePlanner
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from acip_core.scoring import asvd
from acip_core.scoring.asvd import _interpolated, asvd_basis, asvd_scores
from acip_core.scoring.baselines import gradient_scores, svd_magnitude_scores, uniform_scores
from acip_core.scoring.dobi import DobiConfig, dobi_scores
from acip_core.scoring.fisher import fisher_densities, fisher_gains
from tests.support.mask_gradients import by_masks
from tests.support.tiny import VOCABULARY, calibration, generator, target_weights, tiny_base, tiny_basis, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


def test_gradients_and_fisher_agree_on_one_window(family: str):
    base = tiny_base(family)
    factors, window = tiny_factors(base), calibration()[:1]
    gains = finish(fisher_gains(base.model, factors, window))
    densities = finish(fisher_densities(base.model, factors, window))
    for name, score in finish(gradient_scores(base.model, factors, window)).items():
        torch.testing.assert_close(score.square(), gains[name])
        torch.testing.assert_close(densities[name] * sum(target_weights(base)[name].shape), gains[name])


def test_gradients_add_up_without_their_signs():
    base = tiny_base()
    factors, windows = tiny_factors(base), calibration()[:3]
    scores = finish(gradient_scores(base.model, factors, windows))
    each = [by_masks(base, factors, window[None]) for window in windows]  # squares, through masks really there
    for name, score in scores.items():
        expected = torch.stack([squares[name].sqrt() for squares in each]).sum(0)
        torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-4 * expected.max().item())


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
    weight = target_weights(base)[name]
    values = finish(factorize({name: weight}, {name: basis[name]}))[name].singular_values
    torch.testing.assert_close(values, torch.linalg.svdvals(weight * basis[name].scale), rtol=1e-3, atol=1e-3)
    assert not any(target._forward_pre_hooks for target in target_layers(base.model).values())


def test_layers_with_one_input_share_its_scale(family: str):
    base = tiny_base(family)
    ours, measured = finish(asvd_basis(base.model, calibration())), tiny_basis(base)
    assert {name: m.layers for name, m in ours.items()} == {name: m.layers for name, m in measured.items()}
    assert all(ours[name] is ours[m.layers[0]] and m.side == "input" for name, m in ours.items())


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


def test_sensitivity_leaves_the_model_at_full_size():
    base = tiny_base()
    factors, before = tiny_factors(base), base.model(calibration()).logits
    finish(asvd_scores(base, factors, calibration()[:1], candidates=(0.5,)))
    assert torch.equal(base.model(calibration()).logits, before)


@pytest.mark.parametrize("bad, message", [(0, "The full model's loss"), (2, "q_proj cut to 60% is not finite")])
def test_a_loss_that_is_no_number_is_no_sensitivity(bad: int, message: str, monkeypatch: pytest.MonkeyPatch):
    base = tiny_base()
    losses = iter([1.0] * bad + [float("nan")])
    monkeypatch.setattr(asvd, "token_losses", lambda model, window: torch.tensor([next(losses)]))
    with pytest.raises(ModelError, match=message):
        finish(asvd_scores(base, tiny_factors(base), calibration()[:1]))


def test_interpolation_by_hand():
    at = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, 1.5])
    found = _interpolated([1.0, 0.8, 0.2], [0.0, 1.0, 4.0], at)
    torch.testing.assert_close(found, torch.tensor([5.0, 4.5, 4.0, 2.5, 1.0, 0.5, 0.0, -0.5]))


# Dobi-SVD

SETTINGS = DobiConfig(steps=40, learning_rate=0.02, sharpness=20.0)


@pytest.mark.parametrize(
    "family, ratio, native",
    [
        ("llama", 0.8, False),
        ("llama", 0.5, False),
        ("qwen2", 0.3, False),
        ("mistral", 0.9, False),
        ("gemma3", 0.5, False),
        ("qwen2", 0.6, True),
    ],
)
def test_positions_land_on_the_target(family: str, ratio: float, native: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: native)
    base = tiny_base(family)
    shapes = {name: tuple(w.shape) for name, w in target_weights(base).items()}
    scores = finish(dobi_scores(base, tiny_factors(base), calibration(), ratio, SETTINGS))
    left = [int((score > 0).sum()) for score in scores.values()]
    cost = sum(min(k * (m + n), m * n) for k, (m, n) in zip(left, shapes.values(), strict=True))
    assert cost / sum(m * n for m, n in shapes.values()) == pytest.approx(ratio, abs=0.03)
    planner = SizePlanner(shapes, {name: score.numpy() for name, score in scores.items()}, 0)
    for planned, k, shape in zip(planner.at_ratio(ratio).ranks, left, shapes.values(), strict=True):
        assert planned == DENSE or abs(planned - k) <= max(1, 0.06 * min(shape))


def own_text(base: BaseModel, windows: int = 8, length: int = 64) -> torch.Tensor:
    """Text that the model itself wrote, which a truncated one knows less well; ids (windows, length)."""
    ids = torch.randint(0, VOCABULARY, (windows, 1), generator=generator())
    with torch.no_grad():
        for _ in range(length - 1):
            next_ = torch.multinomial(base.model(ids).logits[:, -1].softmax(-1), 1, generator=generator(ids.shape[1]))
            ids = torch.cat([ids, next_], 1)
    return ids


def test_a_layer_that_matters_less_gets_less():
    base = tiny_base()
    with torch.no_grad():
        base.model.model.layers[1].mlp.down_proj.weight.mul_(1e-3)
        base.model.lm_head.weight.mul_(6)
    settings = DobiConfig(steps=60, sharpness=20.0)
    scores = finish(dobi_scores(base, tiny_factors(base), own_text(base), 0.5, settings))
    kept = {name: (score > 0).float().mean().item() for name, score in scores.items()}
    for layer in ("gate_proj", "up_proj"):
        assert kept[f"model.layers.1.mlp.{layer}"] < kept[f"model.layers.0.mlp.{layer}"] - 0.05
    assert kept["model.layers.1.mlp.up_proj"] < sum(kept.values()) / len(kept) - 0.1


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
        embeddings = base.model.get_input_embeddings().weight
        kept = embeddings.detach().clone()
        embeddings.data.fill_(float("nan"))
        with pytest.raises(ModelError, match="step 2 of Dobi-SVD at 60%"):
            next(steps)
        embeddings.data.copy_(kept)
    assert [p.requires_grad for p in base.model.parameters()] == flags
    assert torch.equal(base.model(calibration()).logits, before)
