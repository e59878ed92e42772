"""GGUF files: read and kept as a copy, refused where they are not all of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from acip_core.model.base_model import load_base
from tests.support.checkpoints import logits, refused
from tests.support.tiny import tiny_model, tiny_tokenizer

NAMES = {
    "embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def write_gguf(file: Path, without: str = "", extra: dict[str, torch.Tensor] | None = None, **counts: int) -> Path:
    """The tiny Llama as a GGUF file, its query and key rows as llama.cpp orders them."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    writer = GGUFWriter(file, "llama")
    config = model.config
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(56)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(128)
    writer.add_tokenizer_model("gpt2")
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_token_list([*words, "ab", *(f"<{i}>" for i in range(len(words) + 1, 128))])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in counts.items():
        writer.add_uint16(key.replace("_", "."), value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        parts = name.split(".")
        place = f"blk.{parts[2]}.{NAMES[parts[-2]]}" if "layers" in parts else NAMES.get(parts[1], "output_norm")
        if "q_proj" in name or "k_proj" in name:
            heads = len(tensor) // 8
            tensor = tensor.view(heads, 2, 4, 32).transpose(1, 2).reshape(len(tensor), 32)
        if f"{place}.weight" != without:
            writer.add_tensor(f"{place}.weight", tensor.cpu().numpy())
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_and_its_copy(cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    base = load_base(str(file))
    assert base.stored_dtype == torch.float32 and not base.is_dequantized and base.file == file
    torch.testing.assert_close(logits(base.model), logits(tiny_model("llama")))
    (copy,) = (cache / "models").iterdir()
    assert (copy / "digests.json").is_file() and not caplog.text
    expected = logits(load_base(str(file)).model)
    assert not caplog.text
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    assert torch.equal(logits(load_base(str(file)).model), expected)
    assert "model.safetensors differs from what was written" in caplog.text and "converting again" in caplog.text
    caplog.clear()
    (copy / "digests.json").unlink()  # as older versions left it
    assert torch.equal(logits(load_base(str(file)).model), expected)
    assert "converting again" in caplog.text and (copy / "digests.json").is_file()
    caplog.clear()
    size = weights.stat().st_size
    os.truncate(weights, size // 2)
    assert torch.equal(logits(load_base(str(file)).model), expected)
    assert "damaged" in caplog.text and weights.stat().st_size == size
    assert list((cache / "models").iterdir()) == [copy]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"without": "blk.1.ffn_up.weight"}, "of its tensors are missing (model.layers.1.mlp.up_proj.weight)"),
        ({"extra": {"rope_freqs.weight": torch.full((4,), 8.0)}}, "holds rope_freqs.weight, which transformers does"),
        ({"extra": {"blk.0.attn_q.bias": torch.ones(32)}}, "holds blk.0.attn_q.bias"),
        ({"split_count": 3}, "is one of 3 parts"),
        ({"name": "tiny-00001-of-00002.gguf"}, "`llama-gguf-split --merge <first part> tiny.gguf`"),
    ],
)
def test_gguf_files_that_are_not_all_of_a_model(
    options: dict[str, Any], words: str, cache: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / options.pop("name", "whole.gguf"), **options)
    assert words in refused(file)
    assert not (cache / "models").exists()


@pytest.mark.parametrize("width", ["embedding_length", "feed_forward_length"])
def test_a_damaged_width_is_refused_before_a_model_of_it_is_made(width: str, cache: Path, tmp_path: Path) -> None:
    """It takes one flipped bit to ask for gigabytes of weights that the file does not hold."""
    file = write_gguf(tmp_path / "tiny.gguf")
    data = bytearray(file.read_bytes())
    key = f"llama.{width}".encode()
    data[data.index(key) + len(key) + 6] ^= 16  # of a number of four bytes, after its type: 2 ** 20
    file.write_bytes(data)
    assert "describes a model of" in refused(file)


def test_rotary_factors_that_change_nothing(cache: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", extra={"rope_freqs.weight": torch.ones(4)})
    torch.testing.assert_close(logits(load_base(str(file)).model), logits(tiny_model("llama")))
