"""GGUF files: dequantized once, then read from a converted copy in the cache whose every file carries a digest.

Knows one file; not where files come from.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.integrations.ggml import _gguf_parse_value
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata
from transformers.integrations.gguf.utils import is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from ..errors import ModelError, StorageError
from ..paths import cache_dir
from ..storage.atomic import atomic_path, check_digests, remove_leftovers, write_digests
from ..storage.digests import file_digest
from .checkpoint import check_report, check_values, load_checkpoint
from .dequantizing import forget_quantization
from .weight_files import first_few

log = logging.getLogger("acip")

_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_CONVERTING = threading.Lock()
_sliced = gguf.GGUFReader._get


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a GGUF file.

    Raises:
        ModelError: the file is damaged, a part of a model, or of an architecture that transformers does not read.
    """
    copy = cache_dir() / "models" / file_digest(file)[:24]
    remove_leftovers(copy.parent)
    if copy.is_dir():
        try:
            check_digests(copy)
            return load_checkpoint(str(copy), dtype, {}, verified=True)[0], AutoTokenizer.from_pretrained(copy)
        except Exception as error:
            log.warning("The converted model in %s is damaged (%s); converting again.", copy, error)
    try:
        with _read_once():
            model, tokenizer = _convert(file)
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise ModelError(
            f"Cannot read the GGUF file {file} ({type(error).__name__}: {reason}); download it again."
        ) from error
    _keep_copy(model, tokenizer, copy)
    return model.to(dtype), tokenizer


def float_dtype(file: Path) -> torch.dtype | None:
    """The type of the weights in a GGUF file; None where they are in blocks."""
    try:
        return GgufHeader.from_file(str(file)).dtype
    except ValueError:  # blocks that only the older reader knows
        return None


@contextmanager
def _read_once() -> Iterator[None]:
    """Within the block a file is parsed once, and a table of names made once, whoever asks for them.

    transformers parses the file for the configuration, the weights and the tokenizer anew, and asks for the same table
    for every module of the model: two thirds of the time of a conversion.
    """
    with (
        _CONVERTING,
        patch.object(gguf.GGUFReader, "_get", _slice),
        patch.multiple(gguf, GGUFReader=cache(gguf.GGUFReader), get_tensor_name_map=cache(gguf.get_tensor_name_map)),
        patch.object(modeling_gguf_pytorch_utils, "_gguf_parse_value", _parsed),
    ):
        yield


def _slice(reader: gguf.GGUFReader, *arguments: Any, **options: Any) -> Any:
    """A vocabulary takes half a million slices: those of plain arrays take a fifth of those of a memory map."""
    if isinstance(reader.data, np.memmap):
        plain: Any = reader.data.view(np.ndarray)
        reader.data = plain
    return _sliced(reader, *arguments, **options)


def _parsed(value: Any, types: Any) -> Any:
    """What transformers makes of a value; strings in one step, not byte by byte."""
    if types and types[-1] == gguf.GGUFValueType.STRING:
        return value.tobytes().decode()
    return _gguf_parse_value(value, types)


def _convert(file: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    metadata, names = read_gguf_metadata(str(file))
    architecture = metadata["general.architecture"]
    _refuse_part(file, metadata.get("split.count", 1))
    blocks = metadata.get(f"{architecture}.block_count", 0)
    if blocks > len(names):
        raise ModelError(
            f"The GGUF file {file} names {blocks} layers, but holds {len(names)} tensors; download it again."
        )
    _refuse_larger(file)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # for the report to name them
    )
    model, report = loaded
    if not is_gguf_arch_supported(architecture):  # the newer reader reports what it skips
        _refuse_skipped(file, architecture, model)
    check_report(model, report, str(file))
    check_values(model, str(file))
    forget_quantization(model)
    return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _refuse_larger(file: Path) -> None:
    """Refuse a header whose widths ask for far more weights than there are: making them would take all memory."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    with torch.device("meta"):
        described = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    held = sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(str(file)).tensors)
    if described > 2 * held:
        raise ModelError(
            f"The GGUF file {file} describes a model of {described:,} weights, but holds {held:,}; download it again."
        )


def _refuse_part(file: Path, parts: int) -> None:
    named = _PART.search(file.name)
    count = max(int(parts), int(named[1]) if named else 1)
    if count > 1:
        whole = _PART.sub(".gguf", file.name)
        raise ModelError(
            f"The GGUF file {file} is one of {count} parts of a model; merge them with "
            f"`llama-gguf-split --merge <first part> {whole}` and name {whole}."
        )


def _refuse_skipped(file: Path, architecture: str, model: PreTrainedModel) -> None:
    """Refuse tensors for which transformers' older reader has no place: it drops them without a word."""
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known = {name.removesuffix(".weight") for name in get_gguf_hf_weights_map(model, processor)}
    skipped = [
        tensor.name
        for tensor in gguf.GGUFReader(str(file)).tensors
        if tensor.name.removesuffix(".weight") not in known
        and not (tensor.name.startswith("rope_freqs") and bool((tensor.data == 1).all()))
    ]
    if skipped:
        raise ModelError(
            f"The GGUF file {file} holds {first_few(skipped)}, which transformers does not read, so it would be "
            "another model; name the model it was made from, in the Hub's layout."
        )


def _keep_copy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        with atomic_path(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_digests(temporary)
    except StorageError as error:
        log.warning("%s Until then, every start will convert the model again.", error)
