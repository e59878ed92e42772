"""Whether a model is of the Llama kind, and the fastest step that computes its numbers.

The kind is read from a model's modules, then tried with a few tokens: a model's name says neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from .decode_step import DecodeStep
from .kept_cache import KeptLayer
from .native_code import native_code
from .native_step import NativeStep

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
_PARTS = [3, 1, 1]  # tokens that are tried together, of one text
_TEXT = sum(_PARTS)
_EXACT, _ROUNDED = 1e-4, 0.03  # relative error of the logits that rounding makes at most, in float32 and in less


def decode_step_of(model: PreTrainedModel) -> DecodeStep | None:
    """The step of a model that is of this kind, None for others; runs a few passes of a few tokens to tell."""
    if not _is_of_this_kind(model):
        return None
    ids = torch.arange(_TEXT, device=model.device)[None] * 7919 % model.config.get_text_config().vocab_size
    limit = _EXACT if model.dtype == torch.float32 else _ROUNDED
    try:
        expected = _logits_behind(ids, model)
    except Exception:  # it only looks like one
        return None
    for make in _steps(model):
        try:
            step = make()
            found = _logits_behind(ids, model, step)
        except Exception:
            continue
        if float((found - expected).float().norm()) <= limit * float(expected.float().norm()):
            return step
    return None


def _steps(model: PreTrainedModel) -> Iterator[Callable[[], DecodeStep]]:
    """The faster one first."""
    if model.device.type == "cpu" and (library := native_code()) is not None:
        yield lambda: NativeStep(model, library)
    yield lambda: DecodeStep(model)


@torch.inference_mode()
def _logits_behind(ids: torch.Tensor, model: PreTrainedModel, step: DecodeStep | None = None) -> torch.Tensor:
    """Logits (tokens, vocabulary) of a text of which a few tokens are read at once, then one, then another."""
    cache = DynamicCache(config=model.config)
    cache.layers = [KeptLayer(_TEXT) for _ in cache.layers]
    logits = []
    for part in ids.split(_PARTS, dim=1):
        if step is None:
            logits.append(model(part, past_key_values=cache, use_cache=True).logits[0])
        else:
            logits.append(step(part[0], [cache], [[range(part.shape[1])]]))
    return torch.cat(logits)


def _is_of_this_kind(model: PreTrainedModel) -> bool:
    decoder = getattr(model, "model", None)
    if not isinstance(decoder, nn.Module) or _names(model) != {"model", "lm_head"} or _names(decoder) != _DECODER:
        return False
    if any(hasattr(module, "_hf_hook") for module in model.modules()):  # weights that come from elsewhere
        return False
    layers = list(cast(Any, decoder).layers)
    return bool(layers) and all(
        _names(layer) == _BLOCK
        and _names(layer.self_attn) in (_ATTENTION, _ATTENTION | _HEAD_NORMS)
        and _names(layer.mlp) == _MLP
        and all(_is_norm(norm) for norm in (layer.input_layernorm, layer.post_attention_layernorm))
        for layer in layers
    )


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "variance_epsilon", None), float) and not _names(module)
