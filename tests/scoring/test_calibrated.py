"""The predicted order calibrated on cuts: layers that matter more than predicted keep more of their directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.progress import finish
from acip_core.scoring.calibrated import OrderCalibration, calibrated_scores
from acip_core.scoring.envelope import envelope_scores
from tests.support.tiny import calibration, tiny_base, tiny_factors

SETTINGS = OrderCalibration(ratios=(0.8, 0.6), rounds=2)


def predicted(family: str = "llama", pivoted: bool = True) -> tuple[ElasticModel, dict[str, torch.Tensor]]:
    """An elastic model in the order of its singular values, and their squares."""
    base = tiny_base(family)
    factors = tiny_factors(base)
    gains = {name: found.singular_values.square() for name, found in factors.items()}
    shapes = {name: tuple(base.model.get_submodule(name).weight.shape) for name in factors}
    scores = {name: envelope_scores(gain, shapes[name], pivoted=pivoted) for name, gain in gains.items()}
    return finish(build_elastic(base, factors, scores, pivoted=pivoted)), gains


@pytest.mark.parametrize("pivoted", [False, True])
def test_every_layer_gets_one_factor_and_the_model_stays_as_it_is(family: str, pivoted: bool) -> None:
    elastic, gains = predicted(family, pivoted)
    ids, layers = calibration()[:1], elastic.elastic_layers()
    elastic.set_size(0.6)
    before = elastic.model(ids).logits
    trainable = [p.requires_grad for p in elastic.model.parameters()]
    found = finish(calibrated_scores(elastic, gains, calibration(), SETTINGS))
    assert torch.equal(elastic.model(ids).logits, before)
    assert [p.requires_grad for p in elastic.model.parameters()] == trainable
    factors = []
    for name, layer in layers.items():
        m, n = layer.weight.shape
        ratio = found[name] / envelope_scores(gains[name], (m, n), pivoted=pivoted)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
        factors.append(float(ratio[0]))
    assert max(factors) > 1.05 * min(factors)


def test_a_layer_predicted_far_too_cheap_is_found() -> None:
    elastic, gains = predicted()
    name = next(iter(gains))
    truth = finish(calibrated_scores(elastic, gains, calibration(), replace(SETTINGS, rounds=1)))
    wrong = {n: gain / 4 if n == name else gain for n, gain in gains.items()}
    found = finish(calibrated_scores(elastic, wrong, calibration(), replace(SETTINGS, rounds=1)))
    assert found[name][0] / wrong[name][0] > 1.5 * truth[name][0] / gains[name][0]


def test_damaged_weights_are_an_error() -> None:
    elastic, gains = predicted()
    with torch.no_grad():
        next(iter(elastic.elastic_layers().values())).weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        finish(calibrated_scores(elastic, gains, calibration(), SETTINGS))
