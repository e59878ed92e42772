"""A model whose blocks stay in its files: the same basis, order and export as of the model in memory."""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from acip_core.artifacts.export import export
from acip_core.artifacts.gguf_export import gguf_plan
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ModelError, StorageError
from acip_core.model import autocast
from acip_core.model.base_model import BaseModel, load_base
from acip_core.model.block_moments import measure_basis_by_block, measure_gradients_by_block
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.offloading import is_offloaded
from acip_core.model.quantization import quantize, quantize_base
from acip_core.model.second_moments import measure_basis
from acip_core.model.target_layers import decoder_blocks, target_layers
from acip_core.pipelines.ablation import ablate
from acip_core.pipelines.coding import CodingConfig, add_codes
from acip_core.pipelines.finetuning import FinetuneConfig, finetune
from acip_core.pipelines.method_comparison import compare
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.pipelines.recipes import QUICK
from acip_core.progress import finish
from acip_core.storage.scratch import ScratchFolder
from acip_core.training.factors import FactorConfig
from benchmarks.reliability.models import write_gguf
from tests.support.faults import full_disk
from tests.support.tiny import calibration, save, tiny_artifact, tiny_base

FAMILIES = ["llama", "gemma3", "opt"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(save(tiny_base(request.param), tmp_path / request.param))


def test_moments_are_those_of_the_model_in_memory(model: str, cache: Path) -> None:
    whole, parts = load_base(model), load_base(model, device="disk")
    assert is_offloaded(parts.model) and not is_offloaded(whole.model)
    names, windows = list(target_layers(parts.model)), calibration()
    inputs = finish(measure_basis(whole.model, windows, 16, names, of_inputs=True))
    moments = finish(measure_coding_moments(whole.model, windows, names, inputs))
    found = finish(measure_basis_by_block(parts.model, windows, 16, names, of_inputs=True))
    gradients = finish(measure_gradients_by_block(parts.model, windows, names))
    for wanted, there in ((inputs, found), (moments.gradients, gradients)):
        assert list(wanted) == list(there)
        for name, moment in wanted.items():
            assert moment.layers == there[name].layers
            close(moment.root().matrix(), there[name].root().matrix())


def close(wanted: torch.Tensor, found: torch.Tensor, share: float = 1e-3) -> None:
    assert (wanted - found).norm() <= share * wanted.norm()


@pytest.fixture
def recipe(tmp_path: Path) -> PrecomputeConfig:
    source = random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    made = replace(QUICK, corpora=(str(tmp_path / "text.txt"),), window=32, moment_windows=4, basis_rank=16)
    return replace(made, curve_windows=2, ratios=(1.0, 0.5), examples=(), codes=None)


def test_an_artifact_and_an_export_are_those_of_the_model_in_memory(
    model: str, recipe: PrecomputeConfig, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, ranks = {}, {}
    for place in ("cpu", "disk"):
        monkeypatch.setenv("ACIP_DEVICE", place)
        folder = finish(precompute(model, recipe, tmp_path / place))
        loaded = finish(open_model(model, tmp_path / place))
        plan = loaded.elastic.planner.at_ratio(0.5)
        cut = finish(export(loaded.elastic, loaded.artifact, plan, tmp_path / f"{place}-half"))
        tensors[place], ranks[place] = load_file(cut / "model.safetensors"), plan.ranks
        assert is_offloaded(loaded.elastic.model) == (place == "disk")
        curve = read_artifact(folder).curves[0]
        tensors[place]["curve"] = torch.tensor([p.perplexity for p in curve.points])
        with loaded.elastic.at(plan):
            tensors[place]["logits"] = said(loaded.elastic.model)
        tensors[place]["of the export"] = said(load_base(str(cut), device="cpu").model)
    assert ranks["cpu"] == ranks["disk"]
    assert set(tensors["cpu"]) == set(tensors["disk"])
    for name in ("curve", "logits", "of the export"):
        close(tensors["cpu"][name], tensors["disk"][name])


@torch.no_grad()
def said(model: PreTrainedModel) -> torch.Tensor:
    return model(torch.arange(3, 20)[None], use_cache=False).logits


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_one_block_is_in_memory_at_a_time(
    model: str, recipe: PrecomputeConfig, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of the blocks, looked at in every step of the whole run and in every call of a layer."""
    monkeypatch.setenv("ACIP_DEVICE", "disk")
    blocks, held = [], []

    def loaded(source: str) -> BaseModel:
        base = load_base(source)
        blocks.extend(decoder_blocks(base.model)[1])
        for layer in target_layers(base.model).values():
            layer.register_forward_hook(lambda *_: look())
        return base

    def look(_: object = None) -> None:
        if blocks:
            held.append([sum(p.numel() for p in block.parameters() if not p.is_meta) for block in blocks])

    monkeypatch.setattr("acip_core.pipelines.precompute.load_base", loaded)
    finish(precompute(model, recipe, tmp_path / "made"), look)
    assert len(blocks) == 2 and max(map(max, held)) > 0, "nothing was seen in memory"
    assert all(sum(weights > 0 for weights in of_blocks) <= 1 for of_blocks in held)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_what_cannot_be_made_block_by_block_is_one_sentence(
    model: str, recipe: PrecomputeConfig, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACIP_DEVICE", "disk")
    with pytest.raises(ModelError, match="stay on disk, where trained factors cannot be made; use --quick --no-codes"):
        finish(precompute(model, replace(recipe, factors=FactorConfig()), tmp_path / "made"))
    write_gguf(tmp_path / "model.gguf")
    with pytest.raises(ModelError, match=r"GGUF file \(model.gguf\) cannot stay on disk"):
        load_base(str(tmp_path / "model.gguf"))
    with pytest.raises(ModelError, match="weights of Conv1D layers, which cannot stay on disk"):
        load_base(str(save(tiny_base("gpt2"), tmp_path / "gpt2")))


NEED_MEMORY: dict[str, tuple[str, Callable[[str, Path], Any]]] = {
    "precision": ("weights in int8", lambda model, made: finish(open_model(model, made, precision="int8"))),
    "quantize": (
        "weights in int4",
        lambda model, made: finish(quantize(finish(open_model(model, made)).elastic, "int4")),
    ),
    "quantize_base": ("weights in int4", lambda model, _: quantize_base(load_base(model), "int4")),
    "codes": ("codes", lambda model, made: finish(add_codes(model, CodingConfig(), made))),
    "finetune": ("adapters", lambda model, made: finish(finetune(model, FinetuneConfig(0.5), made, made / "tuned"))),
    "methods": ("comparison lines", lambda model, made: finish(compare(model, made))),
    "ablation": ("pruning runs", lambda model, made: finish(ablate(model, made))),
    "gguf": ("GGUF files of a size in bytes", lambda model, made: finish(gguf_plan(opened(model, made), ANY, 6e4))),
}
ANY: Any = object()  # a coding that is not looked at


def opened(model: str, artifact: Path) -> ElasticModel:
    return finish(open_model(model, artifact)).elastic


@pytest.mark.parametrize("model", ["llama"], indirect=True)
@pytest.mark.parametrize("verb", NEED_MEMORY)
def test_what_needs_the_model_in_memory_says_so_before_it_begins(
    verb: str, model: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tiny_artifact(tiny_base("llama")), tmp_path / "made")
    before = sorted(path.name for path in (tmp_path / "made").iterdir())
    monkeypatch.setenv("ACIP_DEVICE", "disk")
    what, run = NEED_MEMORY[verb]
    with pytest.raises(ModelError, match=f"llama stay on disk, where {what} cannot be made; use a device that holds"):
        run(model, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == before


def test_folders_of_killed_processes_go_and_those_of_living_ones_stay(cache: Path) -> None:
    if not (process := os.fork()):
        kept = ScratchFolder("banks")
        os._exit(kept is None)  # as a signal would end it
    os.waitpid(process, 0)
    made = []
    for _ in range(2):
        for old in (cache / "banks").iterdir():
            os.utime(old, (0, 0))
        made.append(ScratchFolder("banks"))
        assert len(list((cache / "banks").iterdir())) == len(made)
    made.clear()
    assert not list((cache / "banks").iterdir())


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_disk_that_hidden_states_fill_is_one_sentence(model: str, cache: Path) -> None:
    parts = load_base(model, device="disk").model
    steps = measure_gradients_by_block(parts, calibration(), list(target_layers(parts)))
    with pytest.raises(StorageError, match="free space or set ACIP_CACHE to another folder"), full_disk():
        finish(steps)
    assert not list((cache / "states").iterdir())


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_a_device_without_enough_memory_is_told_what_fits(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sum(p.numel() for p in tiny_base("llama").model.parameters())
    for free, way_out in (
        (3 * numbers, r"files, bfloat16 \(dtype='bfloat16'\) takes 0.0 GB, or"),
        (numbers, "files, or"),
    ):
        monkeypatch.setattr("acip_core.model.placement.free_bytes", lambda _, free=free: free)
        with pytest.raises(ModelError, match=f"in float32, but cpu has 0.0 GB free; `ACIP_DEVICE=disk` .* {way_out}"):
            load_base(model, device="cpu")
    assert is_offloaded(load_base(model, device="disk").model)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_what_computes_slowly_in_the_files_type_is_computed_in_float32_and_exported_as_published(
    native: bool, dtype: torch.dtype, recipe: PrecomputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACIP_DEVICE", "disk")
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: native)
    base = tiny_base("llama")
    base.model.to(torch.bfloat16)
    folder = str(save(base, tmp_path / "model"))
    finish(precompute(folder, recipe, tmp_path / "made"))
    loaded = finish(open_model(folder, tmp_path / "made"))
    elastic = loaded.elastic
    assert elastic.base.dtype == dtype and elastic.base.stored_dtype == torch.bfloat16
    cut = finish(export(elastic, loaded.artifact, elastic.planner.at_ratio(0.5), tmp_path / "half"))
    assert {t.dtype for t in load_file(cut / "model.safetensors").values() if t.is_floating_point()} == {torch.bfloat16}
    wanted = load_base(folder, device="cpu").model
    close(said(wanted), said(elastic.model).float(), 1e-5 if dtype == torch.float32 else 0.05)
    assert load_base(folder, dtype="float16").dtype == torch.float16  # who names one gets it


@pytest.mark.parametrize("native", [True, False])
def test_tensors_published_in_a_wider_type_count_and_are_exported_in_it(
    native: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: native)
    base = tiny_base("llama")
    for name, parameter in base.model.named_parameters():
        if not name.endswith(("layernorm.weight", "up_proj.weight")):
            parameter.data = parameter.data.bfloat16()
    base.model.config.dtype = torch.bfloat16
    folder = str(save(base, tmp_path / "model"))
    published = load_file(tmp_path / "model" / "model.safetensors")
    assert {t.dtype for t in published.values()} == {torch.float32, torch.bfloat16}
    write_artifact(tiny_artifact(load_base(folder, device="cpu")), tmp_path / "made")
    sizes = {}
    for place in ("cpu", "disk"):
        loaded = finish(open_model(folder, tmp_path / "made", device=place))
        for ratio in (1.0, 0.5):
            plan = loaded.elastic.planner.at_ratio(ratio)
            out = finish(export(loaded.elastic, loaded.artifact, plan, tmp_path / f"{place}-{ratio}"))
            written = load_file(out / "model.safetensors")
            kept = written.keys() & published.keys()
            assert len(kept) == len(published) if ratio == 1 else kept
            assert all(torch.equal(written[n], published[n]) for n in kept if ratio == 1 or "norm" in n)
            sizes[place, ratio] = plan.bytes, plan.base_bytes, sum(t.nbytes for t in written.values())
    assert all(sizes["cpu", ratio] == sizes["disk", ratio] for ratio in (1.0, 0.5))
    assert len(set(sizes["disk", 1.0])) == 1


@pytest.mark.parametrize("place", ["cpu", "disk", "auto"])
def test_a_shard_that_an_index_names_and_nobody_has(place: str, tmp_path: Path) -> None:
    base = tiny_base("llama")
    base.model.save_pretrained(tmp_path, max_shard_size="50KB")
    base.tokenizer.save_pretrained(tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-\d+.safetensors of the model is missing; download it again"):
        load_base(str(tmp_path), device=place)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_accelerate_leaves_on_disk_what_memory_does_not_hold(
    model: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_offloaded(load_base(model, device="auto").model)
    most = sum(p.nbytes for p in tiny_base("llama").model.parameters()) // 2
    monkeypatch.setattr("transformers.integrations.accelerate.get_max_memory", lambda _=None: {"cpu": most})
    parts = load_base(model, device="auto").model
    assert is_offloaded(parts)
    close(said(load_base(model, device="cpu").model), said(parts))
    monkeypatch.setattr("transformers.integrations.accelerate.get_max_memory", lambda _=None: {"cpu": 1})
    parts = load_base(
        model, device="auto"
    ).model  # accelerate has no room for the embedding, whose inputs' device it is
    assert is_offloaded(parts) and parts.device.type == "cpu"
    assert len(finish(measure_basis_by_block(parts, calibration(), 16, list(target_layers(parts))))) == 14
