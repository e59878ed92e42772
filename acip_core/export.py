"""A model at one fixed size as a folder in the Hub's layout, for plain transformers and what builds on it.

Layers below break-even are stored as two thin matrices, adapters merged into them, and read by the copy of `modeling`
in the folder, as quantized layers are; all others, and a whole model at size 1.0 in full precision, stay what they are
in the base model's own class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from . import modeling
from .artifact import Artifact, own_curves
from .card import export_card
from .elastic import ElasticModel
from .errors import ModelError, StorageError
from .layers import ElasticLinear
from .precision import Quantized, prefix
from .progress import Progress, Steps
from .sizing import DENSE, Plan
from .storage import atomic_path, check_writable, entries
from .targets import places

MODELING = Path(modeling.__file__)
SHARD_BYTES = 2_000_000_000  # of which only one is in memory beside the model


def export(
    elastic: ElasticModel,
    artifact: Artifact,
    plan: Plan,
    folder: Path,
    dense: bool = False,
    shard_bytes: int = SHARD_BYTES,
    quantized: Quantized | None = None,
) -> Steps[Path]:
    """Write the model at `plan`, whatever size is in force: weights in shards, configuration, tokenizer, model card.

    Args:
        artifact: for the card.
        folder: new or empty; appears when it is complete.
        dense: multiply the factors out: no smaller than the base model, but for tools that know only its class.
        quantized: what `precision.quantize` made of this model; stored as it is, unless `dense`.

    Raises:
        StorageError: the folder holds files already or cannot be written.
        ModelError: the model's class is not one of transformers'.
    """
    check_free(folder)
    ranks, base_class = _ranks(elastic, plan), type(elastic.model).__name__
    coded = bool(ranks or quantized) and not dense
    if coded and not hasattr(transformers, base_class):
        raise ModelError(f"{base_class} is no class of transformers; only `--dense` can export such a model.")
    if dense:
        tensors = _multiplied_out(elastic, ranks)
    else:
        tensors = _quantized(elastic, quantized, ranks) if quantized else _factorized(elastic, ranks)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        yield from _write_weights(tensors, temporary, shard_bytes)
        elastic.model.config.save_pretrained(temporary)
        if coded:
            _write_code(ranks, base_class, _bits(elastic, quantized, ranks), temporary)
        if elastic.model.generation_config is not None:
            elastic.model.generation_config.save_pretrained(temporary)
        elastic.tokenizer.save_pretrained(temporary)
        _without_spaces(temporary / "tokenizer.json")
        (temporary / "README.md").write_text(
            export_card(
                artifact, own_curves(artifact.curves), plan, dense, coded, quantized.precision.name if quantized else ""
            ),
            encoding="utf-8",
        )
    return folder


def check_free(folder: Path) -> None:
    """Refuse a place where there is something, or where nothing can be written.

    Raises:
        StorageError: the folder holds files or cannot be written.
    """
    place = folder.expanduser()
    if entries(place) or (place.exists() and not place.is_dir()):
        raise StorageError(f"{folder} exists already; name a new folder for the model.")
    check_writable(place)


def _ranks(elastic: ElasticModel, plan: Plan) -> dict[str, int]:
    """Rank of every layer below break-even, adapter included, under all names it has."""
    names = places(elastic.model)
    return {
        name: layer.adapter_rank + rank
        for layer, rank in zip(elastic.elastic_layers().values(), plan.ranks, strict=True)
        if rank != DENSE
        for name in names[layer]
    }


@dataclass(frozen=True)
class _Product:
    """A weight that is multiplied out when its turn comes: U (m, k) V (k, n), or its transpose."""

    up: torch.Tensor
    down: torch.Tensor
    transposed: bool


Tensors = dict[str, torch.Tensor | _Product]


def _like(tensor: torch.Tensor | _Product) -> torch.Tensor:
    """Its shape and type, without data."""
    if isinstance(tensor, torch.Tensor):
        return torch.empty_like(tensor, device="meta")
    shape = (len(tensor.up), tensor.down.shape[1])
    return tensor.up.new_empty(shape[::-1] if tensor.transposed else shape, device="meta")


def _made(tensor: torch.Tensor | _Product) -> torch.Tensor:
    if isinstance(tensor, torch.Tensor):
        return tensor
    weight = (tensor.up.float() @ tensor.down.float()).to(tensor.up.dtype)
    return weight.t() if tensor.transposed else weight


def _factorized(elastic: ElasticModel, ranks: Mapping[str, int]) -> Tensors:
    state = _state(elastic)
    for name, rank in ranks.items():
        up, down = _factors(elastic, name, rank)
        del state[f"{name}.weight"]
        state |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
        if f"{name}.bias" in state:
            state[f"{name}.up.bias"] = state.pop(f"{name}.bias")
    return dict(state)


def _quantized(elastic: ElasticModel, quantized: Quantized, ranks: Mapping[str, int]) -> Tensors:
    state, names = _state(elastic), places(elastic.model)
    for layer_name, layer in elastic.elastic_layers().items():
        packed = quantized.layers[layer_name]
        for name in names[layer]:
            del state[f"{name}.weight"]
            parts = {"weight": (packed.weight, layer.out_features)}
            if name in ranks:
                parts = {"down": (packed.down, ranks[name]), "up": (packed.up, ranks[name])}
            for part, (matrix, rows) in parts.items():
                state |= {f"{name}.{part}.{key}": tensor for key, tensor in prefix(matrix, rows).items()}
    return dict(state)


def _bits(elastic: ElasticModel, quantized: Quantized | None, ranks: Mapping[str, int]) -> dict[str, Any] | None:
    """What `modeling.compressed` reads of quantized layers."""
    if quantized is None:
        return None
    chosen, layers = quantized.precision, elastic.elastic_layers()
    most = max(max(layer.weight.shape) for layer in layers.values())
    return {
        "group": chosen.group,
        "levels": chosen.levels,
        "shifted": chosen.shifted,
        "eight": chosen.leading(most, next(iter(layers.values())).adapter_rank),
        "eight_dense": chosen.leading_dense(most),
        "dense": [name for layer in layers.values() for name in places(elastic.model)[layer] if name not in ranks],
    }


def _multiplied_out(elastic: ElasticModel, ranks: Mapping[str, int]) -> Tensors:
    state = _state(elastic)
    tensors: Tensors = dict(state)
    for name, rank in ranks.items():
        weight, up, down = f"{name}.weight", *_factors(elastic, name, rank)
        transposed = state[weight].stride() != elastic.model.get_parameter(weight).stride()  # as GPT-2 keeps it
        tensors[weight] = _Product(up, down, transposed)
    return tensors


def _factors(elastic: ElasticModel, name: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    layer = elastic.model.get_submodule(name)
    assert isinstance(layer, ElasticLinear)
    return layer.up[:rank].t(), layer.down[:rank]


def _state(elastic: ElasticModel) -> dict[str, torch.Tensor]:
    """The base model's state without tied weights, which its class ties again."""
    tied = elastic.model.all_tied_weights_keys
    return {name: tensor for name, tensor in elastic.model.state_dict().items() if name not in tied}


