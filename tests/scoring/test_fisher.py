"""Fisher information against automatic differentiation through masks that are really there, at any cut."""

from __future__ import annotations

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model import autocast
from acip_core.model.base_model import BaseModel
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from acip_core.scoring.fisher import accumulated, fisher_gains, per_token
from tests.support.mask_gradients import by_masks
from tests.support.tiny import calibration, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


def test_equals_gradients_through_explicit_masks(base: BaseModel):
    factors, windows = tiny_factors(base), calibration()[:3]
    scores = finish(fisher_gains(base.model, factors, windows))
    expected = by_masks(base, factors, windows)
    assert list(scores) == list(target_layers(base.model))
    for name, score in scores.items():
        assert score.dtype == torch.float32 and (score >= 0).all()
        torch.testing.assert_close(score, expected[name], rtol=2e-2, atol=1e-4 * expected[name].max().item())


def test_a_cut_model_has_its_own(base: BaseModel):
    factors, windows = tiny_factors(base), calibration()[:2]
    left = {name: torch.arange(len(f.directions)) % 3 > 0 for name, f in factors.items()}
    found = finish(accumulated(lambda c: c.sum(0).square(), base.model, factors, windows, left))
    expected, full = by_masks(base, factors, windows, left), by_masks(base, factors, windows)
    for name, value in found.items():
        assert (value[~left[name]] == 0).all()
        wanted = expected[name] * left[name]
        torch.testing.assert_close(value, wanted, rtol=2e-2, atol=1e-4 * wanted.max().item())
        assert not torch.allclose(value, full[name] * left[name], rtol=0.1)


def test_tokens_add_up_to_their_window():
    base = tiny_base()
    factors, window = tiny_factors(base), calibration()[:1]
    tokens: dict[int, torch.Tensor] = {}

    def keep(contributions: torch.Tensor) -> torch.Tensor:
        tokens[len(tokens)] = contributions  # backward: the last layer first
        return per_token(contributions)

    squares = finish(accumulated(keep, base.model, factors, window))
    gains = finish(fisher_gains(base.model, factors, window))
    assert len(tokens) == len(squares)
    last = list(squares)[-1]
    torch.testing.assert_close(tokens[0].square().sum(0), squares[last])
    torch.testing.assert_close(tokens[0].sum(0).square(), gains[last])


def test_half_precision_gives_nearly_the_same(monkeypatch: pytest.MonkeyPatch):
    base = tiny_base()
    factors = tiny_factors(base)
    exact = finish(accumulated(per_token, base.model, factors, calibration()))
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: True)
    rounded = finish(accumulated(per_token, base.model, factors, calibration()))
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], value, rtol=0.1, atol=0.02 * value.max().item())


def test_leaves_gradients_and_flags_as_they_were(base: BaseModel):
    parameters = list(base.model.parameters())
    for index, parameter in enumerate(parameters):
        parameter.requires_grad_(index % 3 == 0)
        parameter.grad = torch.full_like(parameter, 0.25) if index % 2 else None
    before = [parameter.detach().clone() for parameter in parameters]
    finish(fisher_gains(base.model, tiny_factors(base), calibration()[:2]))
    for index, parameter in enumerate(parameters):
        assert parameter.requires_grad is (index % 3 == 0)
        assert (parameter.grad is not None) == bool(index % 2)
        assert parameter.grad is None or (parameter.grad == 0.25).all()
        assert torch.equal(parameter, before[index])


def test_cancelling_restores_the_flags():
    base = tiny_base()
    steps = fisher_gains(base.model, tiny_factors(base), calibration())
    step = next(steps)
    assert (step.done, step.total) == (1, len(calibration()))
    steps.close()
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    assert all(isinstance(layer, torch.nn.Linear) for layer in target_layers(base.model).values())


def test_a_loss_that_is_not_finite_is_one_clear_error():
    base = tiny_base()
    factors = tiny_factors(base)
    with torch.no_grad():
        base.model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="window 0 is not finite"):
        finish(fisher_gains(base.model, factors, calibration()))
    assert all(parameter.requires_grad for parameter in base.model.parameters())
