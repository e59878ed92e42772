"""The embedded model end to end, on the artifact that comes with the project."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.loading import Loaded, open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.data.corpus import documents, token_windows
from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.model.base_model import DEFAULT_MODEL, BaseModel, fingerprint, load_base
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish

pytestmark = pytest.mark.real
PROMPT = "The capital of Germany is called"


@pytest.fixture(scope="module")
def loaded(default_gguf: Path) -> Loaded:
    folder = default_artifact(DEFAULT_MODEL)
    if not folder.exists() and not os.environ.get("CI"):
        pytest.skip(f"no artifact of the default model at {folder}")
    return finish(open_model())


@pytest.fixture(scope="module")
def plain(default_gguf: Path) -> BaseModel:
    return load_base()


@pytest.fixture
def elastic(loaded: Loaded) -> Iterator[ElasticModel]:
    yield loaded.elastic
    loaded.elastic.set_size(1.0)


def greedy(base: BaseModel | ElasticModel, tokens: int) -> str:
    inputs = base.tokenizer(PROMPT, return_tensors="pt")
    output = base.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return base.tokenizer.decode(output[0, inputs.input_ids.shape[1] :])


def test_the_artifact_fits_and_is_complete(loaded: Loaded) -> None:
    folder = default_artifact(DEFAULT_MODEL)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 64e6
    assert loaded.note == ""
    by_label = {(curve.method, curve.corpus): curve for curve in read_artifact(folder).curves}
    for corpus in ("c4", "wikipedia"):
        own = by_label["predicted+factors", corpus]
        assert [round(100 * p.ratio) for p in own.points] == list(range(100, 25, -5))
        assert own.split == "held-out" and own.tokens >= 16 * 511
        plans = [loaded.elastic.planner.at_ratio(round(p.ratio, 2)) for p in own.points]
        assert [(p.parameters, p.bytes) for p in own.points] == [(p.parameters, p.bytes) for p in plans]
        for method in ("svd-llm", "svd-magnitude"):
            for point in by_label[method, corpus].points[1:]:
                nearest = min(own.points, key=lambda p: abs(p.ratio - point.ratio))
                assert nearest.perplexity < point.perplexity


def test_full_size_is_the_base_model_bit_for_bit_after_a_thousand_sizes(
    elastic: ElasticModel, plain: BaseModel
) -> None:
    ids = plain.tokenizer(PROMPT, return_tensors="pt").input_ids
    random = torch.Generator().manual_seed(0)
    for ratio in (0.3 + 0.7 * torch.rand(1000, generator=random)).tolist():
        elastic.set_size(ratio)
    with torch.no_grad():
        assert not torch.equal(elastic.model(ids).logits, plain.model(ids).logits)
        elastic.set_size(1.0)
        assert torch.equal(elastic.model(ids).logits, plain.model(ids).logits)


def test_perplexity_at_full_size_and_below(elastic: ElasticModel, plain: BaseModel, loaded: Loaded) -> None:
    windows = token_windows(plain.tokenizer, documents("wikipedia", "held-out"), 256, 2)
    with torch.no_grad():
        losses = [plain.model(w[None], labels=w[None]).loss.item() for w in windows]
    base = math.exp(sum(losses) / 2)
    *_, full = measure_perplexity(elastic.model, windows)
    assert full.value == pytest.approx(base, rel=1e-5)
    elastic.set_size(0.8)
    *_, smaller = measure_perplexity(elastic.model, windows)
    curve = next(c for c in loaded.artifact.curves if c.corpus == "wikipedia")
    (point,) = [p for p in curve.points if round(p.ratio, 2) == 0.8]
    assert smaller.value / base == pytest.approx(point.perplexity / curve.base_perplexity, rel=0.3)
    assert base < smaller.value < 2 * base


def test_the_gguf_file_by_its_path_is_the_same_model(plain: BaseModel, default_gguf: Path) -> None:
    named = load_base(str(default_gguf))
    assert named.name == default_gguf.stem.lower()
    assert named.tokenizer.decode(named.tokenizer("Hello, world").input_ids) == "Hello, world"
    weights, others = ({n: layer.weight for n, layer in target_layers(b.model).items()} for b in (plain, named))
    assert fingerprint(weights) == fingerprint(others)
    assert fingerprint({name: weight.bfloat16() for name, weight in weights.items()}) == fingerprint(others)


def test_the_capital_of_germany(elastic: ElasticModel, plain: BaseModel) -> None:
    assert "Berlin" in greedy(plain, 12)
    assert greedy(elastic, 12) == greedy(plain, 12)
    elastic.set_size(0.9)
    assert "Berlin" in greedy(elastic, 12)
