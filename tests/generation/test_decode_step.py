"""The step of its own that models of the Llama kind have for a few tokens: their forward's numbers, at every state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, GraniteConfig, GraniteForCausalLM

from acip_core.generation import step_choice
from acip_core.generation.cache import cache_support_of, select_rows
from acip_core.generation.decode_step import DecodeStep
from acip_core.generation.kept_cache import KeptLayer
from acip_core.generation.native_code import native_code
from acip_core.generation.native_step import NativeStep
from acip_core.generation.step_choice import decode_step_of
from acip_core.model.elastic_model import BatchPlan, ElasticModel
from acip_core.model.operating_points import is_coded
from acip_core.model.size_planner import Plan
from tests.support.coded import coded_elastic
from tests.support.compilers import a_compiler
from tests.support.tiny import FAMILIES, calibration, random_adapters, tiny_elastic

KIND = ("llama", "qwen2", "qwen3", "mistral")
PARTS = (5, 1, 6, 1, 1)  # tokens of a text that are read together
TEXT = 12


@pytest.fixture(params=["native", "torch"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[DecodeStep]:
    """Every test runs with native code and without."""
    if request.param == "torch":
        monkeypatch.setattr(step_choice, "native_code", lambda: None)
        return DecodeStep
    if native_code() is None:
        pytest.skip("there is no compiler on this machine")
    return NativeStep


@pytest.fixture(params=["this processor", "AMD before AVX-512"])
def build(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the second, GCC fuses products and sums in some loops and not in others wherever that is left to it."""
    if request.param == "this processor":
        yield
        return
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this processor runs no code for AVX2")
    monkeypatch.setenv("CC", a_compiler(tmp_path, 'exec cc "$@" -march=x86-64-v3 -mtune=znver3'))
    native_code.cache_clear()
    yield
    native_code.cache_clear()


def step_of(elastic: ElasticModel) -> DecodeStep:
    with elastic.at(elastic.planner.at_ratio(1.0)):
        step = decode_step_of(elastic.model)
    assert step is not None
    return step


def size_of(elastic: ElasticModel, plans: Sequence[Plan], tokens: int = 1) -> Plan | BatchPlan:
    """Of a pass that reads so many tokens of a sequence at each of these."""
    return elastic.batch([plan for plan in plans for _ in range(tokens)]) if len(plans) > 1 else plans[0]


