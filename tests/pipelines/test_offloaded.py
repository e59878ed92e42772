"""A model whose blocks stay in its files: the same basis, order and export as of the model in memory."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.model.base_model import load_base
from acip_core.model.block_moments import measure_basis_by_block, measure_gradients_by_block
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.offloading import is_offloaded
from acip_core.model.second_moments import measure_basis
from acip_core.model.target_layers import target_layers
from acip_core.pipelines.precompute import precompute
from acip_core.pipelines.recipes import QUICK
from acip_core.progress import finish
from tests.support.tiny import calibration, save, tiny_base

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


def close(wanted: torch.Tensor, found: torch.Tensor) -> None:
    assert (wanted - found).norm() <= 1e-3 * wanted.norm()


def test_an_artifact_and_an_export_are_those_of_the_model_in_memory(
    model: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    recipe = replace(QUICK, corpora=(str(tmp_path / "text.txt"),), window=32, moment_windows=4, basis_rank=16)
    recipe = replace(recipe, curve_windows=2, ratios=(1.0, 0.5), examples=(), codes=None)
    tensors, ranks = {}, {}
    for place in ("cpu", "disk"):
        monkeypatch.setenv("ACIP_DEVICE", place)
        folder = finish(precompute(model, recipe, tmp_path / place))
        loaded = finish(open_model(model, tmp_path / place))
        plan = loaded.elastic.planner.at_ratio(0.5)
        finish(export(loaded.elastic, loaded.artifact, plan, tmp_path / f"{place}-half"))
        tensors[place], ranks[place] = load_file(tmp_path / f"{place}-half" / "model.safetensors"), plan.ranks
        assert is_offloaded(loaded.elastic.model) == (place == "disk")
        curve = read_artifact(folder).curves[0]
        logits = loaded.elastic.model(torch.arange(3, 20)[None], use_cache=False).logits
        tensors[place] |= {"curve": torch.tensor([p.perplexity for p in curve.points]), "logits": logits.detach()}
    assert ranks["cpu"] == ranks["disk"]
    assert set(tensors["cpu"]) == set(tensors["disk"])
    for name in ("curve", "logits"):
        close(tensors["cpu"][name], tensors["disk"][name])
