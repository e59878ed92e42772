"""Checkpoints whose weights are quantized, turned back to plain ones by transformers' own methods."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from ..errors import ModelError
from .target_layers import FLOATS
from .weight_files import first_few

log = logging.getLogger("acip")


def dequantized(config: PreTrainedConfig, location: str) -> Any:
    """How the weights are quantized, set to be turned back when loaded; None where they are plain.

    Raises:
        ModelError: transformers cannot turn them back.
    """
    text = config.get_text_config(decoder=True)
    settings = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    if not settings:
        return None
    try:
        method = AutoQuantizationConfig.from_dict(dict(settings))
    except Exception:  # each method's class has its own
        method = None
    if hasattr(method, "dequantize"):
        method.dequantize = True
    elif getattr(method, "quant_method", "") != "bitsandbytes":
        name = settings.get("quant_method", "unknown") if isinstance(settings, dict) else "unknown"
        raise ModelError(
            f"The checkpoint '{location}' is quantized ({name}), and transformers cannot turn its weights back to "
            "plain ones; name the unquantized model that it was made from."
        )
    return method


def made_dense(model: Any, dtype: torch.dtype, location: str) -> PreTrainedModel:
    """A quantized model's weights turned back to plain ones, its configuration too."""
    if getattr(model, "is_quantized", False):
        model = model.dequantize(dtype=dtype)
    forget_quantization(model.to(dtype))
    left = [name for name, parameter in model.named_parameters() if parameter.dtype not in FLOATS]
    if left:
        raise ModelError(
            f"The checkpoint '{location}' is quantized, and {first_few(left)} could not be turned back to plain "
            "weights; name the unquantized model that it was made from."
        )
    log.warning("The weights of %s are quantized; they are turned back to plain ones.", location)
    return model


def forget_quantization(model: Any) -> None:
    """Remove from a model whose weights are plain again what would keep it from being saved as such."""
    model.hf_quantizer, model.is_quantized = None, False
    model._weight_conversions = None  # transformers' own for the class are found again when it saves
    for config in (model.config, model.config.get_text_config(decoder=True)):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
