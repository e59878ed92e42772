"""Codes on the Hub: published by one machine, fetched by another, made there wherever they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from acip_core.artifacts.coding import write_coding
from acip_core.artifacts.loading import Loaded, install_coding, open_model
from acip_core.artifacts.writer import write_artifact
from acip_core.model import code_cache
from acip_core.progress import Progress, finish
from tests.support.coded import with_coding
from tests.support.commands import run
from tests.support.hub import TOKEN, Hub
from tests.support.tiny import save, tiny_artifact, tiny_base

FETCHED, MADE = "fetching codes", "making codes"


class Machine:
    """Opens one model with the artifact that the Hub has, on a machine with an empty cache."""

    def __init__(self, model: Path, cache: Path):
        self.model, self.cache = str(model), cache
        self.stages: list[Progress] = []

    def open(self, artifact: str = "user/art") -> Loaded:
        return finish(open_model(self.model, artifact))

    def codes(self, loaded: Loaded | None = None) -> set[str]:
        """Install codes; the stages that this took."""
        self.stages.clear()
        assert finish(install_coding(loaded or self.open()), self.stages.append)
        return {step.stage for step in self.stages}

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.cache.glob("codes/*/*")}

    def forget(self) -> None:
        for path in self.cache.glob("codes/*/*"):
            path.unlink()  # what is mapped of it stays as it was


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The Hub has an artifact with operating points, whose codes at two levels take several files."""
    monkeypatch.setattr(code_cache, "LEVELS", 2)
    monkeypatch.setattr(code_cache, "_PART", 4000)
    folder, base = tmp_path / "artifact", tiny_base()
    write_artifact(tiny_artifact(base), folder)
    machine = Machine(save(base, tmp_path / "tiny-llama"), cache)
    loaded = with_coding(machine.open(str(folder)))
    assert loaded.coding is not None and loaded.published is None, "a folder is no repository"
    write_coding(loaded.coding, folder, loaded.artifact.basis)
    hub.add("user/art", folder)
    return machine


def published(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys, repo: str = "user/art") -> dict[str, bytes]:
    """Publish the codes as the command line does; the files that they have on a machine."""
    with monkeypatch.context() as logged_in:
        logged_in.setenv("HF_TOKEN", TOKEN)
        code, output = run(
            logged_in, capsys, "prepare", machine.model, "--artifact", "user/art", "--push-to-hub", repo, "--public"
        )
    assert code == 0 and "codes are published at http" in output, output
    files = machine.files()
    machine.forget()
    return files


def test_published_codes_are_fetched_in_place_of_being_made(
    machine: Machine, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = published(machine, monkeypatch, capsys)
    assert len(files) > 3 and sum(map(len, files.values())) > 0
    assert machine.codes() == {FETCHED} and machine.files() == files
    assert "from user/art" in machine.stages[0].note
    hub.asked.clear()
    assert machine.codes(machine.open()) == set() and not any("codes/" in asked for asked in hub.asked)
    assert "acip.json" in hub.repos["user/art"]["main"], "the artifact is still beside them"


def test_a_run_that_ends_goes_on_with_the_files_that_are_missing(
    machine: Machine, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = published(machine, monkeypatch, capsys)
    steps = install_coding(machine.open())
    for step in steps:
        if step.done == 2:
            break
    steps.close()
    there = machine.files()
    assert 0 < len(there) < len(files)
    hub.asked.clear()
    assert machine.codes() == {FETCHED} and machine.files() == files
    asked = " ".join(hub.asked)
    assert not any(f"{name}.z" in asked for name in there) and "lengths.safetensors.z" in asked


def test_a_repository_of_their_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What `ACIP_CODES_REPO` names, for an artifact that lies in a folder, as on a Space."""
    published(machine, monkeypatch, capsys, "user/codes")
    loaded = machine.open(str(tmp_path / "artifact"))
    assert machine.codes(loaded) >= {MADE}
    machine.forget()
    monkeypatch.setenv("ACIP_CODES_REPO", "user/codes")
    assert machine.codes(machine.open(str(tmp_path / "artifact"))) == {FETCHED}


@pytest.mark.parametrize("wrong", ["absent", "offline", "no repository", "damaged", "cut", "other", "gone"])
def test_what_does_not_fit_is_made_here(
    machine: Machine, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    machine.codes()
    expected = machine.files()
    if wrong != "absent":
        published(machine, monkeypatch, capsys)
    files = hub.repos["user/art"]["main"]
    listed = next((name for name in files if name.startswith("codes/") and name.endswith(".json")), "")
    second = next((name for name in files if name.endswith("part-001.safetensors.z")), "")
    loaded = machine.open()
    machine.forget()
    match wrong:
        case "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        case "no repository":
            del hub.repos["user/art"]
        case "damaged":
            files[second] = files[second][:40] + bytes([files[second][40] ^ 1]) + files[second][41:]
        case "cut":
            files[second] = files[second][:-20]
        case "other":
            files[listed] = files[listed].replace(b"part-001", b"../../x1")
        case "gone":
            del files[second]
    assert MADE in machine.codes(loaded) and machine.files() == expected
    told = [record.message for record in caplog.records if "cannot be fetched" in record.message]
    assert len(told) == (wrong not in ("absent", "offline")), told
