"""The Python API: a model is loaded, generates and completes as transformers' does."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from acip_core import AcipModel
from acip_core.errors import (
    ArgumentError,
    ArtifactError,
    GenerationError,
    ModelError,
    SizeError,
)
from tests.support.device import DEVICE
from tests.support.hub import TOKEN, local_hub
from tests.support.tiny import tiny_base

ROOT = Path(__file__).parents[2]

PROMPT = "Hello there, how are you today? "


def test_what_it_is(model: AcipModel) -> None:
    assert model.config.model_type == "llama" and model.tokenizer("a").input_ids
    assert (model.device, model.dtype) == (DEVICE, torch.float32)
    assert repr(model) == f"AcipModel(tiny-llama, size=1.000, torch.float32 on {DEVICE})"


def test_generate_and_complete_continue_as_transformers_does(model: AcipModel) -> None:
    inputs = model.tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False).to(model.device)
    texts = set()
    for size in (1.0, 0.5):
        model.set_size(size)
        expected = model.elastic.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        made = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert torch.equal(made, expected)
        assert torch.equal(model.generate(inputs.input_ids, max_new_tokens=12, do_sample=False), expected)
        text = model.tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert model.complete(PROMPT, max_new_tokens=12) == text == "".join(model.stream(PROMPT, max_new_tokens=12))
        texts.add(text)
        assert model.size == pytest.approx(size, abs=0.02)
    assert len(texts) == 2


def test_threads_that_generate_with_weights_on_disk_get_what_each_gets_alone(files: tuple[str, Path]) -> None:
    model = AcipModel.from_pretrained(files[0], artifact=files[1], device_map="disk")
    ids = torch.arange(3, 20)[None]

    def write(size: float) -> torch.Tensor:
        plan = model.elastic.planner.at_ratio(size)
        with model.elastic.on_this_thread(plan):
            own = model.elastic.model.generate(ids, max_new_tokens=8, do_sample=False)
        whole = model.generate(ids, max_new_tokens=8, do_sample=False)
        return torch.cat([own, whole, torch.tensor([model.tokenizer(model.complete("Hi", 4)).input_ids])], 1)

    sizes = [1.0, 0.5] * 3
    alone = {size: write(size) for size in set(sizes)}
    with ThreadPoolExecutor(len(sizes)) as pool:
        for size, found in zip(sizes, pool.map(write, sizes), strict=True):
            assert torch.equal(found, alone[size])


def test_generate_takes_what_transformers_takes(model: AcipModel) -> None:
    model.set_size(0.6)
    batch = model.tokenizer([PROMPT, "Hi"], return_tensors="pt", padding=True, padding_side="left").to(model.device)
    ids, mask = batch.input_ids, batch.attention_mask
    greedy = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for options in ({"streamer": None}, {"prompt_lookup_num_tokens": 3}):
        alone = model.generate(ids[:1], max_new_tokens=6, do_sample=False, **options)
        assert torch.equal(alone, greedy[:1])
    found = model.generate(
        ids, attention_mask=mask, max_new_tokens=6, num_beams=2, return_dict_in_generate=True, output_scores=True
    )
    assert found.sequences.shape == greedy.shape and len(found.scores) == 6
    settings = GenerationConfig(max_new_tokens=6, do_sample=True, pad_token_id=0)
    torch.manual_seed(1)
    drawn = model.generate(ids[:1], generation_config=settings)
    torch.manual_seed(1)
    assert torch.equal(model.generate(ids[:1], settings), drawn)


@pytest.mark.parametrize(
    "option",
    [
        {"custom_generate": "user/repo"}, {"assistant_early_exit": 1}, {"cache_implementation": "static"},
        {"generation_config": GenerationConfig(cache_implementation="static")}, {"trust_remote_code": True},
    ],
    ids=str,
)  # fmt: skip
def test_generate_refuses_by_name_what_it_cannot_do(model: AcipModel, option: dict) -> None:
    name = "cache_implementation" if "generation_config" in option else next(iter(option))
    with pytest.raises(ArgumentError, match=f"does not support '?{name}"):
        model.generate(torch.tensor([[5, 6]]), **option)
    with pytest.raises(GenerationError, match="for a text use `complete`"):
        model.generate(PROMPT)  # type: ignore[arg-type]


def test_a_repetition_penalty_makes_repetitions_rarer(model: AcipModel) -> None:
    plain, penalized = (model.complete(PROMPT, max_new_tokens=48, repetition_penalty=p) for p in (1.0, 4.0))
    assert plain == model.complete(PROMPT, max_new_tokens=48) != penalized
    assert "".join(model.stream(PROMPT, max_new_tokens=48, repetition_penalty=4.0)) == penalized
    assert len(set(penalized)) > len(set(plain))


def test_sampling_is_fixed_by_its_seed(model: AcipModel) -> None:
    def sample(seed: int) -> str:
        return model.complete(PROMPT, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed)

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"max_new_tokens": 0}, {"chat": True}, {"repetition_penalty": 0}]
)
def test_settings_that_cannot_be_run(model: AcipModel, wrong: dict) -> None:
    with pytest.raises(GenerationError):
        model.complete(PROMPT, **wrong)
    with pytest.raises(GenerationError, match="empty"):
        model.complete(" ")


def test_weights_the_artifact_was_not_made_from_are_said(files: tuple[str, Path], caplog) -> None:
    other = tiny_base(seed=9)
    other.model.save_pretrained(files[0])
    with caplog.at_level(logging.WARNING, "acip"):
        assert AcipModel.from_pretrained(files[0], artifact=str(files[1])).size == 1.0
    assert "close to, not exactly" in caplog.text


def test_nothing_to_load(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        AcipModel.from_pretrained("/nowhere.gguf")
    with pytest.raises(ArtifactError, match="No artifact at"):
        AcipModel.from_pretrained(files[0], artifact=tmp_path / "none")
    for size in (60, 0, math.nan, "0.5"):
        with pytest.raises(SizeError, match="above 0 and be 1 at most"):
            AcipModel.from_pretrained("/nowhere.gguf", size=size)  # type: ignore[arg-type]


def test_from_pretrained_takes_what_transformers_takes(files: tuple[str, Path], tmp_path: Path) -> None:
    steps: list[str] = []
    model = AcipModel.from_pretrained(
        Path(files[0]), artifact=files[1], size=0.6, dtype="bfloat16", device_map={"": "cpu"}, revision="main",
        artifact_revision="v1", token=False, cache_dir=tmp_path / "hub", local_files_only=True, precision="int8",
        on_progress=lambda step: steps.append(step.stage),
    )  # fmt: skip
    assert model.size == pytest.approx(0.6, abs=0.02) and model.dtype == torch.bfloat16 and model.complete(PROMPT)
    assert {"loading the model", "building elastic layers"} <= set(steps)
    for device in (None, "cpu", torch.device("cpu")):
        assert AcipModel.from_pretrained(*files[:1], artifact=files[1], device_map=device).device.type == "cpu"


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"trust_remote_code": True}, ArgumentError, "from_pretrained takes no 'trust_remote_code'"),
        ({"torch_dtype": "auto"}, ArgumentError, r"takes no 'torch_dtype' \(use 'dtype'\)"),
        ({"device_map": "balanced"}, ModelError, "device_map='balanced'"),
        ({"device_map": {"a": "cpu", "b": "disk"}}, ModelError, "runs on one device"),
        ({"dtype": "float8"}, ModelError, "cannot compute in 'float8'"),
        ({"artifact_revision": "v1"}, ArgumentError, "name it with 'artifact'"),
        ({"revision": "v1", "pretrained_model_name_or_path": None}, ModelError, "has no revision 'v1'"),
        ({"revision": "v1", "pretrained_model_name_or_path": "a/b@v2"}, ArgumentError, "a revision already"),
        ({"revision": "v1", "pretrained_model_name_or_path": "x" * 300}, ModelError, "Cannot look for a model"),
        ({"revision": "v1", "pretrained_model_name_or_path": "~no-body/x"}, ModelError, "Cannot look for a model"),
        ({"artifact_revision": "v1", "artifact": "~no-body/x"}, ArtifactError, "No artifact at"),
        ({"local_files_only": True, "pretrained_model_name_or_path": "a/b"}, ModelError, "local_files_only is set"),
    ],
    ids=str,
)
def test_from_pretrained_refuses_by_name(files: tuple[str, Path], wrong: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        AcipModel.from_pretrained(**{"pretrained_model_name_or_path": files[0], **wrong})


SCRIPT = """
import sys
from acip_core import AcipModel
place, token = sys.argv[1:]
where = dict(artifact="user/art", artifact_revision="v1", revision="v2", cache_dir=place)
model = AcipModel.from_pretrained("user/tiny-llama", size=0.7, token=token, **where)
print(model.size, model.push_to_hub("user/cut", token=token))
print(AcipModel.from_pretrained("user/tiny-llama", size=0.7, local_files_only=True, **where).size)
"""


def test_from_the_hub_to_the_hub_with_a_token(files: tuple[str, Path], tmp_path: Path) -> None:
    """In a process of its own, for transformers reads the Hub's address when it is imported."""
    unset = {"HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "https_proxy", "HTTPS_PROXY"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with local_hub() as hub:
        hub.add("user/tiny-llama", Path(files[0]), "v2")
        hub.add("user/art", files[1], "v1")
        hub.private |= {"user/tiny-llama", "user/art"}
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "copies"), TOKEN]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        size, address, again = done.stdout.split()
        assert size == again and address == f"{hub.address}/user/cut"
        assert {"config.json", "model.safetensors"} <= hub.repos["user/cut"]["main"].keys()
        assert "user/cut" in hub.private
    assert {path.name for path in (tmp_path / "copies").glob("models--*")} == {
        "models--user--tiny-llama", "models--user--art"
    }  # fmt: skip
