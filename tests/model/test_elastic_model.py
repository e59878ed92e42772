"""The elastic model: the base model bit for bit at 1.0, the stated cut at any other size, and nothing ever copied."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from acip_core.errors import SizeError
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.model.kernels import use_fast_linears
from acip_core.model.layers import ElasticLinear
from acip_core.model.rank_costs import break_even_rank
from acip_core.model.size_planner import DENSE
from acip_core.progress import finish
from tests.support.device import DEVICE
from tests.support.tiny import (
    generator,
    random_adapters,
    random_scores,
    target_weights,
    tiny_base,
    tiny_elastic,
    tiny_factors,
    tiny_model,
)

SIZES = (0.35, 0.5, 0.62, 0.8, 0.97)


@pytest.fixture(params=[0, 2], ids=["plain", "adapters"])
def adapter_rank(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def elastic(family: str, adapter_rank: int) -> ElasticModel:
    return tiny_elastic(family, adapter_rank=adapter_rank)


def logits(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(windows).logits


def test_one_is_the_base_model_bit_for_bit_after_1000_resizes(elastic: ElasticModel, family: str, windows):
    expected = logits(tiny_base(family).model, windows)
    assert torch.equal(logits(elastic.model, windows), expected)
    source = random.Random(0)
    for step in range(1000):
        elastic.set_size(source.uniform(0.3, 1.0))
        if step % 200 == 0:
            assert not torch.equal(logits(elastic.model, windows), expected)
    assert elastic.set_size(1.0).saved == 0
    assert torch.equal(logits(elastic.model, windows), expected)


def steps(model: PreTrainedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """Logits of 20 tokens in one pass, then of one at a time behind what its cache holds."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        parts = [ids[:, :20], *ids[:, 20:].split(1, dim=1)]
        return [model(part, past_key_values=cache, use_cache=True).logits for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_is_the_base_model_bit_for_bit_for_a_token_as_for_many(family: str, adapter_rank: int, dtype, windows):
    base, elastic = tiny_base(family), tiny_elastic(family, adapter_rank=adapter_rank)
    use_fast_linears(base.model), use_fast_linears(elastic.model)  # as `load_base` does
    base.model.to(dtype), elastic.model.to(dtype)
    source = random.Random(1)
    for _ in range(50):
        elastic.set_size(source.uniform(0.3, 1.0))
        logits(elastic.model, windows[:1, :1])
    elastic.set_size(1.0)
    for rows in (1, 3):
        expected = steps(base.model, windows[:rows])
        assert all(map(torch.equal, steps(elastic.model, windows[:rows]), expected))
        if dtype is torch.bfloat16:  # `use_fast_linears` changes the order of float32 sums alone
            assert all(map(torch.equal, steps(tiny_model(family).to(dtype), windows[:rows]), expected))


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_in_a_batch_too_a_bias_is_added_before_rounding(tokens: int):
    elastic = tiny_elastic("opt", adapter_rank=2)
    elastic.model.to(torch.bfloat16)
    plans = [elastic.planner.at_ratio(size) for size in (1.0, 1.0, 0.7, 0.5)]
    elastic.apply(elastic.batch(plans))
    wrong = []
    with torch.no_grad():
        for layer in elastic.elastic_layers().values():
            x = torch.randn(4, tokens, layer.in_features, generator=generator()).to(DEVICE, torch.bfloat16)
            y, own = layer(x), [plan.ranks[layer.index] for plan in plans]
            for row in (row for row in range(4) if own[row] == DENSE):
                exact = x[row].double() @ layer.weight.double().T + layer.bias.double()
                wrong.append((y[row] != exact.bfloat16()).float().mean())
    assert len(wrong) > 10 and sum(wrong) / len(wrong) < 0.01  # a third, where the sum is rounded twice


def explicit(family: str, adapter_rank: int, ranks: tuple[int, ...]) -> torch.nn.Module:
    """A base model whose weights are replaced by U_k U_kᵀ W + B A, from the definition."""
    base = tiny_base(family)
    factors, scores = tiny_factors(base), random_scores(base)
    adapters = random_adapters(base, adapter_rank) if adapter_rank else {}
    for (name, weight), rank in zip(target_weights(base).items(), ranks, strict=True):
        if rank == DENSE:
            continue
        best = sorted(range(len(scores[name])), key=lambda i, s=scores[name]: -s[i])[:rank]
        u = factors[name].directions[best].double()
        cut = u.T @ u @ weight.double()
        if name in adapters:
            cut += (adapters[name].b.double() @ adapters[name].a.double()).to(cut)
        weight.copy_(cut)
    return base.model


@pytest.mark.parametrize("ratio", SIZES)
def test_every_size_computes_the_stated_cut(elastic: ElasticModel, family: str, adapter_rank: int, ratio, windows):
    plan = elastic.set_size(ratio)
    expected = logits(explicit(family, adapter_rank, plan.ranks), windows)
    torch.testing.assert_close(logits(elastic.model, windows), expected, atol=2e-4, rtol=1e-3)


def test_a_token_on_its_own_computes_the_stated_cut(elastic: ElasticModel, family: str, adapter_rank: int, windows):
    token = windows[:1, :1]
    for ratio in (*SIZES, *SIZES[::-1]):  # every size twice, for what the first pass prepares is used in the second
        plan = elastic.set_size(ratio)
        expected = logits(explicit(family, adapter_rank, plan.ranks), token)
        torch.testing.assert_close(logits(elastic.model, token), expected, atol=2e-4, rtol=1e-3)


def test_a_token_sees_new_adapters_and_another_precision(family: str, windows):
    elastic, token = tiny_elastic(family), windows[:1, :1]
    elastic.install(random_adapters(elastic.base, 2, seed=5))
    elastic.set_size(0.5)
    others = logits(elastic.model, token)
    elastic.install(random_adapters(elastic.base, 2))
    plan = elastic.set_size(0.5)
    expected = logits(explicit(family, 2, plan.ranks), token)
    assert not torch.allclose(expected, others, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(logits(elastic.model, token), expected, atol=2e-4, rtol=1e-3)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        torch.testing.assert_close(logits(elastic.model, token).float(), expected, atol=0.1, rtol=0.1)
    elastic.model.double()
    assert logits(elastic.model, token).dtype == torch.float64
    torch.testing.assert_close(logits(elastic.model, token), expected.double(), atol=2e-4, rtol=1e-3)


def test_no_direction_at_all_leaves_adapter_and_bias():
    elastic = tiny_elastic("qwen2", adapter_rank=2)
    plan = elastic.planner.at_parameters(elastic.planner.smallest + elastic.planner.footprint.other_parameters)
    elastic.apply(plan)
    assert 0 in plan.ranks
    name, layer = next(
        (n, e) for n, e in elastic.elastic_layers().items() if "q_proj" in n and plan.ranks[e.index] == 0
    )
    adapter, x = random_adapters(tiny_base("qwen2"), 2)[name], torch.randn(3, 32)
    expected = (x @ adapter.a.T @ adapter.b.T).to(DEVICE) + layer.bias
    torch.testing.assert_close(layer(x.to(DEVICE)), expected)


def storages(elastic: ElasticModel) -> list[tuple[int, int]]:
    tensors = [t for e in elastic.elastic_layers().values() for t in (e.weight, e.down, e.up)]
    return [(t.data_ptr(), t._version) for t in tensors]


def test_resizing_moves_and_writes_nothing(elastic: ElasticModel, windows):
    before = storages(elastic)
    for ratio in SIZES:
        elastic.set_size(ratio)
        logits(elastic.model, windows)
    assert storages(elastic) == before
    for layer in elastic.elastic_layers().values():
        assert layer.down.is_contiguous() and layer.up.is_contiguous()


def test_weights_are_shared_with_the_base_model():
    base = tiny_base()
    before = {name: weight.data_ptr() for name, weight in target_weights(base).items()}
    elastic = finish(build_elastic(base, tiny_factors(base), random_scores(base)))
    assert {name: layer.weight.data_ptr() for name, layer in elastic.elastic_layers().items()} == before


def multiplied(layer: ElasticLinear) -> int:
    """Parameters that one token is multiplied by, from counted floating-point operations."""
    flops = {torch.ops.aten.mv: lambda weight, vector, out_shape=None, **_: 2 * weight[0] * weight[1]}
    with FlopCounterMode(display=False, custom_mapping=flops) as counter, torch.no_grad():
        layer(torch.randn(1, layer.in_features, device=DEVICE))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("ratio", [*SIZES, 1.0])
def test_reported_parameters_are_those_multiplied(elastic: ElasticModel, family: str, ratio: float):
    plan = elastic.set_size(ratio)
    assert plan.target_parameters == sum(multiplied(layer) for layer in elastic.elastic_layers().values())
    whole = sum(p.numel() for p in tiny_base(family).model.parameters())
    outside = whole - sum(w.numel() for w in target_weights(tiny_base(family)).values())
    assert (plan.base_parameters, plan.parameters) == (whole, outside + plan.target_parameters)
    assert (plan.base_bytes, plan.bytes) == (4 * whole, 4 * plan.parameters)


def test_papers_convention_leaves_adapters_out_of_the_count_only(family: str):
    elastic = tiny_elastic(family, adapter_rank=2, count_adapters=False)
    plan = elastic.set_size(0.6)
    layers = elastic.elastic_layers().values()
    adapters = sum(2 * (e.in_features + e.out_features) for e in layers if plan.ranks[e.index] != DENSE)
    assert plan.target_parameters + adapters == sum(multiplied(layer) for layer in layers)


def test_fisher_scores_make_a_working_model(family: str, windows):
    elastic = tiny_elastic(family, fisher=True)
    elastic.set_size(0.5)
    assert logits(elastic.model, windows).isfinite().all()


def test_size_in_force_and_size_within_a_block(windows):
    elastic = tiny_elastic()
    small, full = elastic.planner.at_ratio(0.4), elastic.plan
    expected = logits(elastic.model, windows)
    with pytest.raises(ValueError, match="stop"), elastic.at(small):
        assert elastic.plan is small
        raise ValueError("stop")
    assert elastic.plan is full and torch.equal(logits(elastic.model, windows), expected)
    with pytest.raises(SizeError):
        elastic.set_size(1.5)
    assert elastic.plan is full


def test_generate_equals_greedy_steps_of_the_explicit_cut(elastic: ElasticModel, family: str, adapter_rank: int):
    plan = elastic.set_size(0.7)
    prompt = torch.arange(5, 17, device=DEVICE)[None]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    made = elastic.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    model, ids = explicit(family, adapter_rank, plan.ranks), prompt
    for _ in range(8):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], 1)
    assert made.tolist() == ids.tolist()


