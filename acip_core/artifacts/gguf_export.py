"""A model at one fixed size as one GGUF file, for llama.cpp and what is built on it.

What the size keeps as published is written bit for bit: as the blocks of the GGUF file that the model was read from, or
in the published type. Of a size in bytes every other matrix is in the type that `gguf_types` chose. llama.cpp has no
factors, so of a cut of directions they are multiplied out, in Q8_0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import TensorNameMap

from ..errors import ArtifactError, ModelError, SizeError
from ..evaluation.curves import primary_curves
from ..model.base_model import BaseModel
from ..model.byte_planner import BytePlanner
from ..model.elastic_model import ElasticModel
from ..model.gguf_types import BLOCK, TYPES, column_importance, filled, gguf_planner, quantized
from ..model.offloading import check_in_memory
from ..model.operating_points import code_of
from ..model.published_types import is_exact
from ..model.size_planner import DENSE, DIRECTIONS, Plan
from ..model.target_layers import module_names
from ..progress import Progress, Steps
from ..storage.atomic import atomic_path
from .artifact import Artifact
from .card import export_card
from .checkpoint_tensors import (
    AnyTensor,
    cut_ranks,
    join_earlier,
    materialized,
    meta_of,
    multiplied_out,
    saved_names,
    untied_state,
)
from .coding import Coding
from .export import check_free
from .gguf_metadata import WAY_OUT, add_fields, architecture, copy_fields

FILE = "model.gguf"
_FLOATS = {torch.float32: Type.F32, torch.bfloat16: Type.BF16, torch.float16: Type.F16}


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file.

    Attributes:
        shape: as torch's.
        make: its data, as bytes or numbers.
    """

    name: str
    kind: Type
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size


def plan_gguf(elastic: ElasticModel, coding: Coding) -> Steps[BytePlanner]:
    """A planner of GGUF files, by bytes of their tensors.

    Raises:
        ModelError: as `export_gguf`, or as `check_in_memory`.
    """
    check_in_memory(elastic.model, "GGUF files of a size in bytes")
    layout = _Layout(elastic, coding)
    sizes = {tensor.name: tensor.bytes for tensor in layout.tensors(elastic.planner.at_ratio(1.0))}
    names = (*elastic.elastic_layers(), *coding.moments.tables)
    if factors := [name for name in names if f"{name}.weight" not in layout.places]:
        raise ModelError(f"{factors[0]} is a factor of an earlier export; name the model that it was exported from.")
    exact = {name: sizes[layout.places[f"{name}.weight"]] for name in names}
    other = sum(sizes.values()) - sum(exact.values())
    return (yield from gguf_planner(elastic, coding.moments, exact, other, coding.calibration))


def gguf_plan(
    elastic: ElasticModel, coding: Coding | None, size: float | None = None, rise: float | None = None
) -> Steps[Plan]:
    """The best plan of a GGUF file of at most so many bytes, or the smallest of which a rise of the loss is expected.

    Args:
        size: bytes of the tensors.
        rise: nats per token.

    Raises:
        ArtifactError: the artifact has no operating points.
        SizeError: no file is so small.
        ModelError: as `plan_gguf`.
    """
    if coding is None:
        raise ArtifactError(
            "The artifact has no operating points, so bits cannot be spent; `python -m acip_core codes` adds them."
        )
    planner = yield from plan_gguf(elastic, coding)
    try:
        return planner.at_loss(rise) if rise is not None else filled(planner, size or 0.0)
    except SizeError as error:
        why = "llama.cpp's smallest type for this model takes 4.5 bits a weight"
        if planner.smallest == planner.largest:
            why = "No width of its layers is a multiple of 32, so that no type of llama.cpp's fits"
        raise SizeError(f"{error} {why}; smaller sizes are exports for transformers.") from None


def export_gguf(
    elastic: ElasticModel, artifact: Artifact, plan: Plan, folder: Path, coding: Coding | None = None
) -> Steps[Path]:
    """Write the model at `plan` as `folder`/`FILE`, with a model card beside it.

    Args:
        artifact: for the card.
        plan: of directions, or one of `plan_gguf`.
        folder: new or empty; appears when it is complete.
        coding: that a plan of `plan_gguf` was made with.

    Returns:
        The file.

    Raises:
        ModelError: the architecture, its rotary factors, its window or its tokenizer is none that is written here, or
            the GGUF file that the model was read from is gone.
        StorageError: the folder holds files already or cannot be written.
    """
    check_free(folder)
    layout = _Layout(elastic, coding)
    writer, stored = layout.writer(), layout.tensors(plan)
    held = Counter[Type]()
    for tensor in stored:
        held[tensor.kind] += tensor.bytes
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.kind)
    most = held.most_common(1)[0][0].name
    writer.add_file_type(LlamaFileType.ALL_F32 if most == "F32" else getattr(LlamaFileType, f"MOSTLY_{most}", 1024))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        yield from _write(writer, stored, temporary / FILE)
        curves = primary_curves(artifact.curves) if plan.mode == DIRECTIONS else ()
        card = export_card(artifact, curves, replace(plan, bytes=sum(held.values())), False, False, "", gguf=FILE)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return folder / FILE


