"""A model at one size as files: equal to the elastic model, as small as was said, readable without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from acip_core.api import load
from acip_core.artifact import write_artifact
from acip_core.base import BaseModel, load_base
from acip_core.elastic import ElasticModel, build_elastic
from acip_core.errors import SizeError, StorageError
from acip_core.export import export
from acip_core.progress import finish
from acip_core.targets import linearize
from tests.conftest import full_disk
from tests.test_cli import run
from tests.tiny import (
    VOCABULARY,
    calibration,
    generator,
    random_scores,
    tiny_artifact,
    tiny_base,
    tiny_elastic,
    tiny_factors,
    tiny_model,
    tiny_tokenizer,
)

SCRIPT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any("acip" in path for path in sys.modules)
folder, ids, out = sys.argv[1:]
AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto")
with torch.inference_mode():
    torch.save(model(torch.load(ids)).logits, out)
"""


def write(elastic: ElasticModel, folder: Path, ratio: float, dense: bool = False, shard_bytes: int = 20_000) -> int:
    """Export and return the bytes that were promised."""
    plan = elastic.planner.at_ratio(ratio)
    finish(export(elastic, tiny_artifact(tiny_base()), plan, folder, dense, shard_bytes))
    return plan.bytes


LAYERS: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32},
    **{"intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "max_position_embeddings": 256,
}


def base_of(kind: str, **settings: Any) -> BaseModel:
    """A random model of any kind that transformers knows."""
    config = AutoConfig.for_model(kind, **{**LAYERS, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    source = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * parameter.shape[-1] ** -0.5)
    return BaseModel(model, tiny_tokenizer(), f"tiny-{kind}", "memory")


def elastic_of(base: BaseModel, exclude: tuple[str, ...] = ()) -> ElasticModel:
    linearize(base.model)
    return finish(build_elastic(base, tiny_factors(base, exclude), random_scores(base, exclude=exclude)))


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(calibration()).logits


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dense", [False, True])
def test_what_is_read_again_is_what_ran(family: str, dense: bool, tmp_path: Path) -> None:
    elastic = tiny_elastic(family, adapter_rank=2)
    promised = write(elastic, tmp_path / "out", 0.6, dense)
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


def test_full_size_is_the_original_without_code(family: str, tmp_path: Path) -> None:
    write(tiny_elastic(family, adapter_rank=2), tmp_path / "out", 1.0)
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
    write(elastic, tmp_path / "out", 0.5)
    elastic.set_size(0.5)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    for model in (plain, load_base(str(tmp_path / "out")).model):
        computed = dict(model.named_non_persistent_buffers())
        wanted = {name: b for name, b in elastic.model.named_non_persistent_buffers() if name in computed}
        assert wanted and all(torch.equal(computed[name], wanted[name]) for name in wanted)
        torch.testing.assert_close(logits(model), logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_what_a_file_lacks_is_filled_as_its_class_does(tmp_path: Path) -> None:
    write(tiny_elastic("gpt2", adapter_rank=2), tmp_path / "out", 0.6, shard_bytes=10**9)
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


def test_shards_have_an_index(tmp_path: Path) -> None:
    write(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1 and files == {file.name for file in (tmp_path / "out").glob("*.safetensors")}
    assert set(index["weight_map"]) == set(stored(tmp_path / "out"))
    assert max(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) < 30_000


def test_nothing_of_ours_is_needed_to_read_it(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    write(elastic, tmp_path / "out", 0.6)
    torch.save(calibration(), tmp_path / "ids.pt")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", SCRIPT, tmp_path / "out", tmp_path / "ids.pt", tmp_path / "logits.pt"]
    subprocess.run(command, env=clean, cwd=tmp_path, check=True)
    elastic.set_size(0.6)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_its_code_is_never_executed_unasked(tmp_path: Path) -> None:
    write(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    (tmp_path / "out/modeling.py").write_text("raise SystemExit('executed')")
    load_base(str(tmp_path / "out"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    write(elastic, tmp_path / "out", 0.5)
    card = (tmp_path / "out/README.md").read_text()
    plan = elastic.planner.at_ratio(0.5)
    assert f"{plan.parameters:,} of {plan.base_parameters:,} parameters" in card and "trust_remote_code=True" in card
    assert "held-out c4 text" in card and "licence" in card and "Recipe" in card


def test_places_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"out exists already; name a new folder"):
        write(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StorageError, match="Cannot write"):
        write(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ratio", [0.0, 1.5, -1.0, float("nan")])
def test_sizes_that_are_none(ratio: float, tmp_path: Path) -> None:
    with pytest.raises(SizeError):
        write(tiny_elastic(adapter_rank=2), tmp_path / "out", ratio)
    assert not list(tmp_path.iterdir())


def test_the_command_and_the_api_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "one"), "--artifact", str(tmp_path / "artifact")]
    code, output = run(monkeypatch, capsys, *arguments, "--size", "1.5")
    assert code == 2 and "A size ratio must lie between 0 and 1" in output and not (tmp_path / "one").exists()
    code, output = run(monkeypatch, capsys, *arguments, "--size", "0.6")
    assert code == 0, output
    code, output = run(monkeypatch, capsys, *arguments, "--size", "0.6")
    assert code == 2 and "exists already" in output and "Traceback" not in output
    model = load(str(tmp_path / "model"), tmp_path / "artifact")
    model.set_size(0.6)
    model.export(tmp_path / "two")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
