"""A model at one size as files: equal to the elastic model, as small as was said, readable without this package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from acip_core.artifacts.export import export
from acip_core.errors import ModelError, PrecisionError, SizeError
from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.quantization import FULL, quantize
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from tests.support.device import DEVICE
from tests.support.exports import base_of, bytes_of, elastic_of, exported, logits, stored
from tests.support.plain import read_by_others
from tests.support.tiny import (
    generator,
    tiny_artifact,
    tiny_base,
    tiny_elastic,
    tiny_model,
    tiny_tokenizer,
)


@pytest.mark.parametrize("dense", [False, True])
def test_what_is_read_again_is_what_ran(family: str, dense: bool, tmp_path: Path) -> None:
    elastic = tiny_elastic(family, adapter_rank=2)
    promised = exported(elastic, tmp_path / "out", 0.6, dense)
    loaded = load_base(str(tmp_path / "out"))
    assert loaded.tokenizer.get_vocab() == elastic.tokenizer.get_vocab()
    assert torch.equal(logits(elastic.model), logits(tiny_model(family)))  # still at the size it was at
    elastic.set_size(0.6)
    torch.testing.assert_close(logits(loaded.model), logits(elastic.model), rtol=1e-4, atol=1e-4)
    found = sum(t.numel() * t.element_size() for t in stored(tmp_path / "out").values())
    if dense:
        assert type(loaded.model) is type(elastic.model)
    else:
        assert found == pytest.approx(promised, rel=0.01)


def test_ranks_by_pivots_are_what_ran_and_as_large_as_was_said(family: str, tmp_path: Path) -> None:
    elastic = tiny_elastic(family, adapter_rank=2, pivoted=True)
    for ratio in (0.5, 0.8):
        folder = tmp_path / f"{ratio}"
        promised = exported(elastic, folder, ratio)
        assert bytes_of(folder) == promised
        loaded = load_base(str(folder))
        elastic.set_size(ratio)
        torch.testing.assert_close(logits(loaded.model), logits(elastic.model), rtol=1e-4, atol=1e-4)
        names = json.loads((folder / "config.json").read_text())
        assert set(names["pivoted"]) == set(names["ranks"])
        again = elastic_of(loaded)
        exported(again, folder / "dense", 1.0, dense=True)
        restored = load_base(str(folder / "dense"))
        assert type(restored.model) is type(elastic.model)
        torch.testing.assert_close(logits(restored.model), logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_pivots_are_read_by_transformers_alone_and_refused_where_they_are_damaged(tmp_path: Path) -> None:
    elastic = tiny_elastic(pivoted=True)
    exported(elastic, tmp_path / "out", 0.6, shard_bytes=10**9)
    elastic.set_size(0.6)
    read = read_by_others(tmp_path / "out", tmp_path)
    torch.testing.assert_close(read, logits(elastic.model), rtol=1e-4, atol=1e-4)
    tensors = load_file(tmp_path / "out/model.safetensors")
    marks = next(name for name in tensors if name.endswith(".pivots"))
    tensors[marks] = torch.zeros_like(tensors[marks])
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="pivots"):
        load_base(str(tmp_path / "out"))


def test_full_size_is_the_original_without_code(family: str, tmp_path: Path) -> None:
    exported(tiny_elastic(family, adapter_rank=2), tmp_path / "out", 1.0)
    assert not list((tmp_path / "out").glob("*.py")) and "auto_map" not in (tmp_path / "out/config.json").read_text()
    plain = tiny_model(family)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(plain))
    assert_saved_alike(plain, tmp_path)


def assert_saved_alike(original: PreTrainedModel, tmp_path: Path) -> None:
    """The export `out` holds what `save_pretrained` writes, bit for bit."""
    original.save_pretrained(tmp_path / "original")
    wanted, found = stored(tmp_path / "original"), stored(tmp_path / "out")
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in wanted.items())


EXPERTS: dict[str, dict[str, Any]] = {  # kinds whose files have other tensors than the model has parameters
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_have_the_names_that_files_have(kind: str, tmp_path: Path) -> None:
    base = base_of(kind, **EXPERTS[kind])
    original, elastic = copy.deepcopy(base.model), elastic_of(base, exclude=("experts",))
    exported(elastic, tmp_path / "out", 1.0)
    assert_saved_alike(original, tmp_path)
    exported(elastic, tmp_path / "dense", 0.6, dense=True)
    assert stored(tmp_path / "dense").keys() == stored(tmp_path / "original").keys()
    elastic.set_size(0.6)
    exported(elastic, tmp_path / "factors", 0.6)
    for folder in ("dense", "factors"):
        loaded = load_base(str(tmp_path / folder)).model
        torch.testing.assert_close(logits(loaded), logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_layers_that_files_hold_as_one_are_multiplied_out_into_it(tmp_path: Path) -> None:
    base = base_of("hrm_text")
    original, elastic = copy.deepcopy(base.model), elastic_of(base)
    exported(elastic, tmp_path / "out", 1.0)
    assert_saved_alike(original, tmp_path)
    exported(elastic, tmp_path / "dense", 0.6, dense=True)
    elastic.set_size(0.6)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(logits(loaded), logits(elastic.model), rtol=1e-4, atol=1e-4)


@pytest.fixture
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, ElasticModel]:
    """A folder that is published in 16 bits, one norm of it in 32, and its model as it runs here, in float32."""
    model = tiny_model("llama").to(request.param)
    model.model.norm.weight.data = 1 + 0.1 * torch.rand(32, generator=generator())
    model.save_pretrained(tmp_path / "original")
    tiny_tokenizer().save_pretrained(tmp_path / "original")
    return tmp_path / "original", elastic_of(load_base(str(tmp_path / "original")))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], indirect=True)
def test_it_has_the_dtype_that_it_is_published_in(narrow: tuple[Path, ElasticModel], tmp_path: Path) -> None:
    folder, elastic = narrow
    wanted, dtype = stored(folder), json.loads((folder / "config.json").read_text())["dtype"]
    assert elastic.base.dtype == torch.float32 and str(elastic.base.stored_dtype) == f"torch.{dtype}"
    for ratio in (1.0, 0.6):
        plan = elastic.planner.at_ratio(ratio)
        assert exported(elastic, tmp_path / f"at {ratio}", ratio) == plan.bytes == bytes_of(tmp_path / f"at {ratio}")
        assert json.loads((tmp_path / f"at {ratio}/config.json").read_text())["dtype"] == dtype
    found = stored(tmp_path / "at 1.0")
    assert found.keys() == wanted.keys() and plan.base_bytes == bytes_of(folder)
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in wanted.items())
    assert bytes_of(tmp_path / "at 0.6") < 0.9 * bytes_of(folder)
    exported(elastic, tmp_path / "dense", 0.6, dense=True)
    assert bytes_of(tmp_path / "dense") == bytes_of(folder)


@pytest.mark.parametrize("narrow", [torch.bfloat16], indirect=True)
def test_sizes_in_bytes_are_those_of_its_file(narrow: tuple[Path, ElasticModel]) -> None:
    planner = narrow[1].planner
    for percent in (100, 80, 60):
        plan = planner.at_ratio(percent / 100)
        assert planner.at_bytes(plan.bytes).ranks == plan.ranks
    with pytest.raises(SizeError, match=f"to {plan.base_bytes / 1e6:.1f} MB"):
        planner.at_bytes(plan.base_bytes + 2)


def test_another_dtype_on_demand(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    artifact, plan = tiny_artifact(tiny_base()), elastic.set_size(0.6)
    finish(export(elastic, artifact, plan, tmp_path / "half", dtype="bfloat16"))
    assert {t.dtype for t in stored(tmp_path / "half").values()} == {torch.bfloat16}
    assert f"{bytes_of(tmp_path / 'half') / 1e6:.1f} of" in (tmp_path / "half/README.md").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "half", trust_remote_code=True)
    assert loaded.dtype == torch.bfloat16
    torch.testing.assert_close(logits(loaded).float(), logits(elastic.model), rtol=0.1, atol=0.1)
    with pytest.raises(PrecisionError, match="float32, bfloat16, float16, not in 'int3'"):
        finish(export(elastic, artifact, plan, tmp_path / "other", dtype="int3"))
    elastic.model.get_input_embeddings().weight.data[5, 5] = 1e6
    with pytest.raises(ModelError, match=r"embed_tokens.weight has values beyond float16; choose bfloat16"):
        finish(export(elastic, artifact, plan, tmp_path / "other", dtype="float16"))
    assert not (tmp_path / "other").exists()


def export_again(elastic: ElasticModel, folder: Path, ratio: float, precision: str = FULL, dense: bool = False) -> None:
    """Export at a size and compare what is read with what runs."""
    quantized = finish(quantize(elastic, precision)) if precision != FULL else None
    plan = elastic.set_size(ratio)
    finish(export(elastic, tiny_artifact(tiny_base()), plan, folder, dense, quantized=quantized))
    plain = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=not dense)
    for model in (plain, load_base(str(folder)).model):
        torch.testing.assert_close(logits(model), logits(elastic.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_export_is_exported_again(kind: str, tmp_path: Path) -> None:
    export_again(tiny_elastic(kind, adapter_rank=2), tmp_path / "first", 0.7)
    elastic = elastic_of(load_base(str(tmp_path / "first")))
    export_again(elastic, tmp_path / "whole", 1.0)
    export_again(elastic, tmp_path / "cut", 0.8)
    export_again(elastic, tmp_path / "dense", 0.6, dense=True)
    assert type(load_base(str(tmp_path / "dense")).model) is type(tiny_model(kind))
    assert bytes_of(tmp_path / "cut") < bytes_of(tmp_path / "first") == bytes_of(tmp_path / "whole")
    export_again(elastic_of(load_base(str(tmp_path / "cut"))), tmp_path / "third", 0.8)
    export_again(elastic_of(load_base(str(tmp_path / "cut"))), tmp_path / "third dense", 0.8, dense=True)


def test_what_was_left_in_full_is_quantized_later(tmp_path: Path) -> None:
    export_again(elastic_of(base_of("llama"), exclude=("mlp",)), tmp_path / "first", 0.5)
    elastic = elastic_of(load_base(str(tmp_path / "first")), exclude=("self_attn",))
    export_again(elastic, tmp_path / "second", 0.5, "int8")
    with pytest.raises(ModelError, match="exclude leave none"):
        elastic_of(load_base(str(tmp_path / "second")), exclude=("self_attn",))


def test_what_is_quantized_is_not_compressed_again(tmp_path: Path) -> None:
    export_again(elastic_of(base_of("llama"), exclude=("mlp",)), tmp_path / "first", 0.5, "int8")
    export_again(elastic_of(load_base(str(tmp_path / "first"))), tmp_path / "second", 0.5)
    export_again(elastic_of(load_base(str(tmp_path / "first"))), tmp_path / "dense", 0.5, dense=True)
    elastic = elastic_of(load_base(str(tmp_path / "first")))
    with pytest.raises(PrecisionError, match="quantized already; export it in full precision"):
        export_again(elastic, tmp_path / "third", 0.5, "int8")
    export_again(tiny_elastic(), tmp_path / "all", 0.5, "int8")
    with pytest.raises(ModelError, match="quantized already; compress the model it was exported from"):
        target_layers(load_base(str(tmp_path / "all")).model)


COMPUTED: dict[str, dict[str, Any]] = {  # kinds with buffers that are computed and not stored
    "falcon_h1": {
        **{"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
        "ssm_multipliers": [0.5, 2.0, 0.25, 1.5, 3.0],
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256, "n_inner": 56},
    "xglm": {"d_model": 32, "ffn_dim": 56, "num_layers": 2, "attention_heads": 4},
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_buffers_that_are_not_stored_are_computed_again(kind: str, tmp_path: Path) -> None:
    elastic = elastic_of(base_of(kind, **COMPUTED[kind]))
    exported(elastic, tmp_path / "out", 0.5)
    elastic.set_size(0.5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    for model in (plain, load_base(str(tmp_path / "out")).model):
        computed = dict(model.named_non_persistent_buffers())
        wanted = {name: b for name, b in elastic.model.named_non_persistent_buffers() if name in computed}
        assert wanted and all(torch.equal(computed[name].to(DEVICE), wanted[name]) for name in wanted)
        torch.testing.assert_close(logits(model), logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_what_a_file_lacks_is_filled_as_its_class_does(tmp_path: Path) -> None:
    exported(tiny_elastic("gpt2", adapter_rank=2), tmp_path / "out", 0.6, shard_bytes=10**9)
    tensors = load_file(tmp_path / "out/model.safetensors")
    gone = [next(name for name in tensors if name.endswith(end)) for end in ("down.weight", "ln_1.weight")]
    for name in gone:
        del tensors[name]
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True, output_loading_info=True
    )
    assert sorted(info["missing_keys"]) == sorted(gone)
    assert 0.01 < model.get_parameter(gone[0]).std() < 0.04 and torch.equal(
        model.get_parameter(gone[1]), torch.ones(32)
    )
