"""The size in force: what is written, measured and saved at it, from one thread and from eight."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from acip_core import AcipModel
from acip_core.errors import (
    ArgumentError,
    CorpusError,
    HubError,
    SizeError,
    StorageError,
)
from tests.support.device import DEVICE

PROMPT = "Hello there, how are you today? "


def test_size(model: AcipModel) -> None:
    assert model.size == 1.0 and model.plan.saved == 0
    plan = model.set_size(0.6)
    assert model.plan == plan and model.size == plan.ratio == pytest.approx(0.6, abs=0.02)
    for wrong in (0, -1, 1.1, math.nan, math.inf, 10**400, 10**5000, True, "0.5", None):
        with pytest.raises(SizeError):
            model.set_size(wrong)  # type: ignore[arg-type]
        assert model.plan == plan


def test_perplexity_at_the_size_in_force(model: AcipModel) -> None:
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


def test_a_long_text_is_read_in_windows_that_fit_the_context(model: AcipModel) -> None:
    text = "abcdefghi " * 60  # 600 tokens in a context of 256: windows that share a token, so that each is predicted
    ids = torch.tensor([2, *model.elastic.tokenizer(text).input_ids])
    windows = [ids[i : i + 256] for i in range(0, len(ids) - 1, 255)]
    with torch.no_grad():
        sums = [model.elastic.model(row[None], labels=row[None]).loss.item() * (len(row) - 1) for row in windows]
    assert model.perplexity(text) == pytest.approx(math.exp(sum(sums) / (len(ids) - 1)), rel=1e-5)


def test_an_empty_text(model: AcipModel) -> None:
    with pytest.raises(CorpusError, match="two tokens"):
        model.perplexity("")


def test_save_pretrained(model: AcipModel, tmp_path: Path) -> None:
    model.set_size(0.5)
    folder = model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).to(DEVICE)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, model.elastic.model(ids).logits, atol=1e-4)
    with pytest.raises(StorageError, match="exists already"):
        model.save_pretrained(folder)
    with pytest.raises(ArgumentError, match="save_pretrained takes no 'safe_serialization'"):
        model.save_pretrained(tmp_path / "more", safe_serialization=True)
    with pytest.raises(ArgumentError, match="push_to_hub takes no 'commit_message'"):
        model.push_to_hub("user/repo", commit_message="x")
    with pytest.raises(HubError, match="write it as user/repo"):
        model.push_to_hub("repo")


def test_a_text_that_is_none(model: AcipModel) -> None:
    with pytest.raises(CorpusError, match="of a text"):
        model.perplexity(None)  # type: ignore[arg-type]


def test_from_eight_threads_every_call_is_right(model: AcipModel, tmp_path: Path) -> None:
    """Each call runs at one size from its start to its end, whatever the others set: it is one of those expected."""
    ids, prompt = torch.arange(5, 45)[None], torch.arange(40, 60)[None]
    plans = {size: model.elastic.planner.at_ratio(size) for size in (1.0, 0.7, 0.5)}
    names = itertools.count()

    def forward() -> tuple[float, ...]:
        with torch.no_grad():
            return tuple(model.elastic.model(ids).logits[0, -1].tolist())

    def save() -> str:
        folder = model.save_pretrained(tmp_path / str(next(names)))
        weights = b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))
        return hashlib.sha256((folder / "config.json").read_bytes() + weights).hexdigest()

    verbs: dict[str, Callable[[], object]] = {
        "generate": lambda: tuple(model.generate(prompt, max_new_tokens=8, do_sample=False)[0].tolist()),
        "complete": lambda: model.complete(PROMPT, max_new_tokens=8),
        "sample": lambda: "".join(model.stream(PROMPT, max_new_tokens=8, temperature=1.0, seed=3)),
        "perplexity": lambda: round(model.perplexity(PROMPT * 20), 3),
        "forward": forward,
        "save": save,
    }
    expected: dict[str, set] = {name: set() for name in verbs}
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
                assert value in expected[name], name
    model.set_size(0.7)
    assert forward() in expected["forward"] and model.elastic.plan == model.plan == plans[0.7]


def test_a_size_set_meanwhile_leaves_a_running_text_as_it_is(model: AcipModel) -> None:
    model.set_size(0.5)
    alone = model.complete(PROMPT, max_new_tokens=100)
    parts = model.stream(PROMPT, max_new_tokens=100)
    text = next(parts)
    for i, part in enumerate(parts):
        model.set_size((1.0, 0.7)[i % 2])
        text += part
    assert text == alone


def test_a_pass_keeps_the_size_at_its_start(model: AcipModel) -> None:
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


def test_generate_keeps_the_size_at_its_start(model: AcipModel) -> None:
    ids = torch.arange(5, 25)[None]
    model.set_size(0.5)
    alone = model.generate(ids, max_new_tokens=20, do_sample=False)

    def resize(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        model.set_size(1.0)
        return scores

    assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False, logits_processor=[resize]), alone)
    assert model.size == 1.0 and not torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False), alone)
