"""Perplexity against a plain loop over the base model that shares no code with it."""

from __future__ import annotations

import math

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.evaluation.curves import CurvePoint, measure_curve
from acip_core.evaluation.perplexity import Perplexity, measure_perplexity, token_losses
from acip_core.model.base_model import BaseModel
from acip_core.progress import Progress, finish
from tests.support.tiny import tiny_base, tiny_elastic


def plain_loop(model: torch.nn.Module, windows: torch.Tensor) -> list[list[float]]:
    """Negative log-likelihood of each next token, window by window, position by position."""
    losses = []
    for window in windows:
        with torch.no_grad():
            probabilities = model(window[None]).logits[0].double().softmax(-1)
        losses.append([-math.log(probabilities[i, window[i + 1]].item()) for i in range(len(window) - 1)])
    return losses


def last(model: torch.nn.Module, windows: torch.Tensor) -> Perplexity:
    return list(measure_perplexity(model, windows))[-1]


def test_equals_a_plain_loop(base: BaseModel, windows):
    expected = plain_loop(base.model, windows)
    assert torch.allclose(token_losses(base.model, windows).cpu().double(), torch.tensor(expected).double(), atol=1e-4)
    flat = [loss for window in expected for loss in window]
    result = last(base.model, windows)
    assert result.value == pytest.approx(math.exp(sum(flat) / len(flat)), rel=1e-5)
    assert result.tokens == len(flat) == windows.numel() - len(windows)


def test_elastic_model_at_full_size_has_exactly_the_bases_perplexity(family: str, windows):
    elastic = tiny_elastic(family, adapter_rank=2)
    expected = last(tiny_base(family).model, windows)
    elastic.set_size(0.4)
    assert last(elastic.model, windows).value != expected.value
    elastic.set_size(1.0)
    assert last(elastic.model, windows) == expected


def test_every_step_is_the_perplexity_of_the_text_so_far(windows):
    model = tiny_base().model
    losses = plain_loop(model, windows)
    for index, step in enumerate(measure_perplexity(model, windows)):
        so_far = [loss for window in losses[: index + 1] for loss in window]
        assert step.value == pytest.approx(math.exp(sum(so_far) / len(so_far)), rel=1e-5)
        assert (step.done, step.total, step.tokens) == (index + 1, 4, len(so_far))


def test_standard_error_is_over_windows(windows):
    model = tiny_base().model
    means = torch.tensor(plain_loop(model, windows)).double().mean(1)
    error = (means.std(correction=1) / len(means) ** 0.5).item()
    result = last(model, windows)
    assert math.log(result.high / result.value) == pytest.approx(error, rel=1e-3)
    assert math.log(result.value / result.low) == pytest.approx(error, rel=1e-3)
    only = last(model, windows[:1])
    assert only.low == only.value == only.high


def test_cancelling_runs_no_further_window(windows):
    model, calls = tiny_base().model, []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    steps = measure_perplexity(model, windows)
    next(steps)
    next(steps)
    steps.close()
    handle.remove()
    assert len(calls) == 2
    assert last(model, windows).done == 4


def test_a_curve_is_made_of_plain_perplexities(family: str, windows):
    elastic = tiny_elastic(family, adapter_rank=2)
    known: dict[float, tuple[float, ...]] = {}
    steps: list[Progress] = []
    label = ("method", "corpus", "held-out")
    curve = finish(measure_curve(elastic, windows, (0.6, 0.8), label, known), steps.append)
    assert [point.ratio for point in curve.points] == pytest.approx([1.0, 0.8, 0.6], abs=0.03)
    assert curve.base_perplexity == curve.points[0].perplexity == last(tiny_base(family).model, windows).value
    assert curve.tokens == windows.numel() - len(windows) and elastic.plan.ratio == 1
    for point, ratio in zip(curve.points, (1.0, 0.8, 0.6), strict=True):
        plan = elastic.set_size(ratio)
        measured = last(elastic.model, windows)
        assert point == CurvePoint(plan.ratio, plan.parameters, plan.bytes, measured.value, error=point.error)
        assert measured.losses == known[ratio]
    assert [step.done for step in steps] == list(range(1, 13)) and steps[-1].total == 12
    assert list(known) == [1.0, 0.8, 0.6]
    again: list[Progress] = []
    assert finish(measure_curve(elastic, windows, (0.6, 0.8), label, known), again.append) == curve
    assert not again, "points that are known are not measured again"


def test_the_error_of_a_point_is_that_of_its_rise_over_the_full_model(windows):
    elastic = tiny_elastic(adapter_rank=2)
    curve = finish(measure_curve(elastic, windows, (0.6,), ("method", "corpus", "held-out")))
    full = torch.tensor(plain_loop(tiny_base().model, windows)).mean(1)
    elastic.set_size(0.6)
    rises = torch.tensor(plain_loop(elastic.model, windows)).mean(1) - full
    assert curve.points[1].error == pytest.approx((rises.std(correction=1) / len(rises) ** 0.5).item(), rel=1e-3)
    assert curve.points[0].error == 0


def test_sizes_beyond_all_numbers_are_left_out(windows):
    elastic = tiny_elastic()
    for layer in elastic.elastic_layers().values():
        layer.up.fill_(float("inf"))
    curve = finish(measure_curve(elastic, windows, (0.5,), ("method", "corpus", "held-out"), {}))
    assert [point.ratio for point in curve.points] == [1.0]


def test_a_loss_beyond_the_exponent_is_infinite_not_an_error(windows):
    model = tiny_base().model
    with torch.no_grad():
        model.model.norm.weight.mul_(1e5)
    assert token_losses(model, windows).mean() > 1000
    assert last(model, windows).value == math.inf


def test_a_curve_of_a_damaged_model_is_refused(windows):
    elastic = tiny_elastic()
    with torch.no_grad():
        elastic.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="corpus is not finite"):
        finish(measure_curve(elastic, windows, (0.5,), ("method", "corpus", "held-out"), {}))


def test_the_model_stays_trainable(windows):
    model = tiny_base().model
    last(model, windows)
    model(windows, labels=windows).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
