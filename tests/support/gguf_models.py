"""Models whose rows have whole blocks, a tokenizer over bytes, and what a GGUF file holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache as kept
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from acip_core.artifacts.coding import Coding
from acip_core.artifacts.gguf_export import export_gguf
from acip_core.model.base_model import BaseModel, fingerprint
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.elastic_model import Calibration, ElasticModel, build_elastic
from acip_core.model.size_planner import Plan
from acip_core.model.target_layers import linearize
from acip_core.progress import finish
from tests.support.exports import base_of
from tests.support.tiny import (
    calibration,
    random_scores,
    tiny_artifact,
    tiny_base,
    tiny_basis,
    tiny_factors,
)


def byte_level(*steps: pre_tokenizers.PreTokenizer, use_regex: bool = True) -> PreTrainedTokenizerFast:
    """A BPE tokenizer over bytes that ends with a special token, and one that is only added."""
    letters = sorted({*(chr(c) for c in range(33, 127)), "Ġ", "Ċ"})
    words = ["<s>", "</s>", *letters, "th", "the", "Ġc"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [("t", "h"), ("th", "e"), ("Ġ", "c")], unk_token=None)
    )
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def made(base: BaseModel) -> ElasticModel:
    linearize(base.model)
    return finish(build_elastic(base, tiny_factors(base), random_scores(base)))


@kept
def elastic_of(family: str) -> ElasticModel:
    """A model whose rows have whole blocks, but for `down_proj`; published in bfloat16, which holds it."""
    base = tiny_base(family) if family != "qwen3" else base_of("qwen3", head_dim=128)  # transformers reads no other
    for parameter in base.model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return made(replace(base, tokenizer=byte_level(), stored_dtype=torch.bfloat16))


@kept
def coding_of(family: str) -> Coding:
    elastic = elastic_of(family)
    layers = list(elastic.elastic_layers())
    moments = finish(measure_coding_moments(elastic.model, calibration(), layers, tiny_basis(elastic.base)))
    return Coding(fingerprint({}), moments, Calibration(), (), None, {})


def write(elastic: ElasticModel, plan: Plan, folder: Path, coding: Coding | None = None) -> Path:
    return finish(export_gguf(elastic, tiny_artifact(tiny_base()), plan, folder, coding))


def types_of(file: Path) -> dict[str, Type]:
    return {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
