"""Adapter training: it helps, it leaves the model as it was, and a killed run ends like one that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from acip_core.errors import ModelError, StorageError
from acip_core.evaluation.perplexity import token_losses
from acip_core.model import autocast
from acip_core.model.elastic_model import ElasticModel
from acip_core.progress import finish
from acip_core.training import distillation as training
from acip_core.training.adapters import AdapterConfig, TrainedAdapters, train_adapters
from tests.support.faults import full_disk
from tests.support.tiny import calibration, tiny_elastic

pytestmark = pytest.mark.usefixtures("exact")

SETTINGS = AdapterConfig(rank=2, alpha=4, steps=12, learning_rate=1e-2, smallest=0.4)


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def mixed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both precisions, whatever this machine's processor multiplies natively."""
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: request.param)
    return request.param


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
    assert 0.39 <= trained.ratios.min() < 0.5 and 0.85 < trained.ratios.max() <= 0.97


def test_one_seed_one_result() -> None:
    runs = [finish(train_adapters(tiny_elastic(), calibration(), SETTINGS)) for _ in range(2)]
    other = finish(train_adapters(tiny_elastic(), calibration(), replace(SETTINGS, seed=1)))
    assert same(*runs) and not same(runs[0], other)


@pytest.mark.parametrize("killed_after", [1, 7, 11])
def test_a_killed_run_continues_to_the_same_result(tmp_path: Path, killed_after: int, mixed: bool) -> None:
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


@pytest.mark.parametrize("change", ["text", "model", "settings"])
def test_what_makes_another_run(tmp_path: Path, change: str) -> None:
    checkpoint = tmp_path / "adapters.safetensors"
    finish(train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint))
    elastic = tiny_elastic("qwen2" if change == "model" else "llama")
    windows = calibration().flip(0) if change == "text" else calibration()
    settings = replace(SETTINGS, alpha=8) if change == "settings" else SETTINGS
    assert next(train_adapters(elastic, windows, settings, checkpoint)).done == 1


@pytest.mark.parametrize("how", ["finished", "cancelled", "failed"])
def test_the_model_is_as_before(how: str, family: str, mixed: bool) -> None:
    elastic = tiny_elastic(family)
    elastic.set_size(0.7)
    plan, windows = elastic.plan, calibration()
    before = elastic.model(windows).logits
    for index, parameter in enumerate(elastic.model.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    weights = {name: tensor.clone() for name, tensor in tensors(elastic).items()}
    steps = train_adapters(elastic, windows, replace(SETTINGS, steps=2))
    next(steps)
    if how == "finished":
        finish(steps)
    elif how == "cancelled":
        steps.close()
    else:
        with pytest.raises(RuntimeError, match="from outside"):
            steps.throw(RuntimeError("from outside"))
    assert elastic.plan == plan
    assert [p.requires_grad for p in elastic.model.parameters()] == [
        index % 3 == 0 for index, _ in enumerate(elastic.model.parameters())
    ]
    after = tensors(elastic)
    assert list(after) == list(weights) and all(torch.equal(after[name], weights[name]) for name in weights)
    assert torch.equal(elastic.model(windows).logits, before)
    assert all(layer.adapter is None for layer in elastic.elastic_layers().values())


def tensors(elastic: ElasticModel) -> dict[str, torch.Tensor]:
    return dict(elastic.model.named_parameters()) | dict(elastic.model.named_buffers())


def _without(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


HALVES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "a parameter is missing": lambda t: _without(t, "parameter.5"),
    "a parameter is not finite": lambda t: t["parameter.5"].fill_(torch.nan),
    "a parameter has another shape": lambda t: t.update({"parameter.5": torch.zeros(1)}),
    "half a moment": lambda t: _without(t, "exp_avg.3"),
    "no step": lambda t: _without(t, "step.3"),
    "a moment is not finite": lambda t: t["exp_avg_sq.3"].fill_(torch.inf),
    "no losses": lambda t: _without(t, "losses"),
    "too few losses": lambda t: t.update(losses=torch.ones(2)),
}


@pytest.mark.parametrize("case", HALVES)
def test_a_checkpoint_of_this_run_with_damaged_content_is_not_trusted(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "adapters.safetensors"
    whole = finish(train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint))
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    content = load_file(checkpoint)
    HALVES[case](content)
    save_file(content, checkpoint, metadata)
    again = train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)
    assert next(again).done == 1
    assert same(finish(again), whole)
    assert "is damaged" in caplog.text


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "adapters.safetensors"
    steps = train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)
    for _ in range(4):
        next(steps)
    with pytest.raises(StorageError, match=r"adapters\.safetensors .*File too large"), full_disk():
        next(steps)
    assert list(tmp_path.iterdir()) == [checkpoint]
    assert next(train_adapters(tiny_elastic(), calibration(), SETTINGS, checkpoint)).done == 4


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
    torch.testing.assert_close(training.divergence(teacher, log_q), expected)


def test_a_small_divergence_over_a_large_vocabulary_is_exact() -> None:
    source = torch.Generator().manual_seed(0)
    teacher = torch.randn(64, 49152, generator=source) * 3 + 10
    student = teacher + torch.randn(teacher.shape, generator=source) * 0.1
    expected = F.kl_div(*(x.double().log_softmax(-1) for x in (student, teacher)), log_target=True, reduction="sum")
    measured = training.divergence(teacher, student.log_softmax(-1))
    torch.testing.assert_close(measured, expected.float() / 64, rtol=0.02, atol=0)
