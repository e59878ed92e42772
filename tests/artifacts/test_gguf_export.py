"""A model as one GGUF file: what llama.cpp's reader and transformers find in it is what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from acip_core.api import AcipModel
from acip_core.artifacts.gguf_export import FILE, gguf_plan, plan_gguf
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArgumentError, ArtifactError, ModelError, SizeError, StorageError
from acip_core.model.base_model import BaseModel, load_base
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.size_planner import BOTH
from acip_core.progress import Progress, finish
from tests.support.coded import with_coding
from tests.support.commands import run
from tests.support.device import DEVICE
from tests.support.exports import base_of, logits
from tests.support.faults import full_disk
from tests.support.gguf_models import byte_level, coding_of, elastic_of, made, types_of, write
from tests.support.tiny import (
    VOCABULARY,
    calibration,
    save,
    tiny_artifact,
    tiny_base,
    tiny_basis,
)

FAMILIES = ("llama", "qwen2", "qwen3")


TEXT = "the cat's 12 words,  then a\nnew line"


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_is_the_model_bit_for_bit(family: str, tmp_path: Path, cache: Path) -> None:
    elastic = elastic_of(family)
    file = write(elastic, elastic.planner.at_ratio(1.0), tmp_path / "out")
    wanted = {name: tensor for name, tensor in elastic.model.state_dict().items()}
    base = load_base(str(file))
    assert base.stored_dtype == torch.bfloat16 and not base.is_dequantized
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file=FILE, dtype=torch.float32)
    for model in (base.model, plain):
        assert all(torch.equal(tensor.to(DEVICE), wanted[name]) for name, tensor in model.state_dict().items())
        torch.testing.assert_close(logits(model), logits(elastic.model), rtol=1e-4, atol=1e-4)
    assert set(types_of(file).values()) == {Type.BF16, Type.F32}
    card = (tmp_path / "out/README.md").read_text()
    assert f"llama-cli -m {FILE}" in card and f'gguf_file="{FILE}"' in card


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_in_bytes(family: str, tmp_path: Path, cache: Path) -> None:
    elastic, coding = elastic_of(family), coding_of(family)
    planner = finish(plan_gguf(elastic, coding))
    losses = []
    for share in (0.0, 0.3, 0.6, 1.0):
        size = planner.smallest + share * (planner.largest - planner.smallest)
        plan = finish(gguf_plan(elastic, coding, size))
        file = write(elastic, plan, tmp_path / f"{share}", coding)
        held = sum(tensor.n_bytes for tensor in GGUFReader(file).tensors)
        assert held == plan.bytes <= size and plan.bytes > 0.8 * size
        model = load_base(str(file)).model
        losses.append(float((logits(model) - logits(elastic.model)).square().mean()))
        assert plan.loss == pytest.approx(0, abs=1e-12) or losses[-1] > 0
    assert losses[-1] == 0 and losses[0] > losses[2] > 0
    with pytest.raises(SizeError, match=r"the smallest has .* llama.cpp's smallest type"):
        finish(gguf_plan(elastic, coding, planner.smallest - 1))
    assert finish(gguf_plan(elastic, coding, rise=1e9)).bytes == planner.smallest
    assert finish(gguf_plan(elastic, coding, rise=0.0)).bytes == planner.largest
    with pytest.raises(ArtifactError, match="no operating points"):
        finish(gguf_plan(elastic, None, 1e6))


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_are_multiplied_out(family: str, tmp_path: Path, cache: Path) -> None:
    elastic = elastic_of(family)
    plan = elastic.planner.at_ratio(0.6)
    file = write(elastic, plan, tmp_path / "out")
    with elastic.at(plan):
        wanted = logits(elastic.model)
    found = logits(load_base(str(file)).model)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    assert Type.Q8_0 in types_of(file).values()


def test_the_source_file_is_written_again(tmp_path: Path, cache: Path) -> None:
    elastic, coding = elastic_of("llama"), coding_of("llama")
    smallest = finish(plan_gguf(elastic, coding)).smallest
    source = write(elastic, finish(gguf_plan(elastic, coding, smallest)), tmp_path / "source", coding)
    base = load_base(str(source))
    assert base.is_dequantized and base.stored_dtype == torch.bfloat16
    again = made(base)
    file = write(again, again.planner.at_ratio(1.0), tmp_path / "again")
    assert file.read_bytes() == source.read_bytes()
    cut = write(again, again.planner.at_ratio(0.5), tmp_path / "cut")
    first, second = GGUFReader(source), GGUFReader(cut)
    fields = {key: field.contents() for key, field in first.fields.items() if key != "general.file_type"}
    assert fields.items() <= {key: field.contents() for key, field in second.fields.items()}.items()
    changed = [a.name for a, b in zip(first.tensors, second.tensors, strict=True) if a.tensor_type != b.tensor_type]
    assert changed and all(".attn_" in name or ".ffn_" in name for name in changed)
    source.unlink()
    with pytest.raises(ModelError, match=r"model.gguf can no longer be read .*; restore it"):
        write(again, again.planner.at_ratio(1.0), tmp_path / "late")


SPLITS: dict[str, tuple[pre_tokenizers.PreTokenizer, ...]] = {
    "gpt-2": (),
    "smollm": (pre_tokenizers.Digits(individual_digits=True),),
    **{
        name: (pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated"),)
        for name in ("llama-bpe", "qwen2")
    },
}


@pytest.mark.parametrize("name", SPLITS)
def test_the_tokenizer_is_whole(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(*SPLITS[name], use_regex=name in ("gpt-2", "smollm"))
    tokenizer.chat_template = "{{ messages[0].content }}"
    elastic = elastic_of("llama")
    elastic = made(replace(elastic.base, model=tiny_base().model, tokenizer=tokenizer))
    file = write(elastic, elastic.planner.at_ratio(1.0), tmp_path / "out")
    fields = {key: field.contents() for key, field in GGUFReader(file).fields.items()}
    assert fields["tokenizer.ggml.pre"] == name and fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (0, 1)
    kinds, words = fields["tokenizer.ggml.token_type"], fields["tokenizer.ggml.tokens"]
    assert len(words) == len(kinds) == VOCABULARY and kinds[:2] == [3, 3] and kinds[-1] == 5
    assert words[len(tokenizer) - 1] == "<tool>" and kinds[len(tokenizer) - 1] == 4
    read = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=FILE)
    if name != "smollm":  # transformers' reader does not know this one's digits
        assert read(TEXT).input_ids == tokenizer(TEXT).input_ids
    assert read("a<tool></s>").input_ids[-2:] == [len(tokenizer) - 1, 1]


def of_another_family(base: BaseModel) -> BaseModel:
    return replace(tiny_base("gpt2"), tokenizer=base.tokenizer)


def with_rotary_factors(base: BaseModel) -> BaseModel:
    base.model.config.rope_parameters = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}
    return base


def with_a_window(base: BaseModel) -> BaseModel:
    return replace(tiny_base("mistral"), tokenizer=base.tokenizer)


def with_words(base: BaseModel) -> BaseModel:
    return replace(base, tokenizer=tiny_base().tokenizer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_another_family, "GGUF files are written of llama, mistral, qwen2, qwen3 models, not of gpt2"),
        (with_rotary_factors, r"Rotary factors \(yarn\) are not written"),
        (with_a_window, "without their sliding window of 16"),
        (with_words, "tokenizer is no byte-level BPE"),
    ],
)
def test_what_cannot_be_said_is_refused(change: Callable[[BaseModel], BaseModel], words: str, tmp_path: Path) -> None:
    elastic = made(replace(tiny_base(), tokenizer=byte_level()))
    elastic.base = change(elastic.base)
    with pytest.raises(ModelError, match=rf"{words}.*--dense and convert .* convert_hf_to_gguf.py"):
        write(elastic, elastic.planner.at_ratio(1.0), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_no_room(tmp_path: Path) -> None:
    elastic = elastic_of("llama")
    with full_disk(20_000), pytest.raises(StorageError):
        write(elastic, elastic.planner.at_ratio(1.0), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        write(elastic, elastic.planner.at_ratio(1.0), tmp_path / "out")


def test_widths_that_no_block_divides_are_said(cache: Path) -> None:
    base = base_of("llama", hidden_size=36, intermediate_size=50, num_attention_heads=3, num_key_value_heads=3)
    elastic = made(replace(base, tokenizer=byte_level()))
    layers, basis = list(elastic.elastic_layers()), tiny_basis(elastic.base)
    moments = finish(measure_coding_moments(elastic.model, calibration(), layers, basis))
    with pytest.raises(SizeError, match="No width of its layers is a multiple of 32"):
        finish(gguf_plan(elastic, replace(coding_of("llama"), moments=moments), 1e4))


@pytest.fixture
def opened(tmp_path: Path, cache: Path) -> tuple[str, Path]:
    """A model's folder and its artifact's."""
    base = replace(tiny_base(), tokenizer=byte_level())
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(save(base, tmp_path / "tiny-llama")), tmp_path / "artifact"


def test_python_writes_it(opened: tuple[str, Path], tmp_path: Path) -> None:
    loaded = with_coding(finish(open_model(*opened)))
    model = AcipModel(loaded)
    assert set(types_of(model.save_pretrained(tmp_path / "whole", format="gguf") / FILE).values()) == {Type.F32}
    model.set_bytes(0.9 * loaded.elastic.planner.base_bytes)
    tensors = GGUFReader(model.save_pretrained(tmp_path / "less", format="gguf") / FILE).tensors
    assert sum(tensor.n_bytes for tensor in tensors) <= model.plan.bytes
    model.set_bytes(loaded.elastic.planners[BOTH].smallest)
    with pytest.raises(SizeError, match=r"llama.cpp's smallest type"):
        model.save_pretrained(tmp_path / "least", format="gguf")
    for options in ({"dense": True}, {"dtype": "float16"}):
        with pytest.raises(ArgumentError, match="types of its own"):
            model.save_pretrained(tmp_path / "none", format="gguf", **options)
    with pytest.raises(ArgumentError, match="not as 'onnx'"):
        model.save_pretrained(tmp_path / "none", format="onnx")
    assert not (tmp_path / "none").exists() and not (tmp_path / "least").exists()


def test_the_command_line_writes_it(
    opened: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def export(*options: str) -> tuple[int, str]:
        return run(monkeypatch, capsys, "export", opened[0], str(tmp_path / options[0]), *options[1:], *form)

    form = ("--format", "gguf", "--artifact", str(opened[1]))
    code, told = export("half", "--size", "0.5")
    assert code == 0 and "are multiplied out in it" in told and (tmp_path / "half" / FILE).is_file(), told
    assert "acip_core codes" in caplog.text
    code, told = export("whole", "--size", "1")
    assert code == 0 and "all weights are as published" in told, told
    code, told = export("none", "--megabytes", "0.05")
    assert code == 2 and "acip_core codes" in told
    for options in (
        ("--precision", "int4"),
        ("--dense",),
        ("--dtype", "float16"),
        ("--worse", "5", "--megabytes", "1"),
    ):
        code, told = export("none", "--size", "0.5", *options)
        assert code == 2 and ("types of its own" in told or "Name one of" in told)
    code, told = export("none", "--megabytes", "1", "--spend", "directions")
    assert code == 2 and "by a share" in told
    assert not (tmp_path / "none").exists()
    loaded = with_coding(finish(open_model(*opened)))

    def coded(*_: object, **__: object) -> Iterator[Progress]:
        yield Progress("loading the model", 1, 1)
        return loaded

    monkeypatch.setattr("acip_core.artifacts.loading.open_model", coded)
    whole = loaded.elastic.planner.base_bytes
    code, told = export("bits", "--size", "0.9")
    assert code == 0 and "predicted to be at most" in told and "share of the published bytes" in told, told
    code, told = export("again", "--size", "0.9", "--spend", "directions")
    assert code == 0 and "are multiplied out in it" in told and "published bytes" not in told, told
    assert sum(t.n_bytes for t in GGUFReader(tmp_path / "bits" / FILE).tensors) <= 0.9 * whole
    assert export("worse", "--worse", "0")[0] == 0
    assert (tmp_path / "worse" / FILE).stat().st_size == (tmp_path / "whole" / FILE).stat().st_size
    code, told = export("none", "--megabytes", "0.001")
    assert code == 2 and "llama.cpp's smallest type" in told and not (tmp_path / "none").exists()
