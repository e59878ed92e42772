"""Adapter training: it helps, it leaves the model as it was, and a killed run ends like one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from acip_core import adapters as module
from acip_core.adapters import AdapterSettings, TrainedAdapters, train_adapters
from acip_core.errors import ModelError
from acip_core.evaluate import token_losses
from acip_core.progress import finish
from tests.tiny import calibration, tiny_elastic

SETTINGS = AdapterSettings(rank=2, alpha=4, steps=12, learning_rate=1e-2, smallest=0.4)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 and a checkpoint after every step."""
    monkeypatch.setattr(module, "mixed_precision_is_native", lambda device: False)
    monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0)


def same(one: TrainedAdapters, other: TrainedAdapters) -> bool:
    pairs = [(one.weights[name], other.weights[name]) for name in one.weights]
    equal = all(torch.equal(x.a, y.a) and torch.equal(x.b, y.b) for x, y in pairs)
    return equal and torch.equal(one.losses, other.losses) and torch.equal(one.ratios, other.ratios)


def test_training_repairs_damage(family: str) -> None:
    elastic, windows = tiny_elastic(family), calibration()
    settings = replace(SETTINGS, steps=60, distillation=0.0)

    def loss() -> float:
        elastic.set_size(0.6)
        return token_losses(elastic.model, windows).mean().item()

    trained = finish(train_adapters(elastic, windows, settings))
    elastic.install({name: replace(w, b=torch.zeros_like(w.b)) for name, w in trained.weights.items()})
    untrained = loss()
    elastic.install(trained.weights)
    assert loss() < untrained - 0.05
    assert trained.losses.shape == trained.ratios.shape == (60,)
    assert trained.ratios.min() >= 0.39 and trained.ratios.max() <= 0.97


def test_one_seed_one_result() -> None:
    runs = [finish(train_adapters(tiny_elastic(), calibration(), SETTINGS)) for _ in range(2)]
    other = finish(train_adapters(tiny_elastic(), calibration(), replace(SETTINGS, seed=1)))
    assert same(*runs) and not same(runs[0], other)


@pytest.mark.parametrize("killed_after", [1, 7, 11])
def test_a_killed_run_continues_to_the_same_result(tmp_path: Path, killed_after: int) -> None:
    checkpoint = tmp_path / "adapters.safetensors"
    steps = train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)
    for _ in range(killed_after + 1):  # the checkpoint follows the yield
        next(steps)
    steps.close()
    again = train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)
    first = next(again)
    assert first.done == killed_after + 1
    whole = finish(train_adapters(tiny_elastic(), calibration(), SETTINGS))
    assert same(finish(again), whole)


def test_layers_that_were_always_dense_are_continued_too(tmp_path: Path) -> None:
    settings = replace(SETTINGS, smallest=0.9, largest=0.99)
    checkpoint = tmp_path / "adapters.safetensors"
    steps = train_adapters(tiny_elastic(), calibration(), settings, checkpoint)
    for _ in range(4):
        next(steps)
    steps.close()
    continued = finish(train_adapters(tiny_elastic(), calibration(), settings, checkpoint))
    assert same(continued, finish(train_adapters(tiny_elastic(), calibration(), settings)))


@pytest.mark.parametrize("wrong", ["another run", "truncated", "text"])
def test_a_checkpoint_of_another_kind_is_not_trusted(tmp_path: Path, wrong: str) -> None:
    checkpoint = tmp_path / "adapters.safetensors"
    finish(train_adapters(tiny_elastic(), calibration(), replace(SETTINGS, seed=5), checkpoint))
    if wrong == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    if wrong == "text":
        checkpoint.write_text("no tensors here")
    result = finish(train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint))
    assert same(result, finish(train_adapters(tiny_elastic(), calibration(), SETTINGS)))


def test_the_model_is_as_before_also_after_cancelling() -> None:
    elastic = tiny_elastic()
    elastic.set_size(0.7)
    plan, windows = elastic.plan, calibration()
    before = elastic.model(windows).logits
    flags = [p.requires_grad for p in elastic.model.parameters()]
    steps = train_adapters(elastic, windows, SETTINGS)
    next(steps)
    steps.close()
    assert elastic.plan == plan
    assert [p.requires_grad for p in elastic.model.parameters()] == flags
    assert torch.equal(elastic.model(windows).logits, before)
    assert all(layer.adapter is None for layer in elastic.elastic_layers().values())


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    elastic, checkpoint = tiny_elastic(), tmp_path / "adapters.safetensors"
    steps = train_adapters(elastic, calibration(), SETTINGS, checkpoint)
    for _ in range(3):
        next(steps)
    with torch.no_grad():
        elastic.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="step 4"):
        next(steps)
    again = train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)
    assert next(again).done == 4


def test_the_divergence_is_that_of_torch() -> None:
    teacher, student = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0)) * 3
    log_q = F.log_softmax(student, dim=-1)
    expected = F.kl_div(log_q, F.log_softmax(teacher, dim=-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(module._divergence(teacher, log_q), expected)
