"""The Python API: load, set the size, generate, measure, write; from one thread and from eight."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

import acip_core
from acip_core import AcipModel
from acip_core.artifacts.completions import read_completions
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import (
    ArgumentError,
    ArtifactError,
    CorpusError,
    GenerationError,
    HubError,
    ModelError,
    SizeError,
    StorageError,
)
from acip_core.model.size_planner import MODES
from acip_core.pipelines.recipes import QUICK
from tests.support.device import DEVICE
from tests.support.hub import TOKEN, local_hub
from tests.support.tiny import tiny_artifact, tiny_base

ROOT = Path(__file__).parent.parent
PROMPT = "Hello there, how are you today? "


@pytest.fixture
def files(cache: Path, tmp_path: Path) -> tuple[str, Path]:
    """A model's folder and its artifact's."""
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny-llama")
    base.tokenizer.save_pretrained(tmp_path / "tiny-llama")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(tmp_path / "tiny-llama"), tmp_path / "artifact"


@pytest.fixture
def model(files: tuple[str, Path]) -> AcipModel:
    return AcipModel.from_pretrained(files[0], artifact=files[1])


def test_size(model: AcipModel) -> None:
    assert model.size == 1.0 and model.plan.saved == 0
    plan = model.set_size(0.6)
    assert model.plan == plan and model.size == plan.ratio == pytest.approx(0.6, abs=0.02)
    for wrong in (0, -1, 1.1, math.nan, math.inf, 10**400, 10**5000, True, "0.5", None):
        with pytest.raises(SizeError):
            model.set_size(wrong)  # type: ignore[arg-type]
        assert model.plan == plan


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


def test_perplexity_at_the_size_in_force(model: AcipModel) -> None:
    text = "Some text of a few words, all of them read."
    ids = torch.tensor([[2, *model.elastic.tokenizer(text).input_ids]])  # after the end-of-text token
    found = {}
    for size in (1.0, 0.5):
        model.set_size(size)
        with torch.no_grad():
            expected = model.elastic.model(ids, labels=ids).loss.exp().item()
        found[size] = model.perplexity(text)
        assert found[size] == pytest.approx(expected, rel=1e-5)
    assert found[1.0] != found[0.5]


def test_a_long_text_is_read_in_windows_that_fit_the_context(model: AcipModel) -> None:
    text = "abcdefghi " * 60  # 600 tokens in a context of 256: windows that share a token, so that each is predicted
    ids = torch.tensor([2, *model.elastic.tokenizer(text).input_ids])
    windows = [ids[i : i + 256] for i in range(0, len(ids) - 1, 255)]
    with torch.no_grad():
        sums = [model.elastic.model(row[None], labels=row[None]).loss.item() * (len(row) - 1) for row in windows]
    assert model.perplexity(text) == pytest.approx(math.exp(sum(sums) / (len(ids) - 1)), rel=1e-5)


def test_an_empty_text(model: AcipModel) -> None:
    with pytest.raises(CorpusError, match="two tokens"):
        model.perplexity("")


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
        with pytest.raises(SizeError, match="between 0 and 1"):
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
        ({"local_files_only": True, "pretrained_model_name_or_path": "a/b"}, ModelError, "local_files_only is set"),
    ],
    ids=str,
)
def test_from_pretrained_refuses_by_name(files: tuple[str, Path], wrong: dict, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        AcipModel.from_pretrained(**{"pretrained_model_name_or_path": files[0], **wrong})


def test_save_pretrained(model: AcipModel, tmp_path: Path) -> None:
    model.set_size(0.5)
    folder = model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).to(DEVICE)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, model.elastic.model(ids).logits, atol=1e-4)
    with pytest.raises(StorageError, match="exists already"):
        model.save_pretrained(folder)
    with pytest.raises(ArgumentError, match="save_pretrained takes no 'safe_serialization'"):
        model.save_pretrained(tmp_path / "more", safe_serialization=True)
    with pytest.raises(ArgumentError, match="push_to_hub takes no 'commit_message'"):
        model.push_to_hub("user/repo", commit_message="x")
    with pytest.raises(HubError, match="write it as user/repo"):
        model.push_to_hub("repo")


def test_precompute_runs_to_the_end(files: tuple[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Line {i} says {i * i} and then {i**5}, no more." * 2 for i in range(700)))
    config = replace(QUICK, corpora=(str(text),), ratios=(1.0, 0.6), examples=("Hello",))
    steps: list[str] = []
    out = acip_core.precompute(
        files[0], config, output_dir=tmp_path / "made", on_progress=lambda step: steps.append(step.stage)
    )
    assert out == tmp_path / "made" and "gradient moments" in steps
    texts = read_completions(out)
    assert [c.mode for c in texts] == list(MODES) and all(c.texts.keys() >= {100} for c in texts)
    model = AcipModel.from_pretrained(files[0], artifact=out, size=0.6, mode="directions")
    assert model.size == pytest.approx(0.6, abs=0.02) and model.set_size(0.5, mode="bits").ratio <= 0.5


def test_a_text_that_is_none(model: AcipModel) -> None:
    with pytest.raises(CorpusError, match="of a text"):
        model.perplexity(None)  # type: ignore[arg-type]


def test_from_eight_threads_every_call_is_right(model: AcipModel, tmp_path: Path) -> None:
    """Each call runs at one size from its start to its end, whatever the others set: it is one of those expected."""
    ids, prompt = torch.arange(5, 45)[None], torch.arange(40, 60)[None]
    plans = {size: model.elastic.planner.at_ratio(size) for size in (1.0, 0.7, 0.5)}
    names = itertools.count()

    def forward() -> tuple[float, ...]:
        with torch.no_grad():
            return tuple(model.elastic.model(ids).logits[0, -1].tolist())

    def save() -> str:
        folder = model.save_pretrained(tmp_path / str(next(names)))
        weights = b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))
        return hashlib.sha256((folder / "config.json").read_bytes() + weights).hexdigest()

    verbs: dict[str, Callable[[], object]] = {
        "generate": lambda: tuple(model.generate(prompt, max_new_tokens=8, do_sample=False)[0].tolist()),
        "complete": lambda: model.complete(PROMPT, max_new_tokens=8),
        "sample": lambda: "".join(model.stream(PROMPT, max_new_tokens=8, temperature=1.0, seed=3)),
        "perplexity": lambda: round(model.perplexity(PROMPT * 20), 3),
        "forward": forward,
        "save": save,
    }
    expected: dict[str, set] = {name: set() for name in verbs}
    for size in plans:
        model.set_size(size)
        for name, verb in verbs.items():
            expected[name].add(verb())
    assert all(len(values) > 1 for values in expected.values())
    ratios = {plan.ratio for plan in plans.values()}

    def calls(seed: int) -> list[tuple[str, object]]:
        chosen = random.Random(seed)
        found: list[tuple[str, object]] = []
        for _ in range(12):
            size, name = chosen.choice(list(plans)), chosen.choice(list(verbs))
            assert model.set_size(size) == plans[size]
            found.append((name, verbs[name]()))
            assert model.size in ratios and model.plan.ratio in ratios
        return found

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(calls, range(8)):
            for name, value in found:
                assert value in expected[name], name
    model.set_size(0.7)
    assert forward() in expected["forward"] and model.elastic.plan == model.plan == plans[0.7]


def test_a_size_set_meanwhile_leaves_a_running_text_as_it_is(model: AcipModel) -> None:
    model.set_size(0.5)
    alone = model.complete(PROMPT, max_new_tokens=100)
    parts = model.stream(PROMPT, max_new_tokens=100)
    text = next(parts)
    for i, part in enumerate(parts):
        model.set_size((1.0, 0.7)[i % 2])
        text += part
    assert text == alone


def test_a_pass_keeps_the_size_at_its_start(model: AcipModel) -> None:
    ids = torch.arange(5, 25)[None]
    model.set_size(0.5)
    with torch.no_grad():
        expected = model.elastic.model(ids).logits
        first = next(iter(model.elastic.elastic_layers().values()))
        with ThreadPoolExecutor(1) as other:
            hook = first.register_forward_hook(lambda *_: other.submit(model.set_size, 1.0).result() and None)
            assert torch.equal(model.elastic.model(ids).logits, expected)
            hook.remove()
            assert not torch.equal(model.elastic.model(ids).logits, expected)


def test_generate_keeps_the_size_at_its_start(model: AcipModel) -> None:
    ids = torch.arange(5, 25)[None]
    model.set_size(0.5)
    alone = model.generate(ids, max_new_tokens=20, do_sample=False)

    def resize(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        model.set_size(1.0)
        return scores

    assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False, logits_processor=[resize]), alone)
    assert model.size == 1.0 and not torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False), alone)


def test_names_of_the_release_before_work_and_say_what_they_are_now(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"acip_core\.load is called acip_core\.AcipModel\.from_pretrained now"):
        load = acip_core.load
    with pytest.warns(DeprecationWarning, match=r"acip_core\.Model is called acip_core\.AcipModel now"):
        former = acip_core.Model
    with pytest.warns(DeprecationWarning, match="PrecomputeConfig now"):
        assert acip_core.Recipe is acip_core.PrecomputeConfig
    model = load(*files)
    assert isinstance(model, former)
    model.set_size(0.5)
    assert model.generate(PROMPT, max_new_tokens=5) == model.complete(PROMPT, max_new_tokens=5)
    assert (model.export(tmp_path / "out", dtype="bfloat16") / "config.json").is_file()


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
