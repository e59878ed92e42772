"""A model at one fixed size as a folder in the Hub's layout, for plain transformers and what builds on it.

Layers below break-even are stored as two thin matrices, adapters merged into them, and read by the copy of `modeling`
in the folder, as quantized layers are; all others, and a whole model at size 1.0 in full precision, stay what they are
in the base model's own class. At a size in bytes all matrices are what `coded_tensors` makes of them, read by the copy
of `coded_modeling`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..errors import ModelError, PrecisionError, StorageError
from ..evaluation.curves import primary_curves
from ..model import coded_modeling, entropy_decoding, modeling
from ..model.elastic_model import ElasticModel
from ..model.quantization import Quantized
from ..model.size_planner import DIRECTIONS, Plan
from ..paths import exists_here, local_path
from ..progress import Progress, Steps
from ..storage.atomic import atomic_path, check_writable, entries
from ..storage.heap import give_heap_back
from .artifact import Artifact
from .card import export_card
from .checkpoint_tensors import (
    Tensors,
    as_stored,
    base_class,
    base_settings,
    cut_ranks,
    earlier_pivoted,
    earlier_ranks,
    factorized,
    materialized,
    meta_of,
    multiplied_out,
    quantized_parts,
    saved_names,
)
from .coded_tensors import coded_parts, dense_weights

MODELING = Path(modeling.__file__)
CODED_MODELING, DECODING = Path(coded_modeling.__file__), Path(entropy_decoding.__file__)
_FUNCTIONS = {MODELING: "compressed", CODED_MODELING: "coded"}  # that make the classes, of the base model's
SHARD_BYTES = 2_000_000_000  # of which only one is in memory beside the model
DTYPES = ("float32", "bfloat16", "float16")


def export(
    elastic: ElasticModel,
    artifact: Artifact,
    plan: Plan,
    folder: Path,
    dense: bool = False,
    shard_bytes: int = SHARD_BYTES,
    quantized: Quantized | None = None,
    dtype: str | None = None,
) -> Steps[Path]:
    """Write the model at `plan`, whatever size is in force: weights in shards, configuration, tokenizer, model card.

    Args:
        artifact: for the card.
        folder: new or empty; appears when it is complete.
        dense: multiply the factors out: no smaller than the base model, but for tools that know only its class.
        quantized: what `quantization.quantize` made of this model; stored as it is, unless `dense`. None for a plan
            that spends bytes.
        dtype: of everything that is not quantized, one of `DTYPES`; as the base model is published when left out.

    Raises:
        StorageError: the folder holds files already or cannot be written.
        ModelError: the model's class is not one of transformers', or has values beyond `dtype`.
        PrecisionError: there is no such dtype, the model is quantized already, or is to be where bytes are spent.
    """
    check_free(folder)
    if plan.mode == DIRECTIONS:
        form = _cut_form(elastic, plan, dense, quantized, check_dtype(dtype))
    else:
        form = yield from _coded_form(elastic, plan, dense, quantized, check_dtype(dtype))
    if not dense:
        sizes = [meta_of(t).numel() * meta_of(t).element_size() for t in form.tensors.values()]
        plan = replace(plan, bytes=sum(sizes))
    with atomic_path(folder) as temporary, _system_errors():
        temporary.mkdir()
        yield from _write_weights(form.tensors, temporary, shard_bytes)
        _write_config(elastic, form, temporary)
        if elastic.model.generation_config is not None:
            elastic.model.generation_config.save_pretrained(temporary)
        elastic.tokenizer.save_pretrained(temporary)
        _without_spaces(temporary / "tokenizer.json")
        curves = primary_curves(artifact.curves) if plan.mode == DIRECTIONS else ()
        card = export_card(artifact, curves, plan, dense, form.code is not None, form.precision)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class _Form:
    """How a model is stored.

    Attributes:
        dtype: of what is neither quantized nor coded, for the configuration to name.
        code: the file with the classes that read it, copied with those that it imports; None for the base model's own.
        settings: of these classes, beside those of the base model.
        precision: of quantized layers; empty where none are.
    """

    tensors: Tensors
    dtype: torch.dtype
    code: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""


def _cut_form(
    elastic: ElasticModel, plan: Plan, dense: bool, quantized: Quantized | None, dtype: torch.dtype | None
) -> _Form:
    """Layers as products of two thin matrices, or quantized."""
    ranks, model = cut_ranks(elastic, plan), elastic.model
    custom = bool(ranks or quantized or hasattr(model.config, "acip_base")) and not dense
    if custom:
        _check_class(elastic)
    bits = _bits(elastic, quantized, ranks)
    if dense:
        tensors = multiplied_out(elastic, ranks)
    elif custom:
        tensors = quantized_parts(elastic, quantized, ranks) if quantized else factorized(elastic, ranks)
    else:
        tensors = saved_names(model, factorized(elastic, ranks))
    tensors = as_stored(tensors, elastic.base, dtype)
    settings = _ranks(model, ranks, elastic.pivoted and quantized is None) | ({"quantized": bits} if bits else {})
    written, code = dtype or elastic.base.stored_dtype, MODELING if custom else None
    return _Form(tensors, written, code, settings, quantized.precision.name if quantized else "")


def _coded_form(
    elastic: ElasticModel, plan: Plan, dense: bool, quantized: Quantized | None, dtype: torch.dtype | None
) -> Steps[_Form]:
    """Matrices as codes, or as published."""
    if quantized is not None:
        raise PrecisionError("A size in bytes has codes of its own; export it without a precision.")
    written = dtype or elastic.base.stored_dtype
    if dense:
        return _Form(as_stored(dense_weights(elastic, plan), elastic.base, dtype), written)
    _check_class(elastic)
    tensors, codes = yield from coded_parts(elastic, plan, dtype)
    bits = _bits(elastic, None, {})
    settings = _ranks(elastic.model) | {"codes": codes} | ({"quantized": bits} if bits else {})
    return _Form(tensors, written, CODED_MODELING, settings)


def _ranks(
    model: PreTrainedModel, ranks: Mapping[str, int] = MappingProxyType({}), pivoted: bool = False
) -> dict[str, Any]:
    """What `modeling.compressed` reads of ranks: those of an earlier export, and new ones."""
    by_pivots = earlier_pivoted(model) + (list(ranks) if pivoted else [])
    return {"ranks": {**earlier_ranks(model), **ranks}} | ({"pivoted": by_pivots} if by_pivots else {})


def _check_class(elastic: ElasticModel) -> None:
    if not hasattr(transformers, name := base_class(elastic.model)):
        raise ModelError(f"{name} is no class of transformers; only `--dense` can export such a model.")


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise what the operating system says as the `OSError` it is: tokenizers tell a full disk in a bare Exception."""
    try:
        yield
    except Exception as error:
        number = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def check_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of that name.

    Raises:
        PrecisionError: there is none among `DTYPES`.
    """
    if name is not None and name not in DTYPES:
        raise PrecisionError(f"A model can be written in {', '.join(DTYPES)}, not in {name!r}.")
    return getattr(torch, name) if name is not None else None


def check_free(folder: Path) -> None:
    """Refuse a place where there is something, or where nothing can be written.

    Raises:
        StorageError: the folder holds files or cannot be written.
    """
    place = local_path(folder)
    if entries(place) or (exists_here(place) and not place.is_dir()):
        raise StorageError(f"{folder} exists already; name a new folder for the model.")
    check_writable(place)


def _bits(elastic: ElasticModel, quantized: Quantized | None, ranks: Mapping[str, int]) -> dict[str, Any] | None:
    """What `modeling.compressed` reads of quantized layers.

    Raises:
        PrecisionError: layers are to be quantized of a model that has quantized layers already.
    """
    earlier = getattr(elastic.model.config, "quantized", None)
    if quantized is None:
        return earlier and earlier | {"plain": [*earlier.get("plain", ()), *ranks]}
    if earlier:
        raise PrecisionError("The model is quantized already; export it in full precision, or quantize its original.")
    chosen, layers = quantized.precision, elastic.elastic_layers()
    most = max(max(layer.weight.shape) for layer in layers.values())
    return {
        "group": chosen.group,
        "levels": chosen.levels,
        "shifted": chosen.shifted,
        "eight": chosen.leading(most, next(iter(layers.values())).adapter_rank),
        "eight_dense": chosen.leading_dense(most),
        "dense": [alias for aliases in layers.aliases.values() for alias in aliases if alias not in ranks],
        "plain": list(earlier_ranks(elastic.model)),
    }


def _write_weights(tensors: Tensors, folder: Path, shard_bytes: int) -> Steps[None]:
    split = split_torch_state_dict_into_shards({n: meta_of(t) for n, t in tensors.items()}, max_shard_size=shard_bytes)
    files = split.filename_to_tensors
    for index, (file, names) in enumerate(files.items()):
        shard = {name: materialized(tensors[name]).cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
        give_heap_back()
        yield Progress("writing the model", index + 1, len(files), file)
    if split.is_sharded:
        index_of = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_of, indent=1) + "\n", encoding="utf-8")


def _without_spaces(path: Path) -> None:
    """Take the indentation out of a JSON file: of a vocabulary it is half, and more than one percent of a small cut."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _write_config(elastic: ElasticModel, form: _Form, folder: Path) -> None:
    """The configuration, and the code that it names where the form has any, which `load_base` never runs."""
    base, path = base_class(elastic.model), folder / "config.json"
    elastic.model.config.save_pretrained(folder)
    config = base_settings(json.loads(path.read_text(encoding="utf-8")), base)
    config["dtype"] = str(form.dtype).removeprefix("torch.")
    if form.code is not None:
        classes = _write_code(base, form.code, folder)
        config |= {
            "model_type": f"acip_{config['model_type']}",
            "architectures": ["CompressedForCausalLM"],
            "auto_map": {name: f"{form.code.stem}.{of}" for name, of in classes.items()},
            "acip_base": base,
            **form.settings,
        }
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _write_code(base: str, code: Path, folder: Path) -> dict[str, str]:
    """A copy of a file, with last lines for the base model's class, and of the files that it imports.

    Returns:
        The classes that transformers' own ones look for in it, by their names.
    """
    found = {"AutoConfig": "CompressedConfig", "AutoModelForCausalLM": "CompressedForCausalLM"}
    classes = f"CompressedConfig, CompressedForCausalLM = {_FUNCTIONS[code]}({base})"
    if code == MODELING:  # what vLLM makes, with a head of its own
        found["AutoModel"] = "CompressedModel"
        classes += "\nCompressedModel = headless(CompressedForCausalLM)"
    last = f"\n\nfrom transformers import {base}  # noqa: E402\n\n{classes}\n"
    (folder / code.name).write_text(code.read_text(encoding="utf-8") + last, encoding="utf-8")
    if code == CODED_MODELING:
        for other in (MODELING, DECODING):
            (folder / other.name).write_text(other.read_text(encoding="utf-8"), encoding="utf-8")
    return found
