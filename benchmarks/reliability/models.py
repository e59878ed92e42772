"""Tiny random models of ten families, a tokenizer, a text, a GGUF file and an artifact: what trials start from."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from acip_core.artifacts.comparison import Comparison, Result, write_comparison
from acip_core.artifacts.task_results import TaskResult, write_evaluation
from acip_core.evaluation.facts import FACTS
from acip_core.pipelines import example_completions, knowledge
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import finish
from acip_core.training.adapters import AdapterConfig

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"))
_IDS = {"vocab_size": 264, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
_GATED = {**_SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
FAMILIES = {
    "llama": {**_GATED, "tie_word_embeddings": True},
    "qwen2": _GATED,  # biases in the attention
    "qwen3": {**_GATED, "head_dim": 8},
    "mistral": {**_GATED, "sliding_window": 16},
    "gemma2": {**_GATED, "head_dim": 8, "sliding_window": 16},
    "gemma3_text": {**_GATED, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi3": _GATED,  # fused projections
    "gpt2": {**_IDS, "n_embd": 32, "n_inner": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "opt": {**_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_neox": {**_SIZES, "intermediate_size": 64},
}
EXAMPLE = "the rain in"


def tiny_model(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A model with about 30,000 parameters in float32, biases and norms random too."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
            else:  # of transformers' own values, biases are zero, which hides mistakes
                parameter.copy_(0.1 * noise + float(name.endswith("weight") and not family.startswith("gemma")))
    return model.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and four merges."""
    tokenizer = Tokenizer(models.BPE(_vocabulary(), list(_MERGES), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _vocabulary() -> dict[str, int]:
    pieces = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in _MERGES)]
    return {piece: index for index, piece in enumerate(pieces)}


def write_model(folder: Path, family: str = "llama", shard: str = "2GB") -> Path:
    """A model folder as `save_pretrained` leaves it."""
    tiny_model(family).save_pretrained(folder, max_shard_size=shard)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_gguf(path: Path) -> Path:
    """A Llama in 8 bits as llama.cpp would have it."""
    model, settings = tiny_model(), FAMILIES["llama"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(settings["hidden_size"] // settings["num_attention_heads"])
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(_vocabulary()))
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (settings["vocab_size"] - len(_SPECIAL)))
    writer.add_token_merges([" ".join(pair) for pair in _MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["num_hidden_layers"])
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, parameter in model.named_parameters():
        stem, _, end = name.rpartition(".")
        values = parameter.detach().numpy().astype(np.float32)
        matrix = {"raw_dtype": kind} if values.ndim > 1 else {}
        writer.add_tensor(f"{names.get_name(stem)}.{end}", gguf.quantize(values, kind) if matrix else values, **matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_text(path: Path, documents: int = 120) -> Path:
    """Documents of made-up words, enough for every split."""
    draw = random.Random(1)
    words = ["".join(draw.choices("aeinorst", k=draw.randint(2, 6))) for _ in range(200)]
    path.write_text("\n\n".join(" ".join(draw.choices(words, k=30)) + "." for _ in range(documents)), encoding="utf-8")
    return path


def recipe(text: Path, seed: int = 0) -> PrecomputeConfig:
    """Every stage of `precompute`, each as short as it can be."""
    adapters = AdapterConfig(rank=2, alpha=4, steps=3, smallest=0.6, seed=seed)
    return PrecomputeConfig(
        corpora=(str(text),), window=32, moment_windows=4, score_windows=4, basis_rank=8, adapters=adapters,
        refining=AdapterConfig(steps=2, batch=2, smallest=0.6), curve_windows=2, ratios=(1.0, 0.8, 0.6),
        comparisons=False, examples=(EXAMPLE,), codes=None,
    )  # fmt: skip


def short_examples() -> None:
    """Complete them at few sizes, and ask for few facts; for a process of its own."""
    knowledge.ASKED = FACTS[::60]
    example_completions.NEW_TOKENS, example_completions.STRIDE = 6, 30


def write_artifact(model: Path, text: Path, folder: Path, seed: int = 0) -> Path:
    """An artifact with all files that any command writes there; for a process of its own."""
    short_examples()
    finish(precompute(str(model), recipe(text, seed), folder))
    write_evaluation([TaskResult("arc_easy", "acc", r, 30_000, 120_000, 0.5, 0.01, 50) for r in (1.0, 0.6)], folder)
    row = Result("svd-llm", False, "c4", 0.6, 0.6, 30_000, 120_000, 25.0, 0.5, 0.7)
    write_comparison(Comparison({"held_out_windows": 2, "window": 32}, {"c4": 20.0}, (row,)), folder)
    (folder / "ablation.json").write_text('{"without the whole thing": {"0.6": 1.5}}\n', encoding="utf-8")
    return folder
