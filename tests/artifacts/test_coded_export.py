"""A model at a size in bytes as files: as many bytes as was said, equal to the elastic model, read without this one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache as kept
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from acip_core.artifacts.export import export
from acip_core.errors import ModelError, PrecisionError
from acip_core.model.base_model import load_base
from acip_core.model.coded_states import adapter_bytes
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.operating_points import OperatingPoint, code_of, coded_state, is_coded
from acip_core.model.published import published_blocks
from acip_core.model.quantization import quantize
from acip_core.model.size_planner import BITS, BOTH, DENSE, Plan
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from tests.support.coded import coded_elastic, with_codes
from tests.support.exports import bytes_of, described, elastic_of, logits, stored
from tests.support.plain import read_by_others
from tests.support.tiny import calibration, generator, tiny_base, tiny_elastic, tiny_model

FAMILIES = ("llama", "qwen2", "gpt2", "gemma3")  # tied, untied with biases, transposed, an embedding with a scale
made = kept(lambda family: coded_elastic(family, adapter_rank=2))


def plan_between(elastic: ElasticModel, mode: str, share: float) -> Plan:
    """The plan that lies at a share of the way from the smallest to the largest."""
    planner: Any = elastic.planners[mode]
    return planner.at_bytes(planner.smallest + share * (planner.largest - planner.smallest))


def write(elastic: ElasticModel, plan: Plan, folder: Path, **options: Any) -> Path:
    return finish(export(elastic, described(), plan, folder, **options))


def read(folder: Path, **options: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def logits_at(elastic: ElasticModel, plan: Plan) -> torch.Tensor:
    with elastic.at(plan):
        return logits(elastic.model)


def assert_equal(model: PreTrainedModel, elastic: ElasticModel, plan: Plan) -> None:
    torch.testing.assert_close(logits(model), logits_at(elastic, plan), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [BITS, BOTH])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_again_is_what_ran(family: str, mode: str, tmp_path: Path) -> None:
    elastic = made(family)
    for share in (0.0, 0.4, 0.8):
        plan = plan_between(elastic, mode, share)
        folder = write(elastic, plan, tmp_path / f"at {share}")
        plain = read(folder)
        for model in (plain, load_base(str(folder)).model):
            assert_equal(model, elastic, plan)
        prompt = calibration()[:2, :8]
        with elastic.at(plan):
            wanted = elastic.model.generate(prompt, max_new_tokens=12, do_sample=False)
        assert torch.equal(plain.generate(prompt, max_new_tokens=12, do_sample=False), wanted)


@pytest.mark.parametrize("mode", [BITS, BOTH])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_hold_the_bytes_of_the_plan(family: str, mode: str, tmp_path: Path) -> None:
    elastic, plans = made(family), []
    for index in range(20):
        plan = plan_between(elastic, mode, index / 19)
        assert bytes_of(write(elastic, plan, tmp_path / f"{index}", shard_bytes=20_000)) == plan.bytes
        plans.append(plan)
    states = [state for plan in plans for state in plan.ranks if is_coded(state)]
    assert len({plan.bytes for plan in plans}) > 10 and len(set(states)) > 2
    assert any(code_of(state)[1] for state in states) == (mode == BOTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_state_has_the_bytes_of_its_point(family: str, tmp_path: Path) -> None:
    elastic, source = made(family), generator(2)
    planner: Any = elastic.planners[BOTH]
    points = byte_points(elastic)
    for index in range(5):
        chosen = [of[int(torch.randint(len(of), (), generator=source))] for of in points]
        states = tuple(point.state for point in chosen)
        size = planner.other_bytes + planner.code_bytes + sum(point.bytes for point in chosen)
        layers = len(elastic.elastic_layers())
        plan = replace(planner.at_ratio(1.0), ranks=states[:layers], tables=states[layers:], bytes=size)
        folder = write(elastic, plan, tmp_path / f"{index}")
        assert bytes_of(folder) == size
        assert_equal(read(folder), elastic, plan)


def byte_points(elastic: ElasticModel) -> list[list[OperatingPoint]]:
    """All operating points of every layer and table, on its hull or not."""
    assert elastic.coded is not None
    found, layers = [], elastic.elastic_layers()
    for name, size in elastic.coded.exact.items():
        matrix = elastic.coded.coded.matrices[name]
        points = [OperatingPoint(size, 0.0, DENSE)]
        points += [OperatingPoint(size, 0.0, coded_state(k, False)) for k, size in enumerate(matrix.bytes)]
        if name in layers:
            more = adapter_bytes(*layers.shapes[name], 2)
            points += [OperatingPoint(size + more, 0.0, coded_state(k, True)) for k, size in enumerate(matrix.bytes)]
        found.append(points)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_plans_without_a_coded_table_keep_the_tie(family: str, tmp_path: Path) -> None:
    elastic = made(family)
    plan = next(
        plan for k in range(200) if not any(map(is_coded, (plan := plan_between(elastic, BITS, k / 199)).tables))
    )
    folder = write(elastic, plan, tmp_path / "out")
    model = read(folder)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert (head.weight is embedding.weight) == (family == "llama") and bytes_of(folder) == plan.bytes
    assert_equal(model, elastic, plan)


@pytest.fixture
def in_blocks(tmp_path: Path) -> ElasticModel:
    """A model whose weights came out of blocks: 4 bits in its layers, 8 in the embedding; all else fits bfloat16."""
    base = replace(tiny_base("qwen2"), stored_dtype=torch.bfloat16, is_dequantized=True)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if parameter.ndim < 2:
                parameter.copy_(parameter.bfloat16())
                continue
            grouped = parameter.view(len(parameter), -1, 32 if parameter.shape[1] % 32 == 0 else 1)
            if "embed" in name:
                scale = (grouped.abs().amax(-1, keepdim=True) / 127).half().float()
                q = (grouped / scale).round().clamp(-127, 127)
                q[..., 0] = 127  # so that the scale is the one that is found again
                parameter.copy_((q * scale).view_as(parameter))
            elif grouped.shape[-1] == 32:
                low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
                scale, offset = ((high - low) / 15).half().float(), low.half().float()
                q = ((grouped - offset) / scale).round().clamp(0, 15)
                q[..., 0], q[..., 1] = 0, 15
                parameter.copy_((q * scale + offset).view_as(parameter))
            else:
                parameter.copy_(parameter.bfloat16())
    return elastic_of(base)


def test_what_came_out_of_blocks_is_stored_in_them(in_blocks: ElasticModel, tmp_path: Path) -> None:
    elastic = with_codes(in_blocks, adapter_rank=2)
    blocks = {n: published_blocks(p) for n, p in elastic.model.named_parameters() if p.ndim == 2}
    assert {found and found.offset is None for found in blocks.values()} == {True, False, None}
    for mode, share in ((BITS, 1.0), (BITS, 0.8), (BOTH, 0.9)):
        plan = plan_between(elastic, mode, share)
        folder = write(elastic, plan, tmp_path / f"{mode} {share}")
        assert bytes_of(folder) == plan.bytes
        assert_equal(read(folder, dtype=torch.float32), elastic, plan)
        assert any("scale4" in name for name in stored(folder)) and any("scale8" in name for name in stored(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_multiplied_out_it_is_of_the_base_class(family: str, tmp_path: Path) -> None:
    elastic = made(family)
    for mode in (BITS, BOTH):
        plan = plan_between(elastic, mode, 0.3)
        folder = write(elastic, plan, tmp_path / mode, dense=True)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert type(model) is type(tiny_model(family)) and not list(folder.glob("*.py"))
        assert {tensor.dtype for tensor in stored(folder).values()} == {torch.float32}
        assert_equal(model, elastic, plan)


def test_a_dtype_is_of_what_has_no_codes(tmp_path: Path) -> None:
    elastic = made("qwen2")
    plan = plan_between(elastic, BITS, 0.5)
    folder = write(elastic, plan, tmp_path / "out", dtype="bfloat16")
    assert bytes_of(folder) < plan.bytes and json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    dtypes = {tensor.dtype for tensor in stored(folder).values()}
    assert dtypes == {torch.uint8, torch.int16, torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_in_16_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    elastic = made("qwen2")
    plan = plan_between(elastic, BOTH, 0.3)
    model = read(write(elastic, plan, tmp_path / "out"), dtype=dtype)
    found = logits(model)
    wanted = logits_at(elastic, plan)
    assert found.dtype == dtype and float((found.float() - wanted).norm() / wanted.norm()) < 0.05
    assert model.generate(calibration()[:1, :4], max_new_tokens=4).shape == (1, 8)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_again_it_is_the_same(family: str, tmp_path: Path) -> None:
    elastic = made(family)
    plan = plan_between(elastic, BOTH, 0.3)
    folder = write(elastic, plan, tmp_path / "out")
    model = read(folder)
    logits(model)
    model.save_pretrained(tmp_path / "again")
    first, second = stored(folder), stored(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert_equal(read(tmp_path / "again"), elastic, plan)


def test_nothing_of_ours_is_needed_to_read_it(tmp_path: Path) -> None:
    elastic = made("llama")
    plan = plan_between(elastic, BOTH, 0.3)
    write(elastic, plan, tmp_path / "out")
    found = read_by_others(tmp_path / "out", tmp_path)
    torch.testing.assert_close(found, logits_at(elastic, plan), rtol=1e-4, atol=1e-4)


def test_it_is_not_compressed_again(tmp_path: Path) -> None:
    elastic = made("llama")
    for share in (0.3, 1.0):
        folder = write(elastic, plan_between(elastic, BITS, share), tmp_path / f"{share}")
        with pytest.raises(ModelError, match="are codes already; compress the model it was exported from"):
            target_layers(load_base(str(folder)).model)


def test_an_earlier_export_has_codes_too(tmp_path: Path) -> None:
    """Its factors are layers like any other."""
    first = tiny_elastic()
    write(first, first.planner.at_ratio(0.7), tmp_path / "first")
    elastic = with_codes(elastic_of(load_base(str(tmp_path / "first"))))
    plan = plan_between(elastic, BITS, 0.4)
    folder = write(elastic, plan, tmp_path / "second")
    assert bytes_of(folder) == plan.bytes
    for model in (read(folder), load_base(str(folder)).model):
        assert_equal(model, elastic, plan)
    dense = AutoModelForCausalLM.from_pretrained(write(elastic, plan, tmp_path / "dense", dense=True))
    assert_equal(dense, elastic, plan)


def test_codes_have_no_other_precision(tmp_path: Path) -> None:
    elastic = tiny_elastic()
    quantized = finish(quantize(elastic, "int8"))
    with_codes(elastic)
    with pytest.raises(PrecisionError, match="without a precision"):
        write(elastic, plan_between(elastic, BITS, 0.5), tmp_path / "out", quantized=quantized)
    assert not list(tmp_path.iterdir())


def damage_cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def damage_bytes(folder: Path) -> None:
    change_stream(folder, lambda stream: stream ^ (torch.arange(len(stream)) == len(stream) - 3).to(torch.uint8))


def damage_length(folder: Path) -> None:
    change_stream(folder, lambda stream: stream[:-2])


def damage_settings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    next(form for form in config["codes"]["weights"].values() if "stream" in form)["stream"] += 2
    (folder / "config.json").write_text(json.dumps(config))


def change_stream(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".stream"))
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [damage_cut, damage_bytes, damage_length, damage_settings])
def test_damage_is_one_sentence(damage: Any, tmp_path: Path) -> None:
    elastic = made("llama")
    folder = write(elastic, plan_between(elastic, BITS, 0.3), tmp_path / "out")
    damage(folder)
    with pytest.raises(ModelError, match=r"(?i)damaged|have another shape") as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value)
    with pytest.raises(Exception, match=r"(?i)incomplete|mismatch|stream|embed_tokens|cannot be read"):
        logits(read(folder))


def test_its_code_is_never_executed_unasked(tmp_path: Path) -> None:
    elastic = made("llama")
    folder = write(elastic, plan_between(elastic, BITS, 0.3), tmp_path / "out")
    for file in folder.glob("*.py"):
        file.write_text("raise SystemExit('executed')")
    load_base(str(folder))
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
