"""Scaling: differences that go too far are taken back, their signs stay; a killed run ends like one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.model.elastic_model import ElasticModel
from acip_core.model.trained_factors import FactorUpdate
from acip_core.progress import Progress, finish
from acip_core.training.factors import FactorConfig, train_factors
from acip_core.training.scaling import BATCH, STEPS, ScaledFactors, scale_factors, scaling_as_steps
from tests.support.fidelity import divergence
from tests.support.tiny import calibration, tiny_elastic

pytestmark = pytest.mark.usefixtures("exact")

SETTINGS = FactorConfig(steps=20, batch=2, learning_rate=1e-2, smallest=0.3)


@pytest.fixture(scope="module")
def updates() -> dict[str, FactorUpdate]:
    """What training adds to the tiny model, four times as far."""
    trained = finish(train_factors(tiny_elastic(), calibration(), SETTINGS)).updates
    return {
        name: FactorUpdate(*(replace(side, scale=4 * side.scale) for side in (update.down, update.up)))
        for name, update in trained.items()
    }


def sides(updates: dict[str, FactorUpdate]) -> list:
    return [side for update in updates.values() for side in (update.down, update.up)]


def with_updates(updates: dict[str, FactorUpdate]) -> ElasticModel:
    elastic = tiny_elastic()
    elastic.update_factors(updates)
    return elastic


def test_what_goes_too_far_is_taken_back(updates: dict[str, FactorUpdate]) -> None:
    elastic = tiny_elastic()
    before = {name: layer.down.clone() for name, layer in elastic.elastic_layers().items()}
    scaled = finish(scale_factors(elastic, calibration(), updates, SETTINGS))
    assert all(torch.equal(layer.down, before[name]) for name, layer in elastic.elastic_layers().items())
    for own, found in zip(sides(updates), sides(scaled), strict=True):
        assert torch.equal(own.digits, found.digits) and own.columns == found.columns
    far, near = with_updates(updates), with_updates(scaled)
    for ratio, share in ((0.4, 1.0), (0.6, 0.9), (0.9, 0.8)):  # the larger a size, the less of it that it wants
        assert divergence(near, ratio) < share * divergence(far, ratio)
    ids = calibration()[:1]
    near.set_size(1.0)
    assert torch.equal(near.model(ids).logits, tiny_elastic().model(ids).logits)


def test_a_killed_run_ends_like_one_that_was_not(updates: dict[str, FactorUpdate], tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=6)
    whole = finish(scale_factors(tiny_elastic(), calibration(), updates, settings))

    def kill(step: Progress) -> None:
        if step.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(scale_factors(tiny_elastic(), calibration(), updates, settings, tmp_path / "state"), kill)
    resumed = finish(scale_factors(tiny_elastic(), calibration(), updates, settings, tmp_path / "state"))
    for one, other in zip(sides(whole), sides(resumed), strict=True):
        assert torch.equal(one.scale, other.scale)


def test_rows_are_told_apart_by_the_size_at_which_they_enter(updates: dict[str, FactorUpdate]) -> None:
    elastic = tiny_elastic()
    stretches = ScaledFactors(elastic, updates, SETTINGS).stretches
    assert {int(place) for rows in stretches.values() for place in rows} >= {0, 1, 2}
    smallest = elastic.planner.at_ratio(SETTINGS.smallest).ranks
    for rows, rank in zip(stretches.values(), smallest, strict=True):
        assert torch.equal(rows, rows.sort().values)
        assert rank < 0 or int((rows == 0).sum()) == min(rank, len(rows))


def test_gradients_of_scales_are_those_of_finite_differences(updates: dict[str, FactorUpdate]) -> None:
    factors = ScaledFactors(tiny_elastic(), updates, SETTINGS)
    name = next(iter(factors.layers))
    weights = [torch.randn(side.shape, generator=torch.Generator().manual_seed(0)) for side in factors.running[name]]

    def value() -> torch.Tensor:
        factors.round()
        return sum((side * weight).sum() for side, weight in zip(factors.running[name], weights, strict=True))

    value().backward()
    factors.pass_gradients()
    _, single = factors.parameters
    assert single.grad is not None and single.grad[0].any() and not single.grad[1:].any()
    found, start = single.grad[0, 1, 1].item(), value().item()
    assert found != 0
    with torch.no_grad():
        single[0, 1, 1] += 0.5
    assert (value().item() - start) / 0.5 == pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_a_budget_is_split_between_entries_and_scales(batch: int) -> None:
    for total in (1, 5, 30, 500):
        steps = max(1, total - scaling_as_steps(total, batch))
        windows = steps * batch + min(STEPS, steps) * min(BATCH, batch)
        assert windows <= total * batch or steps == 1
        assert windows > (total - 3) * batch
