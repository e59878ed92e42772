"""Factor training: it repairs cuts, costs no size, leaves size 1.0 alone; a killed run ends like one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model import autocast
from acip_core.progress import Progress, finish
from acip_core.training.balanced import BalancedFactors, updates_of
from acip_core.training.factors import FactorConfig, FactorRun, TrainedFactors, train_factors
from tests.support.fidelity import divergence
from tests.support.tiny import calibration, tiny_elastic

pytestmark = pytest.mark.usefixtures("exact")

SETTINGS = FactorConfig(steps=8, batch=2, learning_rate=1e-2, smallest=0.3)


def same(one: TrainedFactors, other: TrainedFactors) -> bool:
    pairs = [
        (getattr(u, side), getattr(other.updates[name], side)) for name, u in one.updates.items() for side in vars(u)
    ]
    equal = all(torch.equal(a.digits, b.digits) and torch.equal(a.scale, b.scale) for a, b in pairs)
    return equal and torch.equal(one.losses, other.losses) and torch.equal(one.ratios, other.ratios)


def test_every_size_comes_closer_to_the_full_model_and_none_grows(family: str) -> None:
    elastic = tiny_elastic(family)
    ids = calibration()[:1]
    before = {ratio: divergence(elastic, ratio) for ratio in (0.4, 0.6)}
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.3, 0.6, 1.0)]
    full = elastic.model(ids).logits
    trained = finish(train_factors(elastic, calibration(), replace(SETTINGS, steps=60)))
    assert {ratio: divergence(elastic, ratio) for ratio in before} == before  # nothing is installed yet
    elastic.update_factors(trained.updates)
    for ratio, old in before.items():
        assert divergence(elastic, ratio) < 0.9 * old
    assert [elastic.planner.at_ratio(ratio) for ratio in (0.3, 0.6, 1.0)] == plans
    assert torch.equal(elastic.model(ids).logits, full)


def test_both_halves_of_the_range_are_drawn_at_every_step() -> None:
    trained = finish(train_factors(tiny_elastic(), calibration(), SETTINGS))
    assert trained.losses.shape == trained.ratios.shape == (8, 2)
    middle = (SETTINGS.smallest + SETTINGS.largest) / 2
    assert (trained.ratios[:, 0] <= middle + 0.01).all() and (trained.ratios[:, 1] >= middle).all()
    assert trained.ratios.min() >= SETTINGS.smallest and trained.ratios.max() <= SETTINGS.largest + 0.01


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: mixed)
    whole = finish(train_factors(tiny_elastic(), calibration(), SETTINGS))

    def kill(step: Progress) -> None:
        if step.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(train_factors(tiny_elastic(), calibration(), SETTINGS, tmp_path / "state"), kill)
    assert same(finish(train_factors(tiny_elastic(), calibration(), SETTINGS, tmp_path / "state")), whole)
    other = finish(train_factors(tiny_elastic(), calibration(), replace(SETTINGS, seed=1), tmp_path / "state"))
    assert not same(other, whole)


def test_factors_run_as_they_are_kept() -> None:
    elastic = tiny_elastic()
    layers = elastic.elastic_layers()
    factors = BalancedFactors(layers, rounded=True)
    run = FactorRun(elastic, calibration(), SETTINGS, factors)
    with run.attached():
        for _ in range(3):
            run.advance()
        factors.round()
        plan = elastic.planner.at_ratio(0.5)
        with torch.no_grad(), elastic.at(plan):
            trained = elastic.model(calibration()).logits
    before = layers["model.layers.0.mlp.up_proj"].down.clone()
    elastic.update_factors(updates_of(layers, factors.factors()))
    assert not torch.equal(layers["model.layers.0.mlp.up_proj"].down, before)
    with torch.no_grad(), elastic.at(plan):
        torch.testing.assert_close(elastic.model(calibration()).logits, trained, rtol=1e-4, atol=1e-4)


def test_the_model_is_as_before_when_training_stops(tmp_path: Path) -> None:
    elastic = tiny_elastic()
    layers = elastic.elastic_layers()
    factors = {name: (layer.down, layer.up) for name, layer in layers.items()}
    values = {name: (down.clone(), up.clone()) for name, (down, up) in factors.items()}
    flags = [p.requires_grad for p in elastic.model.parameters()]
    run = train_factors(elastic, calibration(), SETTINGS)
    next(run)
    run.close()
    assert [p.requires_grad for p in elastic.model.parameters()] == flags
    for name, layer in layers.items():
        assert (layer.down is factors[name][0]) and (layer.up is factors[name][1])
        assert torch.equal(layer.down, values[name][0]) and torch.equal(layer.up, values[name][1])


def test_a_divergence_that_is_not_finite_names_the_step() -> None:
    elastic = tiny_elastic()
    next(iter(elastic.elastic_layers().values())).down.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite at step 1; lower"):
        finish(train_factors(elastic, calibration(), SETTINGS))
