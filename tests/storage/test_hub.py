"""The Hub from a small server that speaks its protocol: fetching, refusing, publishing, going on without network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import HubError
from acip_core.storage.hub import artifact_folder, check_publishable, publish
from tests.support.commands import run
from tests.support.hub import TOKEN, Hub
from tests.support.tiny import save, tiny_artifact, tiny_base

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tiny_artifact(tiny_base()), tmp_path / "artifact")
    return tmp_path / "artifact"


def test_an_artifact_by_name_and_revision(hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/old", artifact, "v1")
    hub.add("user/old", artifact)
    hub.repos["user/old"]["main"]["large.bin"] = b"not part of an artifact"
    for name in ("user/old", "user/old@v1"):
        folder = artifact_folder(name)
        assert read_artifact(folder).scores.keys() == read_artifact(artifact).scores.keys()
    assert not (artifact_folder("user/old") / "large.bin").exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.asked.clear()
    assert (artifact_folder("user/old") / "acip.json").is_file() and hub.asked == []


def test_a_folder_comes_first(hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    artifact.rename(tmp_path / "user-art")
    (tmp_path / "user").mkdir()
    (tmp_path / "user-art").rename(tmp_path / "user" / "art")
    assert artifact_folder("user/art") == Path("user/art")
    for name in ("./precomputed/absent", "/nowhere/at/all", "absent"):
        assert artifact_folder(name) == Path(name)  # `read_artifact` says what is wrong
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("user/absent", "no repository 'user/absent' on the Hub, or it is private: check the name, or run `hf auth"),
        ("user/secret", "no repository 'user/secret' on the Hub, or it is private"),
        ("user/art@v9", "'user/art@v9' has no such revision"),
        ("user/a b", "not a repository's name"),
        ("a" * 300 + "/b", "not a repository's name"),
        ("user/other", "holds no artifact"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    hub: Hub, artifact: Path, tmp_path: Path, name: str, words: str
) -> None:
    for repo in ("user/art", "user/secret"):
        hub.add(repo, artifact)
    hub.private.add("user/secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    hub.add("user/other", tmp_path / "other")
    with pytest.raises(HubError, match=words):
        artifact_folder(name)


def test_a_private_one_with_a_token(hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("user/secret", artifact)
    hub.private.add("user/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (artifact_folder("user/secret") / "acip.json").is_file()


def test_without_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match=r"neither a folder nor an earlier copy of 'user/art' .*HF_HUB_OFFLINE is set"):
        artifact_folder("user/art")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        check_publishable("user/art")


def test_publishing(hub: Hub, artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    code, output = run(monkeypatch, capsys, "push", str(artifact), "user/new")
    assert code == 2 and "hf auth login" in output and hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, output = run(monkeypatch, capsys, "push", str(artifact), "user/new")
    assert code == 0 and f"{hub.address}/user/new" in output and "user/new" in hub.private
    assert hub.repos["user/new"]["main"] == {path.name: path.read_bytes() for path in artifact.iterdir()}
    assert read_artifact(artifact_folder("user/new")).source == read_artifact(artifact).source
    code, output = run(monkeypatch, capsys, "push", str(artifact), "user/open", "--public")
    assert code == 0 and "user/open" not in hub.private
    with pytest.raises(HubError, match=r"refuses 'others/new' \(403\)"):
        publish(artifact, "others/new")
    hub.broken = True
    with monkeypatch.context() as patient, pytest.raises(HubError, match="cannot be asked for 'user/new'"):
        patient.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
        publish(artifact, "user/new")
    hub.broken = False
    with pytest.raises(HubError, match="neither an artifact nor an exported model"):
        publish(tmp_path, "user/new")
    with pytest.raises(HubError, match="write it as user/repo"):
        publish(artifact, "new")


@pytest.mark.parametrize("verb", ["precompute", "finetune", "export"])
def test_what_keeps_a_result_from_being_published_is_said_before_the_work(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, tmp_path: Path
) -> None:
    monkeypatch.setattr("acip_core.model.base_model.load_base", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("acip_core.artifacts.loading.load_base", lambda *_: pytest.fail("the model was loaded"))
    arguments = {
        "precompute": (),
        "finetune": ("x", "--size", "0.5"),
        "export": ("x", str(tmp_path / "o"), "--size", "1"),
    }
    code, output = run(monkeypatch, capsys, verb, *arguments[verb], "--push-to-hub", "user/new")
    assert code == 2 and "hf auth login" in output


COMMANDS = """
import sys
import acip_core
from acip_core.cli import main
out, wrong = sys.argv[1:]
rest = ["--size", "0.7", "--artifact", "user/art"]
try:
    main(["export", "user/tiny-llama@v2", out, *rest, "--push-to-hub", "user/cut"])
except SystemExit as end:
    assert not end.code
print(type(acip_core.load_base("user/cut").model).__name__)
main(["export", "user/tiny-llama@v3", wrong, *rest])
"""


def test_model_and_artifact_from_the_hub_to_the_hub(hub: Hub, artifact: Path, tmp_path: Path) -> None:
    """In a process of its own, for transformers reads the Hub's address when it is imported."""
    base = tiny_base()
    save(base, tmp_path / "tiny")
    hub.add("user/tiny-llama", tmp_path / "tiny", "v2")
    hub.add("user/art", artifact)
    environment = os.environ | {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "ACIP_CACHE": str(tmp_path / "c")}
    command = [sys.executable, "-c", COMMANDS, str(tmp_path / "out"), str(tmp_path / "wrong")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["CompressedForCausalLM"], done.stderr[-3000:]
    assert {"config.json", "model.safetensors", "README.md", "modeling.py"} <= hub.repos["user/cut"]["main"].keys()
    assert done.returncode == 2 and "v3" in done.stderr and not (tmp_path / "wrong").exists()
