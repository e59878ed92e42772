"""A `DecodeStep` in native code: one call for a token, whatever the sizes of its sequences."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import SiLUActivation

from ..model.layers import ElasticLinear
from .decode_step import DecodeStep, Norm
from .kept_cache import KeptLayer
from .native_program import ATTEND, GATE, NORM, ROTATE, Buffers, NotNative, Program

_PROGRAMS = 32  # kept, of 35 to 75 kB each; writing one of the default model takes 3 to 6 ms
_WIDEST = 512  # features of a head, as in decode_step.c
_TEXT = np.dtype([("keys", "u8"), ("values", "u8"), ("offset", "i8"), ("head_step", "i8"), ("position", "i8")])
_SHAPE = np.dtype(
    [("heads", "i4"), ("kv_heads", "i4"), ("features", "i4"), ("scale", "f4"), ("cos", "u8"), ("sin", "u8")]
)


@dataclass(frozen=True)
class _Written:
    """A program as the native code takes it, and what it was written for."""

    program: Program
    ops: NDArray[np.void]
    states: Any
    hidden: torch.Tensor
    logits: torch.Tensor


class NativeStep(DecodeStep):
    """As `DecodeStep`, on the CPU in float32, for texts whose cache has room of its own; others take the slow way.

    Raises:
        NotNative: the native code does not know something of this model.
    """

    def __init__(self, model: PreTrainedModel, library: ctypes.CDLL):
        super().__init__(model)
        scales = {block.scaling for block in self._blocks}
        known = (
            model.dtype == torch.float32
            and model.device.type == "cpu"
            and all(isinstance(block.activation, SiLUActivation | nn.SiLU) for block in self._blocks)
            and len(scales) == 1
            and self._angles_up_to(0)[0].shape[-1] == self._head_dim <= _WIDEST
            and self._head_dim % 2 == 0
        )
        if not known:
            raise NotNative
        self._library = library
        self._elastic = next((layer for layer in model.modules() if isinstance(layer, ElasticLinear)), None)
        heads, kv_heads = (layer.out_features // self._head_dim for layer in (self._blocks[0].q, self._blocks[0].k))
        self._shape = np.array([(heads, kv_heads, self._head_dim, scales.pop(), 0, 0)], _SHAPE)
        self._buffers: dict[int, Buffers] = {}
        self._written: dict[Any, _Written] = {}

    @torch.inference_mode()
    def __call__(
        self, ids: torch.Tensor, caches: Sequence[DynamicCache], rows: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        trained = self._elastic is not None and self._elastic.adapter is not None
        if trained or not all(map(_has_room_of_its_own, caches)):
            return super().__call__(ids, caches, rows)
        try:
            written = self._for_sizes_in_force(len(ids))
        except NotNative:
            return super().__call__(ids, caches, rows)
        written.hidden.copy_(self._embed(ids[:, 0]))
        cos, sin = self._angles_up_to(max(cache.get_seq_length() for cache in caches))
        self._shape["cos"], self._shape["sin"] = cos.data_ptr(), sin.data_ptr()
        texts, _held = _texts(caches, rows, len(ids))
        self._library.acip_decode(
            _address(written.ops), ctypes.c_int64(len(written.ops)), _address(self._shape), _address(texts),
            ctypes.c_int32(torch.get_num_threads()),
        )  # fmt: skip
        return written.logits.clone()[:, None]

    def _for_sizes_in_force(self, rows: int) -> _Written:
        states = self._elastic.cut.ranks if self._elastic is not None else ()
        banks = self._elastic.down.data_ptr() if self._elastic is not None else 0  # all layers' change together
        # A batch's states hold tensors, which cannot be compared; they are held below, so that no other has their id.
        key = rows, banks, states if all(isinstance(state, int) for state in states) else id(states)
        written = self._written.pop(key, None) or self._write(rows, states)
        self._written[key] = written  # the last one used comes last
        if len(self._written) > _PROGRAMS:
            self._written.pop(next(iter(self._written)))
        return written

    def _write(self, rows: int, states: Any) -> _Written:
        buffers = self._buffers.setdefault(rows, Buffers(rows))
        program, block = Program(), self._blocks[0]
        hidden, x = (buffers(name, self._head.in_features) for name in ("hidden", "normed"))
        q, mixed = (buffers(name, block.q.out_features) for name in ("q", "mixed"))
        k, v = (buffers(name, block.k.out_features) for name in ("k", "v"))
        gate, up = (buffers(name, block.gate.out_features) for name in ("gate", "up"))
        logits = buffers("logits", self._head.out_features)
        for index, block in enumerate(self._blocks):
            _add_norm(program, block.norm, hidden, x)
            program.products(x, {block.q: q, block.k: k, block.v: v}, buffers)
            for norm, heads in zip(block.head_norms or (), (q, k), strict=False):
                by_head = heads.view(-1, self._head_dim)
                _add_norm(program, norm, by_head, by_head)
            program.add(ROTATE, q, q, a=k, b=v, layer=index)
            program.sync()
            program.add(ATTEND, q, mixed, layer=index)
            program.sync()
            program.products(mixed, {block.o: hidden}, buffers, add=True)
            _add_norm(program, block.mlp_norm, hidden, x)
            program.products(x, {block.gate: gate, block.up: up}, buffers)
            program.add(GATE, gate, gate, w=up)
            program.sync()
            program.products(gate, {block.down: hidden}, buffers, add=True)
        _add_norm(program, self._norm, hidden, x)
        program.products(x, {self._head: logits}, buffers)
        return _Written(program, program.finish(), states, hidden, logits)


def _has_room_of_its_own(cache: DynamicCache) -> bool:
    return cache.get_seq_length() > 0 and all(type(layer) is KeptLayer for layer in cache.layers)


def _add_norm(program: Program, norm: Norm, x: torch.Tensor, y: torch.Tensor) -> None:
    program.add(NORM, x, y, w=norm.weight, least=float(norm.least) ** 2)
    program.sync()


def _texts(
    caches: Sequence[DynamicCache], rows: Sequence[Sequence[int]], count: int
) -> tuple[NDArray[np.void], list[NDArray[np.uint64]]]:
    """Where each row's keys and values lie, which get room for one token more, and the tables that this points to."""
    texts, tables = np.zeros(count, _TEXT), []
    for cache, own in zip(caches, rows, strict=True):
        position = cache.get_seq_length()
        taken = [layer.extend(1) for layer in cast(list[KeptLayer], cache.layers)]
        keys, values = (np.array([pair[i].data_ptr() for pair in taken], np.uint64) for i in range(2))
        tables += [keys, values]
        row_step, head_step = taken[0][0].stride()[:2]
        for at, row in enumerate(own):
            texts[row] = keys.ctypes.data, values.ctypes.data, at * row_step, head_step, position
    return texts, tables


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
