"""Bytes spent from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from acip_core import AcipModel
from tests.support.commands import run


def test_the_command_line_spends_bytes(
    coded_folders: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model, folder, out = coded_folders[0], str(coded_folders[1]), tmp_path / "export"
    target = ("--artifact", folder, "--worse", "50")
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target, "--max-new-tokens", "3")
    assert code == 0 and text.strip()
    loaded = AcipModel.from_pretrained(model, artifact=folder)
    size = loaded.set_quality(0.5).bytes
    megabytes = ("--megabytes", str((size + 1) / 1e6))
    assert run(monkeypatch, capsys, "export", model, str(out), "--artifact", folder, *megabytes)[0] == 0
    tensors = load_file(out / "model.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) == loaded.set_bytes(size + 1).bytes
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target[:2], "--megabytes", "0.5")
    assert code == 0 and "MB are enough: no plan within 0.5 MB loses less" in text
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target, *megabytes)
    assert code == 2 and "one of --size, --megabytes and --worse" in text
    code, text = run(monkeypatch, capsys, "export", model, str(tmp_path / "none"), "--artifact", folder)
    assert code == 2 and "Name the size" in text


def test_a_share_on_the_command_line_is_of_the_bytes(
    coded_folders: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model, artifact = coded_folders[0], ("--artifact", str(coded_folders[1]), "--size", "0.5")
    loaded = AcipModel.from_pretrained(model, artifact=coded_folders[1])
    for options, mode in (((), "both"), (("--spend", "bits"), "bits"), (("--spend", "directions"), "directions")):
        plan = loaded.set_size(0.5, mode)
        code, text = run(monkeypatch, capsys, "generate", model, "abc", *artifact, *options, "--max-new-tokens", "3")
        assert code == 0 and loaded.complete("abc", max_new_tokens=3) in text
        assert ("share of the published bytes" in text) == (not options)
        out = tmp_path / mode
        assert run(monkeypatch, capsys, "export", model, str(out), *artifact, *options)[0] == 0
        assert sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values()) == plan.bytes
    code, text = run(monkeypatch, capsys, "export", model, str(tmp_path / "whole"), *artifact[:2], "--size", "1")
    assert code == 0 and "now" not in text and "auto_map" not in (tmp_path / "whole/config.json").read_text()
