"""Codes as states of an elastic model: exact at 1.0, alone as in a batch, sizes that hold what they say."""

from __future__ import annotations

import random
import threading
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acip_core.model.coded_layers import CodeBank
from acip_core.model.codes import Codes
from acip_core.model.coding_moments import measure_coding_moments, read_coding_moments, save_coding_moments
from acip_core.model.operating_points import code_of, is_coded
from acip_core.model.size_planner import BITS, BOTH, DIRECTIONS
from acip_core.progress import finish
from tests.support.coded import coded_elastic
from tests.support.tiny import calibration, tiny_basis, tiny_elastic

FAMILIES = ("llama", "qwen2", "gpt2", "opt")


@pytest.fixture(scope="module", params=FAMILIES)
def elastic(request):
    return coded_elastic(request.param, adapter_rank=2)


def logits(elastic, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return elastic.model(ids, use_cache=False).logits


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.arange(5, 29)[None]


def some_plan(elastic, draw: random.Random):
    mode = draw.choice((DIRECTIONS, BITS, BOTH))
    planner = elastic.planners[mode]
    if mode == DIRECTIONS:
        return planner.at_ratio(draw.uniform(0.4, 1))
    return planner.at_bytes(draw.uniform(planner.smallest, planner.largest))


def test_the_model_is_exact_after_many_changes_across_modes(elastic, ids):
    whole, draw = logits(elastic, ids), random.Random(0)
    for index in range(1000):
        elastic.apply(some_plan(elastic, draw))
        if index % 50 == 0:
            logits(elastic, ids)
    for planner in elastic.planners.values():
        elastic.apply(planner.at_ratio(1.0))
        assert torch.equal(logits(elastic, ids), whole)


def test_a_coded_layer_computes_with_the_matrix_that_its_codes_stand_for(elastic, ids):
    plan = elastic.planners[BITS].at_bytes(elastic.planners[BITS].smallest)
    assert all(map(is_coded, plan.ranks))
    for layer, state in zip(elastic.elastic_layers().values(), plan.ranks, strict=True):
        code = layer.bank.codes[code_of(state)[0]]
        x = torch.randn(3, layer.in_features)
        with torch.inference_mode(), elastic.at(plan):
            expected = torch.nn.functional.linear(x, code.matrix(), layer.bias)
            assert torch.allclose(layer(x[None])[0], expected, atol=1e-4)
            one_each = layer(x[:, None])[:, 0]  # where bytes are multiplied as they are, in bfloat16
            assert float((one_each - expected).norm()) <= 0.01 * float(expected.norm())


def test_sizes_of_all_modes_in_one_batch_are_as_each_alone(elastic, ids):
    draw = random.Random(3)
    plans = [some_plan(elastic, draw) for _ in range(5)]
    batch = ids.repeat(5, 1)
    with elastic.at(elastic.batch(plans)):
        together = logits(elastic, batch)
        one_token = logits(elastic, batch[:, :1])
    for row, plan in enumerate(plans):
        with elastic.at(plan):
            assert torch.allclose(together[row], logits(elastic, ids)[0], atol=2e-4)
            alone = logits(elastic, ids[:, :1])[0]
            assert float((one_token[row] - alone).norm()) <= 0.02 * float(alone.norm())


def test_threads_run_at_modes_of_their_own(elastic, ids):
    plans = [elastic.planners[BOTH].at_ratio(share) for share in (0.9, 0.5)]
    plans.append(elastic.planner.at_ratio(0.5))
    alone = []
    for plan in plans:
        with elastic.at(plan):
            alone.append(logits(elastic, ids))
    wrong: list[float] = []

    def run(plan, expected):
        for _ in range(20):
            with elastic.on_this_thread(plan):
                wrong.append(float((logits(elastic, ids) - expected).abs().max()))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(plans, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(wrong) < 2e-4


def test_adapters_change_adapted_layers_alone(elastic, ids):
    bits, both = (elastic.planners[mode].at_ratio(0.5) for mode in (BITS, BOTH))
    with elastic.at(bits):
        plain = logits(elastic, ids)
    with elastic.at(both):
        adapted = logits(elastic, ids)
    assert any(is_coded(s) and code_of(s)[1] for s in both.ranks)
    assert not any(is_coded(s) and code_of(s)[1] for s in bits.ranks)
    assert not torch.equal(plain, adapted)


def test_a_smaller_plan_is_further_from_the_model(elastic, ids):
    planner = elastic.planners[BITS]
    whole = logits(elastic, ids)
    off = []
    for share in (0, 0.2, 0.6):
        with elastic.at(planner.at_bytes(planner.smallest + share * (planner.largest - planner.smallest))):
            off.append(float((logits(elastic, ids) - whole).square().mean()))
    assert off[0] > off[1] > off[2]


class Floats(TorchDispatchMode):
    """All floating-point tensors that operations return while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[int, weakref.ref[torch.Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.made.append((result.numel(), weakref.ref(result)))
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])  # the latter stands for every accelerator
def test_codes_are_numbers_only_while_they_are_multiplied_with(device: str):
    m, n = 5000, 8
    z = torch.randint(-9, 9, (m, n), dtype=torch.int8)
    codes = Codes(z, torch.zeros(m, dtype=torch.int16), torch.zeros(n, dtype=torch.int16))
    bank, x = CodeBank([codes, codes], torch.empty(m, n)).to(device), torch.randn(1, n, device=device)
    with torch.inference_mode(), Floats() as floats:
        y = [bank.product(x, level) for level in (0, 1, 0)]
    assert max(count for count, _ in floats.made) < m * n / 2, "a part at a time"
    alive = [count for count, made in floats.made if made() is not None]
    assert sum(alive) <= 3 * m, "nothing but what was asked for"
    if device == "cpu":
        assert torch.allclose(y[0][0], z.float() @ x[0], atol=1e-4)


def test_moments_come_back_from_their_file(tmp_path):
    elastic = tiny_elastic("llama")
    basis = tiny_basis(elastic.base)
    moments = finish(measure_coding_moments(elastic.model, calibration(), list(elastic.elastic_layers()), basis))
    save_coding_moments(moments, tmp_path / "coding.safetensors", basis)
    read = read_coding_moments(tmp_path / "coding.safetensors", basis)
    save_coding_moments(moments, tmp_path / "beside.safetensors", moments.inputs, moments.gradients)
    beside = read_coding_moments(tmp_path / "beside.safetensors", moments.inputs, moments.gradients)
    assert beside.inputs == moments.inputs and beside.gradients == moments.gradients
    assert (tmp_path / "beside.safetensors").stat().st_size < (tmp_path / "coding.safetensors").stat().st_size / 2
    for name in moments.inputs:
        for ours, theirs in ((moments.inputs, read.inputs), (moments.gradients, read.gradients)):
            assert torch.equal(ours[name].root().matrix(), theirs[name].root().matrix())
    assert list(read.tables) == list(moments.tables) == ["model.embed_tokens"]
    assert all(parameter.requires_grad for parameter in elastic.model.parameters())