def _write_weights(tensors: Tensors, folder: Path, shard_bytes: int) -> Steps[None]:
    split = split_torch_state_dict_into_shards({n: _like(t) for n, t in tensors.items()}, max_shard_size=shard_bytes)
    files = split.filename_to_tensors
    for index, (file, names) in enumerate(files.items()):
        shard = {name: _made(tensors[name]).cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        yield Progress("writing the model", index + 1, len(files), file)
    if split.is_sharded:
        index_of = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_of, indent=1) + "\n", encoding="utf-8")


def _without_spaces(path: Path) -> None:
    """Take the indentation out of a JSON file: of a vocabulary it is half, and more than one percent of a small cut."""
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _write_code(ranks: Mapping[str, int], base_class: str, bits: dict[str, Any] | None, folder: Path) -> None:
    """Make the folder's configuration name the code beside it; `load_base` needs only `acip_base`."""
    path, module = folder / "config.json", MODELING.stem
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "model_type": f"acip_{config['model_type']}",
        "architectures": ["CompressedForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.CompressedConfig",
            "AutoModelForCausalLM": f"{module}.CompressedForCausalLM",
        },
        "acip_base": base_class,
        "ranks": dict(ranks),
    } | ({"quantized": bits} if bits else {})
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    code = MODELING.read_text(encoding="utf-8")
    classes = f"CompressedConfig, CompressedForCausalLM = compressed({base_class})"
    last = f"\n\nfrom transformers import {base_class}  # noqa: E402\n\n{classes}\n"
    (folder / MODELING.name).write_text(code + last, encoding="utf-8")
