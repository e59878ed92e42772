"""Checkpoints that are not the model their configuration names: refused in one sentence, never filled up or trimmed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, BitsAndBytesConfig, LlamaForCausalLM, PreTrainedModel

from acip_core.errors import ModelError
from acip_core.model.base_model import load_base
from acip_core.model.target_layers import target_layers
from tests.support.checkpoints import logits, refused
from tests.support.tiny import tiny_base, tiny_model, tiny_tokenizer

Tensors = dict[str, torch.Tensor]
UP = "model.layers.1.mlp.up_proj.weight"


def saved(folder: Path, model: PreTrainedModel | None = None) -> Path:
    (model or tiny_model("llama")).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    tensors = edit({name: tensor.clone() for name, tensor in load_file(file).items()})
    save_file(tensors, file, {"format": "pt"})


def configure(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def poisoned(name: str, value: float) -> Callable[[Tensors], Tensors]:
    def edit(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[7] = value
        return tensors

    return edit


DAMAGED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda t: {n: v for n, v in t.items() if n != UP}, rf"1 of its tensors are missing \({UP}\)"),
    "left over": (lambda t: t | {"value_head.weight": torch.ones(3)}, r"1 tensors fit nowhere \(value_head.weight\)"),
    "a bias too many": (lambda t: t | {UP.replace("weight", "bias"): torch.ones(56)}, "1 tensors fit nowhere"),
    "renamed": (lambda t: {n.replace("up_proj", "w3"): v for n, v in t.items()}, r"2 of its .*2 tensors fit nowhere"),
    "compiled": (lambda t: {f"_orig_mod.{n}": v for n, v in t.items()}, "stems from torch.compile: save the model"),
    "distributed": (lambda t: {f"module.{n}": v for n, v in t.items()}, "stems from DistributedDataParallel"),
    "shape": (lambda t: t | {UP: torch.ones(55, 32)}, rf"have another shape \({UP}: \(55, 32\) instead of \(56, 32\)"),
    "integers": (lambda t: t | {UP: torch.ones(56, 32, dtype=torch.int8)}, rf"{UP} \(int8\) where floating-point"),
    "float8": (lambda t: t | {UP: t[UP].to(torch.float8_e4m3fn)}, r"\(float8_e4m3fn\) where floating-point"),
    "not a number": (poisoned("model.norm.weight", float("nan")), r"not all values of model.norm.weight are finite"),
    "infinite": (poisoned("model.embed_tokens.weight", float("inf")), "embed_tokens.weight are finite"),
    "many": (lambda t: {n: v for n, v in t.items() if "mlp" not in n}, r"6 of its .* and 3 more\)"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_tensors_that_are_not_the_models(damage: str, tmp_path: Path) -> None:
    edit, words = DAMAGED[damage]
    change(saved(tmp_path), edit)
    message = refused(tmp_path)
    assert re.search(words, message), message


def test_tensors_of_another_architecture(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("gpt2"))
    (tmp_path / "config.json").write_text(json.dumps(tiny_model("llama").config.to_dict()))
    assert "of its tensors are missing" in refused(tmp_path) and "fit nowhere" in refused(tmp_path)


def test_what_older_versions_stored_is_no_left_over(tmp_path: Path) -> None:
    computed = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    change(saved(tmp_path), lambda t: t | computed)
    assert torch.equal(logits(load_base(str(tmp_path)).model), logits(tiny_model("llama")))
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 256, 256, dtype=torch.uint8) for i in range(2)}
    change(saved(tmp_path / "gpt2", tiny_model("gpt2")), lambda t: t | masks)
    assert torch.equal(logits(load_base(str(tmp_path / "gpt2")).model), logits(tiny_model("gpt2")))


def test_a_tied_head_is_shared_and_another_head_is_kept(tmp_path: Path) -> None:
    tied = load_base(str(saved(tmp_path / "tied"))).model
    assert tied.lm_head.weight is tied.model.embed_tokens.weight and tied.config.tie_word_embeddings
    head = torch.randn(128, 32)
    change(saved(tmp_path / "other"), lambda t: t | {"lm_head.weight": head})
    other = load_base(str(tmp_path / "other")).model
    assert torch.equal(other.lm_head.weight.cpu(), head) and not other.config.tie_word_embeddings
    other.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(LlamaForCausalLM.from_pretrained(tmp_path / "again")), logits(other))


def test_the_type_that_is_stored_and_the_type_that_is_computed_in(tmp_path: Path) -> None:
    saved(tmp_path, tiny_model("llama").bfloat16())
    change(tmp_path, lambda t: t | {"model.norm.weight": t["model.norm.weight"].float()})
    base = load_base(str(tmp_path))
    assert base.stored_dtype == torch.bfloat16 and base.dtype == torch.float32
    for dtype in ("bfloat16", torch.bfloat16):
        assert load_base(str(tmp_path), "cpu", dtype).dtype == torch.bfloat16
    assert load_base(str(tmp_path), "cpu", "auto").dtype == torch.float32
    assert load_base(str(tmp_path), "cpu", "float16").dtype == torch.float16
    for wrong in ("int8", "half a float", torch.int64, 16):
        with pytest.raises(ModelError, match="choose auto, float32, bfloat16, float16"):
            load_base(str(tmp_path), "cpu", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["LORA", "LOHA"])
def test_an_adapter_beside_the_model(kind: str, tmp_path: Path) -> None:
    saved(tmp_path)
    get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": kind}))
    message = refused(tmp_path)
    assert f"A {kind} adapter" in message and "merge_and_unload" in message
    (tmp_path / "acip.json").write_text("{}")
    assert "holds an artifact" in refused(tmp_path)
    (tmp_path / "acip.json").unlink()
    (tmp_path / "config.json").unlink()
    assert f"only a {kind} adapter of the model" in refused(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        BitsAndBytesConfig(load_in_8bit=True),
    ],
)
def test_quantized_checkpoints_are_turned_back(config: BitsAndBytesConfig, tmp_path: Path) -> None:
    saved(tmp_path / "whole", tiny_model("llama").bfloat16())
    quantized = LlamaForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=config)
    saved(tmp_path / "small", quantized)
    base = load_base(str(tmp_path / "small"))
    assert base.stored_dtype == torch.bfloat16
    assert len(target_layers(base.model)) == 14
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert not hasattr(base.model.config, "quantization_config")
    whole = target_layers(tiny_model("llama"))[UP.removesuffix(".weight")].weight
    difference = (target_layers(base.model)[UP.removesuffix(".weight")].weight - whole).abs().mean()
    assert 0 < difference < 0.25 * whole.abs().mean()
    base.model.save_pretrained(tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert torch.equal(logits(LlamaForCausalLM.from_pretrained(tmp_path / "out")), logits(base.model))


def test_float8_checkpoints_are_turned_back(tmp_path: Path) -> None:
    block = 8

    def shrink(tensors: Tensors) -> Tensors:
        for name in [n for n in tensors if "_proj" in n]:
            m, n = tensors[name].shape
            blocks = tensors[name].view(m // block, block, n // block, block)
            scale = blocks.abs().amax((1, 3)) / 400
            tensors[name] = (blocks / scale[:, None, :, None]).view(m, n).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale
        return tensors

    change(saved(tmp_path), shrink)
    stored = load_file(tmp_path / "model.safetensors")
    method = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    configure(tmp_path, quantization_config=method)
    base = load_base(str(tmp_path))
    assert {p.dtype for p in base.model.parameters()} == {torch.float32} and len(target_layers(base.model)) == 14
    scale = stored[f"{UP}_scale_inv"].repeat_interleave(block, 0).repeat_interleave(block, 1)
    weight = target_layers(base.model)[UP.removesuffix(".weight")].weight
    torch.testing.assert_close(weight.detach(), stored[UP].float() * scale)
    assert not hasattr(base.model.config, "quantization_config")


@pytest.mark.parametrize("method", ["gptq", "awq", "made-up", 7])
def test_what_cannot_be_turned_back_is_said(method: Any, tmp_path: Path) -> None:
    configure(saved(tmp_path), quantization_config={"quant_method": method, "bits": 4})
    assert f"is quantized ({method})" in refused(tmp_path) and "unquantized" in refused(tmp_path)


def nested(depth: int = 100_000) -> str:
    return '{"a":' * depth + "1" + "}" * depth


CONFIGURATIONS: list[dict[str, Any]] = [
    {"num_hidden_layers": 10**9},
    {"num_hidden_layers": 10**30},
    {"num_hidden_layers": 500},
    {"num_hidden_layers": "two"},
    {"num_labels": 10**9},
    {"hidden_size": 10**7},
    {"hidden_size": 10**30},
    {"vocab_size": 10**9},
    {"vocab_size": -1},
    {"intermediate_size": 1e400},
    {"num_attention_heads": 0},
    {"hidden_act": "magic"},
    {"rope_parameters": [1, 2]},
    {"architectures": 7},
    {"model_type": ["llama"]},
    {"acip_base": "os"},
    {"acip_base": 5},
    {"dtype": {"a": 1}},
    {"quantization_config": []},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda settings: "-".join(map(str, settings.items()))[:60])
def test_damaged_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    configure(saved(tmp_path), **settings)
    try:
        base = load_base(str(tmp_path))
    except ModelError as error:
        assert "\n" not in str(error) and str(tmp_path) in str(error)
    else:  # what changes nothing may be anything
        assert torch.equal(logits(base.model), logits(tiny_model("llama")))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [nested(), "[]", "null", "\x00", "{", '{"a": ' + "9" * 5000 + "}"])
def test_damaged_files(name: str, content: str, tmp_path: Path) -> None:
    (saved(tmp_path) / name).write_text(content)
    try:
        load_base(str(tmp_path))
    except ModelError as error:
        assert "\n" not in str(error) and str(tmp_path) in str(error)
    else:
        assert content.startswith('{"a"')


@pytest.mark.parametrize("content", [nested(), "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b"}}'])
def test_damaged_index(content: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(content)
    refused(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_in_place_of_a_file(name: str, tmp_path: Path) -> None:
    (saved(tmp_path) / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert f"{name} is a pipe" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_folder_in_place_of_weights(name: str, tmp_path: Path) -> None:
    (saved(tmp_path) / "model.safetensors").unlink()
    (tmp_path / name).mkdir()
    assert f"{tmp_path / name} of the model is no file" in refused(tmp_path)


def test_a_pointer_in_place_of_weights(tmp_path: Path) -> None:
    (saved(tmp_path) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    assert "git lfs pull" in refused(tmp_path)


def test_an_encoder(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    saved(tmp_path, BertLMHeadModel(BertConfig(vocab_size=128, **sizes)))
    assert "is an encoder" in refused(tmp_path)


def test_without_a_tokenizer(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    assert "has no tokenizer" in refused(tmp_path) and "tokenizer.json" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://huggingface.co/org/model/tree/main", "name the Hub id alone: org/model."),
        ("hf.co/org/model", "name the Hub id alone: org/model."),
        ("org/model/file.gguf", "`hf download org/model file.gguf --local-dir .`"),
        ("org/model:Q4_K_M", "neither a folder here nor a Hub id"),
        ("C:\\models\\llama", "neither a folder here nor a Hub id"),
    ],
)
def test_names_that_almost_say_which(name: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_base(name)
    assert words in str(caught.value)


def test_a_single_weights_file(tmp_path: Path) -> None:
    assert f"name its folder ({saved(tmp_path)})" in refused(tmp_path / "model.safetensors")


def test_errors_of_the_device_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    folder = saved(tmp_path)
    assert tiny_base().stored_dtype == torch.float32
    monkeypatch.setattr(LlamaForCausalLM, "to", full)
    assert "OutOfMemoryError: CUDA out of memory." in refused(folder)
