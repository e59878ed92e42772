"""Other quantizers: what they store is what is counted and measured, and they do what they are known for."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acip_core.artifacts.peers import PeerPoint, Peers, frontier, peer_sizes, read_peers
from acip_core.data.corpus import token_windows
from acip_core.model.codes import feedback
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.quantization import quantize
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from benchmarks.peers import bitstack, int4_ranks, integers, llama_cpp, measure, nf4, subject
from benchmarks.peers.results import peer_figures
from benchmarks.peers.stored import Stored, eight_bits, pack, unpack
from benchmarks.peers.subject import Peer, Subject, by_layer, second_moments
from tests.support.tiny import calibration, generator, tiny_base, tiny_basis, tiny_elastic

ROWS, COLUMNS = 24, 128


def matrix(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=generator(seed)) * 0.05


def moment(seed: int = 1) -> torch.Tensor:
    """Of correlated columns, some of them far stronger than others."""
    mixed = torch.randn(COLUMNS, COLUMNS, generator=generator(seed)) * torch.linspace(0.1, 3, COLUMNS)
    return mixed.T @ mixed / COLUMNS


def loss(error: torch.Tensor, c: torch.Tensor) -> float:
    return float(((error @ c) * error).sum())


@pytest.fixture
def tiny() -> Subject:
    base = tiny_base()
    layers = target_layers(base.model)
    moments = finish(measure_coding_moments(base.model, calibration(), list(layers), tiny_basis(base)))
    made = Subject(base, moments.gradients)
    made._moments = finish(second_moments(base.model, made.modules, calibration()))
    return made


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_packed_codes_come_back(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (5, 7), generator=generator(), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.numel() == -(-35 * bits // 8) and torch.equal(unpack(packed, bits, (5, 7)), codes)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_groups_cost_their_codes_scales_and_offsets(bits: int, group: int) -> None:
    groups = ROWS * COLUMNS // group
    for stored in (integers.rounded(matrix(), bits, group), integers.gptq(matrix(), moment(), bits, group)):
        assert stored.bytes == (ROWS * COLUMNS * bits + groups * (16 + bits)) / 8
        codes = unpack(stored.tensors["codes"], bits, (ROWS, groups // ROWS, group)).float()
        zero = unpack(stored.tensors["zero"], bits, (ROWS, groups // ROWS, 1)).float()
        scale = stored.tensors["scale"].float()[..., None]
        assert torch.equal(stored.matrix, ((codes - zero) * scale).flatten(1))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_loses_less_than_rounding_by_the_inputs(bits: int) -> None:
    weight, c = matrix(), moment()
    rounded = [integers.rounded(weight, bits, 64, search=search) for search in (False, True)]
    best = min(loss(weight - stored.matrix, c) for stored in rounded)
    assert loss(weight - integers.gptq(weight, c, bits, 64).matrix, c) < 0.6 * best


def test_gptq_of_inputs_without_correlation_is_rounding() -> None:
    weight = matrix()
    assert torch.equal(
        integers.gptq(weight, torch.eye(COLUMNS), 3, 64).matrix, integers.rounded(weight, 3, 64, search=True).matrix
    )


def test_rounding_errs_by_half_a_step_and_keeps_zero() -> None:
    weight = matrix()
    weight[0] = 0
    stored = integers.rounded(weight, 4, 32)
    step = stored.tensors["scale"].float().repeat_interleave(32, 1)
    assert torch.all((stored.matrix - weight).abs() <= 0.51 * step + 1e-3 * weight.abs()) and not stored.matrix[0].any()


def test_nf4_costs_half_a_byte_and_an_eighth_of_a_bit() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    stored = nf4.nf4(functional, matrix())
    blocks = ROWS * COLUMNS // 64
    assert stored.bytes == ROWS * COLUMNS // 2 + blocks + 4 * -(-blocks // 256) + 4
    assert 0.05 < float((stored.matrix - matrix()).norm() / matrix().norm()) < 0.12


@pytest.mark.parametrize(("kind", "bits", "most"), [("IQ4_NL", 4.5, 0.08), ("Q4_0", 4.5, 0.09), ("Q2_K", 2.625, 0.3)])
def test_llama_cpp_s_blocks(kind: str, bits: float, most: float) -> None:
    ggml = pytest.importorskip("ggml")
    weight = torch.randn(16, 256, generator=generator())
    stored = llama_cpp.block_quantized(ggml, weight, kind, torch.ones(256))
    assert 8 * stored.bytes == bits * weight.numel()
    assert 0.01 < float((stored.matrix - weight).norm() / weight.norm()) < most


def test_a_stack_is_the_sum_of_its_rounds_and_each_one_takes_away_loss() -> None:
    weight, c, g = matrix(), moment(), torch.eye(ROWS)
    rounds = bitstack.blocks(weight, c, g, 4, 3)
    total = bitstack.predicted_loss(weight, c, g)
    left = [total]
    for count, block in enumerate(rounds, 1):
        assert block.bytes == ROWS * COLUMNS // 8 + 2 * 4 * (ROWS + COLUMNS)
        summed = sum(block.matrix() for block in rounds[:count]) / bitstack.column_scale(c).float()
        left.append(loss(weight - summed, c))
        assert left[-1] < left[-2] and block.gain == pytest.approx(left[-2] - left[-1], rel=1e-3)


def test_rounds_are_taken_by_what_they_take_away_per_byte() -> None:
    def stack(*gains: float) -> list[bitstack.Block]:
        part = torch.zeros(8, dtype=torch.uint8), torch.zeros(1, 0), torch.zeros(0, 1)
        return [bitstack.Block(*part, gain) for gain in gains]

    layers: dict[str, Any] = {"a": stack(5, 1, 4), "b": stack(3, 2)}
    taken = [bitstack.chosen(layers, 8 * count) for count in range(6)]
    assert [(t["a"], t["b"]) for t in taken] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (3, 2)]


def test_ranks_in_four_bits_cost_what_the_planner_says() -> None:
    elastic = tiny_elastic(adapter_rank=2)
    packed = finish(quantize(elastic, "int4"))
    cuts = {ratio: int4_ranks.cut(elastic, packed, ratio) for ratio in (1.0, 0.7, 0.5)}
    rest = {elastic.planner.at_ratio(r).bytes - sum(s.bytes for s in cut.values()) for r, cut in cuts.items()}
    assert len(rest) == 1
    x = torch.randn(3, 32, generator=generator())
    with elastic.at(elastic.planner.at_ratio(0.5)):
        for name, layer in elastic.elastic_layers().items():
            if layer.in_features == 32:
                assert torch.allclose(layer(x), x @ cuts[0.5][name].matrix.T, atol=1e-4)


def test_the_whole_model_is_what_its_tensors_need(tiny: Subject) -> None:
    stored = finish(by_layer(tiny, "", lambda name, weight: integers.rounded(weight, 3, 8)))
    norms = [p for p in tiny.base.model.parameters() if p.dim() == 1]
    tensors = [t for part in (*stored.values(), *tiny.tables.values()) for t in part.tensors.values()]
    tensors += [norm.detach().bfloat16() for norm in norms]
    assert tiny.bytes(stored) == sum(t.nbytes for t in tensors)
    assert len(tiny.tables) == 1  # the head is the embedding
    other = {name: integers.rounded(tiny.table(name), 4, 8) for name in tiny.tables}
    before, after = (next(iter(of.values())).bytes for of in (tiny.tables, other))
    assert tiny.bytes(stored | other) == tiny.bytes(stored) - before + after


def test_the_model_runs_with_what_is_stored_and_is_itself_again(tiny: Subject) -> None:
    before = {name: p.detach().clone() for name, p in tiny.base.model.named_parameters()}
    zero = {name: Stored({}, torch.zeros_like(weight)) for name, weight in tiny.weights.items()}
    with pytest.raises(KeyboardInterrupt), tiny.holding(zero):
        assert not any(module.weight.any() for module in tiny.modules.values())
        raise KeyboardInterrupt
    assert all(torch.equal(p, before[name]) for name, p in tiny.base.model.named_parameters())


def test_a_table_in_eight_bits(tiny: Subject) -> None:
    table = torch.randn(5, 64, generator=generator())
    stored = eight_bits(table)
    assert stored.bytes == 5 * 64 + 2 * 5 * 2 and torch.allclose(stored.matrix, table, atol=0.02)
    assert torch.equal(eight_bits(stored.matrix).matrix, stored.matrix)  # published blocks are kept


def test_second_moments_are_those_of_what_each_layer_reads(tiny: Subject) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].flatten(0, -2)))
        for name, layer in tiny.modules.items()
    ]
    for window in calibration():
        tiny.base.model(window[None])
    for hook in hooks:
        hook.remove()
    moments = finish(tiny.moments())
    assert moments.keys() == tiny.weights.keys()
    for name, parts in seen.items():
        x = torch.cat(parts)
        assert torch.allclose(moments[name], x.T @ x / len(x), rtol=1e-3, atol=1e-5)
        feedback(moments[name], 0.01)  # positive definite


# ---- the run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny: Subject, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], measure.PeerRun]:
    def windows(tokenizer: Any, corpus: str, split: str, length: int) -> torch.Tensor:
        return token_windows(tokenizer, [f"{corpus} {split} " * 40], 32)

    monkeypatch.setattr(measure, "corpus_windows", windows)
    return lambda: measure.PeerRun(tiny, tmp_path, {"held_out": 3})


def two_sizes(made: list[int]) -> Callable[[Subject], list[Peer]]:
    def peers(subject: Subject) -> list[Peer]:
        def make(bits: int) -> Any:
            made.append(bits)
            return by_layer(subject, "", lambda _, weight: integers.rounded(weight, bits, 8))

        return [Peer("rtn", f"{bits} bits", lambda bits=bits: make(bits)) for bits in (8, 2)]

    return peers


def test_a_killed_run_continues_where_it_was(run: Callable[[], measure.PeerRun], tmp_path: Path) -> None:
    made: list[int] = []
    steps = run().method("rtn", two_sizes(made))
    while made != [8, 2]:  # killed while the second size is measured
        next(steps)
    steps.close()
    assert {point.setting for point in (read_peers(tmp_path) or pytest.fail()).points} == {"8 bits"}
    finish(run().method("rtn", two_sizes(made)))
    assert made == [8, 2, 2]
    peers = read_peers(tmp_path)
    assert peers is not None and list(peers.base_perplexity) == list(subject.CORPORA)
    large, small = peer_sizes(peers)
    assert large.worst == pytest.approx(1, abs=0.01) and large.worst < small.worst
    assert large.agreement > small.agreement and large.bytes > small.bytes
    finish(run().method("rtn", two_sizes(made)))
    assert made == [8, 2, 2]  # nothing is measured twice
    finish(run().method("rtn", lambda subject: two_sizes(made)(subject)[:1]))
    assert {point.setting for point in (read_peers(tmp_path) or pytest.fail()).points} == {"8 bits"}


@pytest.mark.parametrize(
    ("library", "peers_of"), [("ggml", llama_cpp.llama_cpp_peers), ("bitsandbytes", nf4.nf4_peers)]
)
def test_a_method_without_its_library_says_so(
    library: str, peers_of: Any, run: Callable[[], measure.PeerRun], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    whole = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with caplog.at_level(logging.WARNING, "acip"):
        finish(run().method("its name", peers_of))
    assert [record.getMessage().partition(" is left out: ")[0] for record in caplog.records] == ["its name"]
    assert "pip install" in caplog.text


# ---- what is shown ---------------------------------------------------------------------------------------------------


def made_up(*sizes: tuple[str, int, float]) -> Peers:
    points = [
        PeerPoint("gptq", setting, corpus, size, worse * base, 0.1, 0.9)
        for setting, size, worst in sizes
        for corpus, base, worse in (("c4", 30.0, worst), ("wikipedia", 20.0, worst - 0.01))
    ]
    return Peers({}, {"c4": 30.0, "wikipedia": 20.0}, tuple(points))


def test_excesses_are_compared_at_no_more_bytes() -> None:
    peers = made_up(("a", 90, 1.1), ("b", 70, 1.5), ("worse than b", 72, 1.6), ("c", 40, 3.0))
    figures = peer_figures(peers, [(95, 1.0), (80, 1.05), (60, 1.3), (30, 9.0)])
    assert [figure.value for figure in figures] == pytest.approx([0.05 / 0.5, 0.3 / 2, 8 / 2])
    assert [size.setting for size in frontier(peer_sizes(peers))] == ["c", "b", "a"]
    assert peer_figures(made_up(("huge", 500, 1.2)), [(80, 1.05)])[0].value == pytest.approx(0.25)


def test_a_size_that_is_not_measured_on_all_corpora_counts_as_none() -> None:
    peers = made_up(("a", 90, 1.1))
    assert peer_sizes(Peers({}, peers.base_perplexity, peers.points[:1])) == []