def _write(writer: GGUFWriter, stored: list[_Stored], path: Path) -> Steps[None]:
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, tensor in enumerate(stored):
            _append(writer, tensor.make())
            yield Progress("writing the model", index + 1, len(stored), tensor.name)
    finally:
        writer.close()


def _append(writer: GGUFWriter, data: np.ndarray) -> None:
    """As `write_tensor_data`, whose `tofile` says nothing of a full disk."""
    assert writer.fout is not None
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    file.write(np.ascontiguousarray(data).data)
    writer.write_padding(file, data.nbytes)


class _Layout:
    """Which tensors the file of a model has.

    Attributes:
        places: llama.cpp's name of every tensor that `save_pretrained` would write, by its name there.
    """

    def __init__(self, elastic: ElasticModel, coding: Coding | None):
        self._elastic, self._base, self._coding = elastic, elastic.base, coding
        self._kind = architecture(self._base)
        self._source = _source(self._base)
        state = untied_state(elastic.base)
        self._whole = saved_names(join_earlier(elastic.model, state), state)
        names = TensorNameMap(self._kind, self._base.model.config.num_hidden_layers)
        self.places = {}
        for name in self._whole:
            if (place := names.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
                raise ModelError(f"llama.cpp has no place for {name} of this model; {WAY_OUT}.")
            self.places[name] = place

    def writer(self) -> GGUFWriter:
        """With all fields but the type of the file."""
        writer = GGUFWriter(None, MODEL_ARCH_NAMES[self._kind])
        if self._source is not None:
            copy_fields(writer, self._source)
        else:
            add_fields(writer, self._base)
        return writer

    def tensors(self, plan: Plan) -> list[_Stored]:
        """In the order of the file that the model was read from, or of its state."""
        states, cut = self._states(plan), self._whole
        if plan.mode == DIRECTIONS:
            cut = multiplied_out(self._elastic, cut_ranks(self._elastic, plan))
        by_place = {place: name for name, place in self.places.items()}
        copied = {tensor.name: tensor for tensor in self._source.tensors} if self._source is not None else {}
        stored = []
        for place in copied or by_place:
            name = by_place.get(place, "")
            if name not in states and place in copied:
                stored.append(_as_it_is(copied[place]))
            else:
                stored.append(self._quantized(place, name, cut[name], states.get(name), plan.mode))
        return stored

    def _states(self, plan: Plan) -> dict[str, int]:
        """States of the weights that the size does not keep as published, by the names that `places` has."""
        modules, names = dict(self._elastic.model.named_modules()), module_names(self._elastic.model)
        tables = self._coding.moments.tables if plan.tables and self._coding is not None else ()
        found = {}
        for name, state in zip((*self._elastic.elastic_layers(), *tables), plan.states, strict=True):
            for alias in names[modules[name]] if state != DENSE else ():
                outer = next((p for p in (alias, alias.rpartition(".")[0]) if f"{p}.weight" in self.places), alias)
                found[f"{outer}.weight"] = state  # of a factor of an earlier export, the layer that it is part of
        return found

    def _quantized(self, place: str, name: str, weight: AnyTensor, state: int | None, mode: str) -> _Stored:
        shape, importance = tuple(meta_of(weight).shape), None
        if len(shape) == 1:
            kind = Type.F32
        elif state is None or shape[-1] % BLOCK:
            kind = self._published(weight)
        elif mode == DIRECTIONS:
            kind = Type.Q8_0
        else:
            assert self._coding is not None
            kind = TYPES[code_of(state)[0]]
            importance = column_importance(name.removesuffix(".weight"), self._coding.moments)

        def make() -> np.ndarray:
            return quantized(self._turned(name, materialized(weight).detach()), kind, importance)

        return _Stored(place, kind, shape, make)

    def _published(self, weight: AnyTensor) -> Type:
        most = self._base.stored_dtype
        if isinstance(weight, torch.Tensor):
            return _FLOATS[most] if self._base.is_dequantized or is_exact(weight, most) else Type.F32
        return Type.F32 if weight.is_wider else _FLOATS[most]

    def _turned(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Rows as llama.cpp orders those of the llama architecture's queries and keys: what is rotated together."""
        config: Any = self._base.model.config
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if self._kind != MODEL_ARCH.LLAMA or heads is None:
            return tensor
        return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)


def _as_it_is(tensor: Any) -> _Stored:
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return _Stored(tensor.name, tensor.tensor_type, shape, lambda: tensor.data)


def _source(base: BaseModel) -> GGUFReader | None:
    if base.file is None:
        return None
    try:
        return GGUFReader(base.file)
    except (OSError, ValueError) as error:
        raise ModelError(f"The GGUF file {base.file} can no longer be read ({error!s:.100}); restore it.") from error
