"""An export as a folder: what lies in it, who can read it, where it may not be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from acip_core.api import AcipModel
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import SizeError, StorageError
from acip_core.model.base_model import load_base
from tests.support.commands import run
from tests.support.exports import bytes_of, exported, logits, stored
from tests.support.faults import full_disk
from tests.support.plain import read_by_others
from tests.support.tiny import (
    save,
    tiny_artifact,
    tiny_base,
    tiny_elastic,
)


def test_shards_have_an_index(tmp_path: Path) -> None:
    exported(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1 and files == {file.name for file in (tmp_path / "out").glob("*.safetensors")}
    assert set(index["weight_map"]) == set(stored(tmp_path / "out"))
    assert max(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) < 30_000


def test_nothing_of_ours_is_needed_to_read_it(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    exported(elastic, tmp_path / "out", 0.6)
    elastic.set_size(0.6)
    found = read_by_others(tmp_path / "out", tmp_path)
    torch.testing.assert_close(found, logits(elastic.model), rtol=1e-4, atol=1e-4)


def test_its_code_is_never_executed_unasked(tmp_path: Path) -> None:
    exported(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    (tmp_path / "out/modeling.py").write_text("raise SystemExit('executed')")
    load_base(str(tmp_path / "out"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    exported(elastic, tmp_path / "out", 0.5)
    card = (tmp_path / "out/README.md").read_text()
    plan = elastic.planner.at_ratio(0.5)
    assert f"{plan.parameters:,} of {plan.base_parameters:,} parameters" in card and "trust_remote_code=True" in card
    assert "held-out C4 text" in card and "licence" in card and "Recipe" in card


def test_places_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"out exists already; name a new folder"):
        exported(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_disk_that_the_tokenizer_fills_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    exported(elastic, tmp_path / "whole", 0.6)
    files = {file.name: file.stat().st_size for file in (tmp_path / "whole").iterdir()}
    save = elastic.tokenizer.save_pretrained

    def fill(folder: Path) -> None:
        with full_disk(500):
            save(folder)

    monkeypatch.setattr(elastic.tokenizer, "save_pretrained", fill)
    assert files["tokenizer.json"] > 500
    with pytest.raises(StorageError, match=r"Cannot write .*out .*\(os error \d+\).*free space"):
        exported(elastic, tmp_path / "out", 0.6)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StorageError, match="Cannot write"):
        exported(tiny_elastic(adapter_rank=2), tmp_path / "out", 0.6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ratio", [0.0, 1.5, -1.0, float("nan")])
def test_sizes_that_are_none(ratio: float, tmp_path: Path) -> None:
    with pytest.raises(SizeError):
        exported(tiny_elastic(adapter_rank=2), tmp_path / "out", ratio)
    assert not list(tmp_path.iterdir())


def test_the_command_and_the_api_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base()
    save(base, tmp_path / "model")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    arguments = ["export", str(tmp_path / "model"), str(tmp_path / "one"), "--artifact", str(tmp_path / "artifact")]
    code, output = run(monkeypatch, capsys, *arguments, "--size", "60")
    refusal = "A size ratio must lie above 0 and be 1 at most, not 60.0; 60.0 % is 0.6."
    assert code == 2 and refusal in " ".join(output.split()) and not (tmp_path / "one").exists()
    code, output = run(monkeypatch, capsys, *arguments, "--size", "0.6")
    assert code == 0, output
    code, output = run(monkeypatch, capsys, *arguments, "--size", "0.6")
    assert code == 2 and "exists already" in output and "Traceback" not in output
    model = AcipModel.from_pretrained(tmp_path / "model", artifact=tmp_path / "artifact")
    model.set_size(0.6)
    model.save_pretrained(tmp_path / "two")
    model.save_pretrained(tmp_path / "three", dtype="bfloat16")
    assert 2 * bytes_of(tmp_path / "three") == bytes_of(tmp_path / "two")
    code, output = run(monkeypatch, capsys, *arguments[:2], str(tmp_path / "four"), *arguments[3:], "--size", "0.6",
                       "--dtype", "bfloat16")  # fmt: skip
    assert code == 0 and bytes_of(tmp_path / "four") == bytes_of(tmp_path / "three"), output
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
