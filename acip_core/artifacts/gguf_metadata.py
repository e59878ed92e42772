"""What a GGUF file says of a model besides its weights: copied from the file it was read from, or told anew.

The names of fields are those of llama.cpp (the `gguf` package); nothing here knows sizes or tensors.
"""

from __future__ import annotations

import json
from typing import Any

from gguf import GGML_QUANT_VERSION, GGUFReader, GGUFValueType, GGUFWriter, TokenType
from gguf.constants import MODEL_ARCH
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from ..data.framing import framing
from ..errors import ModelError
from ..model.base_model import BaseModel

ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
WAY_OUT = "export it with --dense and convert that folder with llama.cpp's convert_hf_to_gguf.py"
_NOT_COPIED = ("GGUF.", "split.", "general.architecture", "general.alignment", "general.file_type")


def architecture(base: BaseModel) -> MODEL_ARCH:
    """How llama.cpp calls a model's architecture.

    Raises:
        ModelError: it is none of those that are written here, or has something that their files cannot say.
    """
    config: Any = base.model.config
    kind = config.model_type.removeprefix("acip_")
    if kind not in ARCHITECTURES:
        raise ModelError(f"GGUF files are written of {', '.join(ARCHITECTURES)} models, not of {kind}; {WAY_OUT}.")
    rope = getattr(config, "rope_parameters", None) or {}
    if base.file is None and rope.get("rope_type", "default") != "default":
        raise ModelError(f"Rotary factors ({rope['rope_type']}) are not written into GGUF files here; {WAY_OUT}.")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise ModelError(f"llama.cpp reads {kind} models without their sliding window of {window}; {WAY_OUT}.")
    return ARCHITECTURES[kind]


def copy_fields(writer: GGUFWriter, source: GGUFReader) -> None:
    """The fields of another file, but those that are about its form."""
    for key, field in source.fields.items():
        if key.startswith(_NOT_COPIED):
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)


def add_fields(writer: GGUFWriter, base: BaseModel) -> None:
    """Name, shape and tokenizer of a model of `ARCHITECTURES`.

    Raises:
        ModelError: its tokenizer is of no kind that is written here.
    """
    config: Any = base.model.config
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type("model")
    writer.add_name(base.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_tokenizer(writer, base.tokenizer, config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    described = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    model, split = described["model"], _pre_tokenizer(described)
    if model.get("type") != "BPE" or model.get("byte_fallback") or split is None:
        raise ModelError(f"Its tokenizer is no byte-level BPE that is written into GGUF files here; {WAY_OUT}.")
    added = {token["id"]: token for token in described["added_tokens"]}
    words = {number: word for word, number in model["vocab"].items()} | {n: t["content"] for n, t in added.items()}
    if max(words) >= rows:
        raise ModelError(f"Its tokenizer has {max(words) + 1:,} tokens, the model {rows:,}; name another model.")
    kinds = [_kind(number, words, added) for number in range(rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(bool(framing(tokenizer).start))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _kind(number: int, words: dict[int, str], added: dict[int, dict[str, Any]]) -> TokenType:
    if number in added:
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL if number in words else TokenType.UNUSED


def _pre_tokenizer(described: dict[str, Any]) -> str | None:
    """llama.cpp's name of how text is split before merging; None where it has none that is known here."""
    step = described.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    kinds = [each.get("type") for each in steps]
    last = steps[-1]
    if kinds[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        pattern = steps[0]["pattern"].get("Regex")
        return next((name for name in ("llama-bpe", "qwen2") if GGUF_PRE_TOKENIZER_SPLITS[name] == pattern), None)
    return None
