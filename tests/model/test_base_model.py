"""Base models: where they come from, what is refused, and what identifies them."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from acip_core.errors import ModelError
from acip_core.model import base_model as base_module
from acip_core.model.base_model import BaseModel, fingerprint, load_base
from acip_core.model.placement import best_device
from benchmarks.reliability.models import write_gguf
from tests.support.tiny import calibration, save, target_weights, tiny_base


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACIP_DEVICE", device)
    with pytest.raises(ModelError, match=f"`{device}`, which this machine does not have"):
        best_device()


def test_fingerprint_is_stable_and_agrees_across_precisions(base: BaseModel, family: str):
    weights = target_weights(base)
    assert fingerprint(weights) == fingerprint(target_weights(tiny_base(family)))
    assert fingerprint(weights) == fingerprint({name: w.bfloat16() for name, w in weights.items()})
    assert fingerprint(weights) != fingerprint(target_weights(tiny_base(family, seed=1)))


def test_fingerprint_notices_one_changed_value_name_or_shape():
    weights = target_weights(tiny_base())
    name = next(iter(weights))
    changed = weights[name].clone()
    changed[3, 5] += 0.5
    prints = {
        fingerprint(weights),
        fingerprint(weights | {name: changed}),
        fingerprint(weights | {name: weights[name].reshape(16, 64)}),
        fingerprint({f"x{n}": w for n, w in weights.items()}),
    }
    assert len(prints) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fingerprint_refuses_values_that_are_not_finite(value: float):
    weights = target_weights(tiny_base())
    name = list(weights)[-1]
    weights[name] = weights[name].clone()
    weights[name][1] = value
    with pytest.raises(ModelError, match=rf"{name}.*not finite"):
        fingerprint(weights)


def test_local_folder_round_trip(base: BaseModel, tmp_path: Path):
    folder = tmp_path / "My-Model"
    save(base, folder)
    loaded = load_base(str(folder))
    assert loaded.name == "my-model" and loaded.dtype == torch.float32 and not loaded.model.training
    with torch.no_grad():
        assert torch.equal(loaded.model(calibration()).logits, base.model(calibration()).logits)
    assert loaded.tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_tokenizer_without_padding_gets_one(tmp_path: Path):
    made = tiny_base()
    made.tokenizer.pad_token = None
    save(made, tmp_path)
    assert load_base(str(tmp_path), device="cpu").tokenizer.pad_token == "</s>"


def refused(source: str | None) -> str:
    """The one sentence that says why a source cannot be loaded."""
    with pytest.raises(ModelError) as caught:
        load_base(source, device="cpu")
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


def test_missing_gguf(tmp_path: Path):
    assert str(tmp_path / "gone.gguf") in refused(str(tmp_path / "gone.gguf"))


@pytest.mark.parametrize("source", ["~nobody-lives-here/model", "x" * 5000, "a\0b", "", "/", "not a name!"])
def test_names_that_no_model_can_have(source: str):
    refused(source)


def test_file_in_place_of_a_folder(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"\x00\xff")
    assert str(tmp_path / "model.bin") in refused(str(tmp_path / "model.bin"))


def test_folder_without_config(tmp_path: Path):
    message = refused(str(tmp_path))
    assert "config.json" in message and str(tmp_path) in message


def test_folder_with_damaged_weights(tmp_path: Path):
    made = tiny_base()
    save(made, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    message = refused(str(tmp_path))
    assert str(weights) in message and "download it again" in message and "requirements" not in message


def test_an_architecture_that_is_no_decoder(tmp_path: Path):
    sizes = {"vocab_size": 128, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    tiny_base().tokenizer.save_pretrained(tmp_path)
    message = refused(str(tmp_path))
    assert str(tmp_path) in message and "T5Config" in message


def test_unknown_hub_id_names_the_ways_out():
    message = refused("nobody-has-this/model-name")
    assert "nobody-has-this/model-name" in message and "did you mean" not in message
    assert "connect to the Hugging Face Hub, or name a local folder" in message
    assert "requirements-embedded.txt" not in message  # that is another model


@pytest.mark.parametrize("name", ["smolm2-135m-instruct", "HugginFaceTB/SmolLM2-135M-Instruct"])
def test_a_misspelt_default_is_asked_about(name: str):
    assert "did you mean smollm2-135m-instruct?" in refused(name)
    assert "did you mean" not in refused(name.replace("135", "360"))


@pytest.mark.parametrize("source", [None, "SmolLM2-135M-Instruct"])
def test_default_without_wheel_and_network_names_both_ways_out(
    source: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.setattr(base_module, "embedded_gguf", lambda: None)
    monkeypatch.setattr(base_module, "DEFAULT_HUB_ID", "nobody-has-this/model-name")  # whatever the Hub cache holds
    message = refused(source)
    assert "requirements-embedded.txt" in message and "Hugging Face Hub" in message


def test_file_that_is_not_gguf(cache: Path, tmp_path: Path):
    file = tmp_path / "letter.gguf"
    file.write_text("Dear reader, this is not a model.")
    assert str(file) in refused(str(file))
    assert not cache.exists() or not list(cache.rglob("*.*"))


def test_a_gguf_file_is_parsed_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parsed: list[object] = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path: object):
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    load_base(str(write_gguf(tmp_path / "tiny.gguf")))
    assert len(parsed) == 1 and gguf.GGUFReader is Reader


@pytest.mark.real
def test_truncated_gguf(cache: Path, tmp_path: Path, default_gguf: Path):
    file = tmp_path / "cut.gguf"
    with default_gguf.open("rb") as stream:
        file.write_bytes(stream.read(20_000_000))
    assert str(file) in refused(str(file))
    assert not cache.exists() or not list(cache.rglob("*.*"))