@torch.inference_mode()
def both(elastic: ElasticModel, kind: type[DecodeStep], plans: Sequence[Plan]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (sequences, tokens, vocabulary) of a text at each size, of one pass over all and of steps."""
    step, model, count, logits = step_of(elastic), elastic.model, len(plans), []
    assert type(step) is kind
    ids = calibration()[:count, : sum(PARTS)].to(model.device)
    cache = cache_support_of(model).cache(model, TEXT)
    for part in ids.split(PARTS, dim=1):
        tokens = part.shape[1]
        with elastic.at(size_of(elastic, plans, tokens)):
            found = step(part.flatten(), [cache], [torch.arange(count * tokens).view(count, tokens).tolist()])
        logits.append(found.view(count, tokens, -1))
    with elastic.at(size_of(elastic, plans)):
        return model(ids, use_cache=False).logits, torch.cat(logits, dim=1)


@pytest.mark.parametrize("family", KIND[:3])
@pytest.mark.parametrize("adapters", [0, 2])
@pytest.mark.parametrize("sizes", [(1.0,), (0.7,), (0.45,), (1.0, 0.8, 0.8, 0.5), (0.7, 0.6, 0.5)])
def test_the_numbers_of_the_models_forward(
    family: str, adapters: int, sizes: Sequence[float], code: type[DecodeStep]
) -> None:
    elastic = tiny_elastic(family, adapter_rank=adapters)
    plans = [elastic.planner.at_ratio(size) for size in sizes]
    torch.testing.assert_close(*both(elastic, code, plans), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(0.45,), (1.0, 0.8, 0.8, 0.5)])
def test_factors_of_half_the_bytes(sizes: Sequence[float], code: type[DecodeStep]) -> None:
    elastic = tiny_elastic("llama", adapter_rank=2)
    elastic.base = replace(elastic.base, stored_dtype=torch.bfloat16)
    elastic.round_factors()
    assert all(layer.down.dtype == layer.up.dtype == torch.bfloat16 for layer in elastic.elastic_layers().values())
    plans = [elastic.planner.at_ratio(size) for size in sizes]
    forward, steps = both(elastic, code, plans)
    torch.testing.assert_close(forward, steps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapters", [0, 2])
def test_codes(adapters: int, code: type[DecodeStep]) -> None:
    elastic = coded_elastic(adapter_rank=adapters)
    coded, directions = elastic.planners["both"], elastic.planner
    plans = [coded.at_ratio(size) for size in (0.45, 0.35, 0.3)]
    assert all(any(is_coded(state) for state in plan.states) for plan in plans)
    for batch in ([plans[1]], plans, [directions.at_ratio(1.0), directions.at_ratio(0.6), *plans[:2]]):
        torch.testing.assert_close(*both(elastic, code, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("halves", [False, True])
def test_a_text_does_not_depend_on_its_company_or_on_threads(halves: bool) -> None:
    if native_code() is None:
        pytest.skip("there is no compiler on this machine")
    elastic = coded_elastic()
    elastic.base = replace(elastic.base, stored_dtype=torch.bfloat16)
    if halves:
        elastic.round_factors()
    step, model = step_of(elastic), elastic.model
    planners = elastic.planner, elastic.planners["both"]
    plans = [planners[0].at_ratio(1.0), planners[0].at_ratio(0.6), planners[1].at_ratio(0.35)]
    ids, support = calibration()[:3, : TEXT + 1], cache_support_of(model)
    threads = torch.get_num_threads()

    def texts(rows: Sequence[int]) -> list[DynamicCache]:
        """Caches of these texts, each read at its own size."""
        caches = []
        for row in rows:
            caches.append(support.cache(model, TEXT + 1))
            with elastic.at(plans[row]), torch.inference_mode():
                model(ids[row, None, :TEXT], past_key_values=caches[-1], use_cache=True)
        return caches

    @torch.inference_mode()
    def alone(row: int) -> torch.Tensor:
        with elastic.on_this_thread(plans[row]):
            return step(ids[row, TEXT:], texts([row]), [[[0]]])

    try:
        expected = torch.cat([alone(row) for row in range(3)])
        for count in (1, 2, 3):
            read = texts(range(3))
            torch.set_num_threads(count)
            with elastic.on_this_thread(elastic.batch(plans)):
                assert torch.equal(step(ids[:, TEXT], read, [[[0]], [[1]], [[2]]]), expected)
            torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("build")
def test_a_text_does_not_depend_on_how_many_of_its_tokens_are_read_together() -> None:
    if native_code() is None:
        pytest.skip("there is no compiler on this machine")
    elastic = coded_elastic()
    step, model = step_of(elastic), elastic.model
    ids = calibration()[0, :TEXT]
    for plan in (elastic.planner.at_ratio(1.0), elastic.planner.at_ratio(0.6), elastic.planners["both"].at_ratio(0.35)):
        logits = []
        for tokens in (1, 3, TEXT):
            cache = cache_support_of(model).cache(model, TEXT)
            with elastic.on_this_thread(plan):
                logits.append(torch.cat([step(p, [cache], [[range(len(p))]]) for p in ids.split(tokens)]))
        assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


def test_layers_that_have_changed_are_run_as_they_are(code: type[DecodeStep]) -> None:
    elastic = tiny_elastic("llama")
    elastic.set_size(0.6)
    ids, cache = calibration()[:1, : TEXT + 2], cache_support_of(elastic.model).cache(elastic.model, TEXT)
    with torch.inference_mode():
        elastic.model(ids[:, :TEXT], past_key_values=cache, use_cache=True)
        step = step_of(elastic)
        assert type(step) is code
        before = step(ids[:, TEXT], [cache], [[[0]]])
        elastic.install(random_adapters(elastic.base, 2))
        elastic.set_size(0.6)
        cache = cache_support_of(elastic.model).cache(elastic.model, TEXT)
        elastic.model(ids[:, :TEXT], past_key_values=cache, use_cache=True)
        found = step(ids[:, TEXT], [cache], [[[0]]])
        expected = elastic.model(ids[:, : TEXT + 1], use_cache=False).logits[:, -1]
    assert not torch.allclose(before, found, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_in_another_order_are_run_without_native_code() -> None:
    elastic = tiny_elastic("llama")
    head = elastic.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().t().contiguous().t(), requires_grad=False)
    elastic.set_size(0.6)
    ids, model = calibration()[:1, : TEXT + 1], elastic.model
    cache = cache_support_of(model).cache(model, TEXT)
    with torch.inference_mode():
        model(ids[:, :TEXT], past_key_values=cache, use_cache=True)
        found = step_of(elastic)(ids[:, TEXT], [cache], [[[0]]])
        torch.testing.assert_close(found, model(ids, use_cache=False).logits[:, -1], rtol=1e-4, atol=1e-4)


def test_only_models_that_compute_the_same_have_one() -> None:
    assert [family for family in FAMILIES if decode_step_of(tiny_elastic(family).model)] == list(KIND)


@pytest.mark.parametrize("residual", [1.0, 0.5])
def test_what_only_looks_like_one_is_found_out(residual: float) -> None:
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GraniteConfig(**settings, num_key_value_heads=2, vocab_size=64, residual_multiplier=residual)
    assert bool(decode_step_of(GraniteForCausalLM(config).eval())) == (residual == 1.0)


@pytest.mark.parametrize("room", [0, 1, 6, 40])
def test_a_text_is_kept_where_it_was_written(room: int) -> None:
    source = torch.Generator().manual_seed(0)
    kept, plain = KeptLayer(room), DynamicCache().layer_class_to_replicate()
    places = set()
    for count in (5, 1, 1, 3, 1, 12, 1):
        keys, values = (torch.randn(3, 2, count, 4, generator=source) for _ in range(2))
        for found, expected in zip(kept.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(found, expected)
        places.add(kept.keys.data_ptr())
        assert kept.get_seq_length() == plain.get_seq_length()
    assert len(places) == 1 if room == 40 else 1 < len(places) < 7


def test_rows_that_are_selected_go_on_by_themselves() -> None:
    source = torch.Generator().manual_seed(0)
    kept, plain = DynamicCache(), DynamicCache()
    kept.layers = [KeptLayer(20)]
    cut = False
    for rows, count in ((4, 6), (4, 1), (2, 1), (2, 3)):
        if rows == 2 and not cut:
            cut = True
            for cache in (kept, plain):
                select_rows(cache, torch.tensor([3, 1]))
        keys, values = (torch.randn(rows, 2, count, 4, generator=source) for _ in range(2))
        for found, expected in zip(kept.update(keys, values, 0), plain.update(keys, values, 0), strict=True):
            assert torch.equal(found, expected)
