"""The Python API: load, set the size, generate, measure."""

from __future__ import annotations

import logging
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import acip_core
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError, CorpusError, GenerationError, ModelError, SizeError
from acip_core.generation.engine import SamplingConfig
from tests.support.tiny import tiny_artifact, tiny_base

PROMPT = "Hello there, how are you today? "


@pytest.fixture
def files(cache: Path, tmp_path: Path) -> tuple[str, Path]:
    """A model's folder and its artifact's."""
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny-llama")
    base.tokenizer.save_pretrained(tmp_path / "tiny-llama")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(tmp_path / "tiny-llama"), tmp_path / "artifact"


@pytest.fixture
def model(files: tuple[str, Path]) -> acip_core.Model:
    return acip_core.load(*files)


def test_size(model: acip_core.Model) -> None:
    assert model.size == 1.0 and model.plan.saved == 0
    plan = model.set_size(0.6)
    assert model.plan == plan and model.size == plan.ratio == pytest.approx(0.6, abs=0.02)
    for wrong in (0, -1, 1.1, math.nan, math.inf, 10**400, 10**5000, True, "0.5", None):
        with pytest.raises(SizeError):
            model.set_size(wrong)  # type: ignore[arg-type]
        assert model.plan == plan


def test_generate_continues_as_transformers_does(model: acip_core.Model) -> None:
    inputs = model.elastic.tokenizer(PROMPT, return_tensors="pt")
    texts = set()
    for size in (1.0, 0.5):
        model.set_size(size)
        made = model.elastic.model.generate(
            inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=12, do_sample=False
        )
        expected = model.elastic.tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        texts.add(model.generate(PROMPT, max_new_tokens=12))
        assert expected in texts and model.size == pytest.approx(size, abs=0.02)
    assert len(texts) == 2


def test_sampling_is_fixed_by_its_seed(model: acip_core.Model) -> None:
    def sample(seed: int) -> str:
        return model.generate(PROMPT, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed)

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"max_new_tokens": 0}, {"chat": True}])
def test_settings_that_cannot_be_run(model: acip_core.Model, wrong: dict) -> None:
    with pytest.raises(GenerationError):
        model.generate(PROMPT, **wrong)
    with pytest.raises(GenerationError, match="empty"):
        model.generate(" ")


def test_perplexity_at_the_size_in_force(model: acip_core.Model) -> None:
    text = "Some text of a few words, all of them read."
    ids = torch.tensor([[2, *model.elastic.tokenizer(text).input_ids]])  # after the end-of-text token
    found = {}
    for size in (1.0, 0.5):
        model.set_size(size)
        with torch.no_grad():
            expected = model.elastic.model(ids, labels=ids).loss.exp().item()
        found[size] = model.perplexity(text)
        assert found[size] == pytest.approx(expected, rel=1e-5)
    assert found[1.0] != found[0.5]


def test_a_long_text_is_read_in_windows_that_fit_the_context(model: acip_core.Model) -> None:
    text = "abcdefghi " * 60  # 600 tokens in a context of 256: windows that share a token, so that each is predicted
    ids = torch.tensor([2, *model.elastic.tokenizer(text).input_ids])
    windows = [ids[i : i + 256] for i in range(0, len(ids) - 1, 255)]
    with torch.no_grad():
        sums = [model.elastic.model(row[None], labels=row[None]).loss.item() * (len(row) - 1) for row in windows]
    assert model.perplexity(text) == pytest.approx(math.exp(sum(sums) / (len(ids) - 1)), rel=1e-5)


def test_an_empty_text(model: acip_core.Model) -> None:
    with pytest.raises(CorpusError, match="two tokens"):
        model.perplexity("")


def test_weights_the_artifact_was_not_made_from_are_said(files: tuple[str, Path], caplog) -> None:
    other = tiny_base(seed=9)
    other.model.save_pretrained(files[0])
    with caplog.at_level(logging.WARNING, "acip"):
        assert acip_core.load(files[0], str(files[1])).size == 1.0
    assert "close to, not exactly" in caplog.text


def test_nothing_to_load(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        acip_core.load("/nowhere.gguf")
    with pytest.raises(ArtifactError, match="No artifact at"):
        acip_core.load(files[0], tmp_path / "none")


def test_a_text_that_is_none(model: acip_core.Model) -> None:
    with pytest.raises(CorpusError, match="of a text"):
        model.perplexity(None)  # type: ignore[arg-type]


def test_from_eight_threads_every_call_is_right(model: acip_core.Model) -> None:
    ids = torch.arange(5, 45)[None]
    plans = {size: model.elastic.planner.at_ratio(size) for size in (1.0, 0.7, 0.5)}
    expected: dict[str, set] = {"generate": set(), "sample": set(), "perplexity": set(), "forward": set()}

    def forward() -> tuple[float, ...]:
        with torch.no_grad():
            return tuple(model.elastic.model(ids).logits[0, -1].tolist())

    verbs = {
        "generate": lambda: model.generate(PROMPT, max_new_tokens=8),
        "sample": lambda: model.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=3),
        "perplexity": lambda: round(model.perplexity(PROMPT * 20), 3),
        "forward": forward,
    }
    for size in plans:
        model.set_size(size)
        for name, verb in verbs.items():
            expected[name].add(verb())
    assert all(len(values) > 1 for values in expected.values())
    ratios = {plan.ratio for plan in plans.values()}

    def calls(seed: int) -> list[tuple[str, object]]:
        chosen = random.Random(seed)
        found: list[tuple[str, object]] = []
        for _ in range(12):
            size, name = chosen.choice(list(plans)), chosen.choice(list(verbs))
            assert model.set_size(size) == plans[size]
            found.append((name, verbs[name]()))
            assert model.size in ratios and model.plan.ratio in ratios
        return found

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(calls, range(8)):
            for name, value in found:
                assert value in expected[name]
    model.set_size(0.7)
    assert forward() in expected["forward"] and model.elastic.plan == model.plan == plans[0.7]


def test_a_size_set_meanwhile_leaves_a_running_text_as_it_is(model: acip_core.Model) -> None:
    model.set_size(0.5)
    alone = model.generate(PROMPT, max_new_tokens=100)
    steps = model._engine.stream(PROMPT, model.plan, SamplingConfig(max_new_tokens=100))
    text = next(steps).text
    for i, token in enumerate(steps):
        model.set_size((1.0, 0.7)[i % 2])
        text += token.text
    assert text == alone


def test_a_pass_keeps_the_size_at_its_start(model: acip_core.Model) -> None:
    ids = torch.arange(5, 25)[None]
    model.set_size(0.5)
    with torch.no_grad():
        expected = model.elastic.model(ids).logits
        first = next(iter(model.elastic.elastic_layers().values()))
        with ThreadPoolExecutor(1) as other:
            hook = first.register_forward_hook(lambda *_: other.submit(model.set_size, 1.0).result() and None)
            assert torch.equal(model.elastic.model(ids).logits, expected)
            hook.remove()
            assert not torch.equal(model.elastic.model(ids).logits, expected)
