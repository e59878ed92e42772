"""The step of its own that models of the Llama kind have for one token: their forward's numbers, at every state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import DynamicCache, GraniteConfig, GraniteForCausalLM

from acip_core.generation.cache import cache_support_of, select_rows
from acip_core.generation.decode_step import DecodeStep, decode_step_of
from acip_core.generation.kept_cache import KeptLayer
from acip_core.model import coded_layers, kernels
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.operating_points import is_coded
from tests.support.coded import coded_elastic
from tests.support.tiny import FAMILIES, calibration, tiny_elastic

KIND = ("llama", "qwen2", "qwen3", "mistral")
TEXT = 12  # tokens behind the step


def step_of(elastic: ElasticModel) -> DecodeStep:
    with elastic.at(elastic.planner.at_ratio(1.0)):
        step = decode_step_of(elastic.model)
    assert step is not None
    return step


@torch.inference_mode()
def both(elastic: ElasticModel, rows: int = 1, tokens: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, tokens, vocabulary) behind a text, of one pass over all and of steps, at the size in force."""
    step, model, logits = step_of(elastic), elastic.model, []
    ids = calibration()[:rows, : TEXT + tokens].to(model.device)
    cache = cache_support_of(model).cache(model, TEXT)
    model(ids[:, :TEXT], past_key_values=cache, use_cache=True)
    for at in range(TEXT, TEXT + tokens):
        logits.append(step(ids[:, at, None], [cache], [range(rows)]))
    return model(ids, use_cache=False).logits[:, TEXT:], torch.cat(logits, dim=1)


@pytest.mark.parametrize("family", KIND[:3])
@pytest.mark.parametrize("adapters", [0, 2])
@pytest.mark.parametrize("sizes", [(1.0,), (0.7,), (0.45,), (1.0, 0.8, 0.8, 0.5)])
def test_the_numbers_of_the_models_forward(family: str, adapters: int, sizes: Sequence[float]) -> None:
    elastic = tiny_elastic(family, adapter_rank=adapters)
    plans = [elastic.planner.at_ratio(size) for size in sizes]
    elastic.apply(elastic.batch(plans) if len(plans) > 1 else plans[0])
    torch.testing.assert_close(*both(elastic, len(plans)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapters", [0, 2])
def test_codes_are_multiplied_as_bytes(adapters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    product, sequences = coded_layers.byte_product, set()
    monkeypatch.setattr(coded_layers, "byte_product", lambda x, z: sequences.add(len(x)) or product(x, z))
    elastic = coded_elastic(adapter_rank=adapters)
    planner = elastic.planners["both"]
    plans = [planner.at_ratio(size) for size in (0.45, 0.35, 0.3)]
    assert all(any(is_coded(state) for state in plan.states) for plan in plans)
    for rows in (1, 3):
        elastic.apply(elastic.batch(plans) if rows > 1 else plans[1])
        expected, found = both(elastic, rows)
        assert float((found - expected).norm()) <= 0.02 * float(expected.norm())  # the kernel rounds to bfloat16
    assert bool(sequences) == kernels._BYTES


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