def test_other_precisions(elastic: ElasticModel, windows):
    elastic.set_size(0.6)
    single = logits(elastic.model, windows)
    elastic.model.to(torch.float64)
    assert all(e.down.dtype == e.up.dtype == torch.float64 for e in elastic.elastic_layers().values())
    torch.testing.assert_close(logits(elastic.model, windows).float(), single, atol=1e-3, rtol=1e-3)


def test_train_and_eval(elastic: ElasticModel):
    assert not any(layer.training for layer in elastic.elastic_layers().values())
    elastic.model.train()
    assert all(layer.training for layer in elastic.elastic_layers().values())


def test_a_deep_copy_has_a_size_of_its_own(elastic: ElasticModel, windows):
    full = logits(elastic.model, windows)
    twin = copy.deepcopy(elastic)
    twin.set_size(0.5)
    assert torch.equal(logits(elastic.model, windows), full)
    elastic.set_size(0.5)
    assert torch.equal(logits(twin.model, windows), logits(elastic.model, windows))
    assert not torch.equal(logits(twin.model, windows), full)


def test_saved_files_are_the_base_models(elastic: ElasticModel, family: str, windows, tmp_path: Path):
    original = tiny_base(family).model
    elastic.set_size(0.4)
    expected, state = original.state_dict(), elastic.model.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in expected)
    elastic.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).to(DEVICE).eval()
    assert torch.equal(logits(loaded, windows), logits(original, windows))


def test_without_reset_ranks_beyond_break_even_run_as_factors(windows):
    base = tiny_base()
    factors, plain = tiny_factors(base), tiny_base().model
    elastic = finish(build_elastic(base, factors, random_scores(base), reset=False))
    plan = elastic.set_size(1.0)
    assert DENSE not in plan.ranks
    shapes = [(layer.out_features, layer.in_features) for layer in elastic.elastic_layers().values()]
    assert any(k > break_even_rank(*shape) for k, shape in zip(plan.ranks, shapes, strict=True))
    for (name, layer), k in zip(elastic.elastic_layers().items(), plan.ranks, strict=True):
        x = torch.randn(3, layer.in_features, generator=generator()).to(DEVICE)
        order = random_scores(base)[name].argsort(descending=True)[:k]
        u = factors[name].directions[order]
        expected = x @ (u.T @ (u @ plain.get_submodule(name).weight)).T
        if layer.bias is not None:
            expected = expected + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
