"""Checkpoints loaded and checked: every parameter filled, no tensor left over, every number finite.

transformers fills what a checkpoint lacks with random numbers, drops what fits nowhere, casts whatever type it finds,
and injects an adapter that lies beside the weights; here each of these is an error. Knows the files of one checkpoint;
not where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME

from ..errors import ModelError
from .coded_modeling import coded
from .dequantizing import dequantized, made_dense
from .modeling import PivotedLinear, compressed
from .offloading import is_offloaded, one_pass_at_a_time, stored_state
from .placement import AUTO, DISK, check_memory, placing, without_memory
from .target_layers import FLOATS
from .weight_files import (
    MOST,
    Stored,
    check_counts,
    find,
    first_few,
    read_json,
    read_stored,
    reason_of,
    refuse_adapter,
)

_COMPUTED = re.compile(  # buffers that older versions of transformers stored
    r"(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids|(^|\.)(self_)?(attn|attention)\.(bias|masked_bias))$"
)
_WRAPPED = {"_orig_mod": "torch.compile", "module": "DistributedDataParallel", "base_model": "PEFT"}


def load_checkpoint(
    location: str,
    dtype: torch.dtype | None,
    where: dict[str, Any],
    verified: bool = False,
    place: torch.device | str = torch.device("cpu"),
) -> tuple[PreTrainedModel, torch.dtype, bool]:
    """Load a model of transformers from a folder or a repository, and check that it is what the files hold.

    Args:
        where: options of transformers' `from_pretrained` that say how to look for files.
        dtype: what to compute in; None for the type that most numbers in the files have.
        verified: whether the files are known to be those that a checked model was written to.
        place: `disk` or `auto` where weights may stay in the files, as `load_base`; otherwise all come into memory.

    Returns:
        The model, dense; the type its weights are published in; whether they were quantized and are turned back.

    Raises:
        ModelError: the files are not all of one model, or hold an adapter, an encoder or weights of an unknown type.
        Exception: whatever transformers raises for files that it cannot read.
    """
    refuse_adapter(location, where)
    known, settings, export_class = _configuration(location, where)
    method = dequantized(known, location)
    stored = read_stored(location, where)
    _check_layers(known, stored, location)
    if not method and not verified:
        check_fit(known, export_class, stored, location)
    loader: Any = export_class or AutoModelForCausalLM
    dtype = dtype or stored.dtype
    options: dict[str, Any] = {"quantization_config": method} if getattr(method, "dequantize", False) else {}
    if isinstance(place, str):
        options |= placing(place, known, export_class, method, location)
    else:
        check_memory(sum(tensor.numel() for tensor in stored.tensors.values()), dtype, place, location)
    model, report = loader.from_pretrained(
        location,
        config=known,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # for the report to name them: `check_report` refuses
        trust_remote_code=False,
        **options,
        **where,
    )
    if place == AUTO and model.device.type == "meta":  # the inputs' device, which that of the embedding has to be
        del model
        return load_checkpoint(location, dtype, where, verified, DISK)
    check_report(model, report, location)
    if method:
        model = made_dense(model, dtype, location)
    if not verified:
        check_values(model, location, stored.files)
    if settings.get("codes"):
        _decode(model, location)
    _check_pivots(model, location)
    _note_untied(model)
    if is_offloaded(model):
        one_pass_at_a_time(model)
    return model, stored.dtype, bool(method)


def _configuration(location: str, where: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """The configuration, the settings in its file, and the class of this package for what `export` wrote, or None.

    With that class the code beside an export is never executed.
    """
    if (path := find(location, CONFIG_NAME, where)) is None:
        raise FileNotFoundError(f"it has no {CONFIG_NAME}")
    settings = read_json(path)
    check_counts(settings, path)
    base = settings.get("acip_base")
    classes = coded if settings.get("codes") else compressed
    export_class = classes(getattr(transformers, base))[1] if base else None
    configuration: Any = export_class.config_class if export_class else AutoConfig
    try:
        known = configuration.from_pretrained(location, trust_remote_code=False, **where)
    except Exception as error:  # each class of transformers' has its own
        raise ModelError(f"The configuration {path} cannot be used ({reason_of(error)}); restore it.") from error
    return known, settings, export_class


def _check_layers(known: Any, stored: Stored, location: str) -> None:
    layers = getattr(known.get_text_config(decoder=True), "num_hidden_layers", 0)
    if not isinstance(layers, int) or layers > len(stored.tensors):
        raise ModelError(
            f"The configuration of '{location}' names {layers} layers, but its files hold {len(stored.tensors)} "
            "tensors; download them again."
        )


def _decode(model: Any, location: str) -> None:
    try:
        model.decode_codes()
    except ValueError as error:
        raise ModelError(f"The files of '{location}' are damaged. {error}") from None


def _check_pivots(model: Any, location: str) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, PivotedLinear):
            try:
                layer.columns()
            except ValueError as error:
                raise ModelError(f"The files of '{location}' are damaged: {name} has {error}") from None


def _note_untied(model: Any) -> None:
    """Record that the head is not tied to the embedding where the files hold both, for configurations of exports."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False


def check_fit(
    config: PreTrainedConfig, export_class: type[PreTrainedModel] | None, stored: Stored, location: str
) -> None:
    """Compare a configuration's model, made without memory, with what is stored.

    Raises:
        ModelError: it is an encoder, is much larger than the files, or they hold other types of numbers.
    """
    model = without_memory(config, export_class)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model.config, "is_decoder", True):
        raise ModelError(
            f"'{location}' ({type(model).__name__}) is an encoder, which reads the text after a token too; "
            "only decoder language models can be compressed."
        )
    wanted = sum(p.numel() for p in model.parameters())
    held = sum(tensor.numel() for tensor in stored.tensors.values())
    if wanted > 2 * held + MOST:
        raise ModelError(
            f"The configuration of '{location}' describes a model of {wanted:,} numbers, but its files hold {held:,}: "
            "they do not belong together; download them again."
        )
    _check_types(model, stored, location)


def _check_types(model: PreTrainedModel, stored: Stored, location: str) -> None:
    expected = model.state_dict()
    prefix = f"{model.base_model_prefix}."
    wrong = []
    for name, tensor in stored.tensors.items():
        place = expected.get(name, expected.get(prefix + name, expected.get(name.removeprefix(prefix))))
        plain = tensor.dtype in FLOATS
        if plain and (place is None or place.dtype in FLOATS):
            continue
        if place is None and (_COMPUTED.search(name) or _ignored(model, name)):
            continue
        if place is None or tensor.dtype != place.dtype:
            wrong.append(f"{name} ({str(tensor.dtype).removeprefix('torch.')})")
    if wrong:
        raise ModelError(
            f"The files of '{location}' hold {first_few(wrong)} where floating-point numbers belong, and its "
            "configuration names no quantization that they could be turned back by; name the unquantized model."
        )


def check_report(model: PreTrainedModel, report: dict[str, Any], location: str) -> None:
    """Refuse a model that the files did not fill, or that did not take all of them.

    Args:
        report: transformers' loading info.

    Raises:
        ModelError: tensors are missing, fit nowhere or have another shape; the message names the first few.
    """
    unexpected = [k for k in report["unexpected_keys"] if not _COMPUTED.search(k) and not _ignored(model, k)]
    parts = [
        f"{len(names)} {words} ({first_few(names)})"
        for names, words in (
            (report["missing_keys"], "of its tensors are missing"),
            (unexpected, "tensors fit nowhere"),
            ([f"{k}: {tuple(a)} instead of {tuple(b)}" for k, a, b in report["mismatched_keys"]], "have another shape"),
        )
        if names
    ]
    if parts or report.get("error_msgs"):
        parts = parts or [str(report["error_msgs"][0])[:200]]
        raise ModelError(
            f"The files of '{location}' do not hold the {type(model).__name__} that its configuration describes: "
            f"{', '.join(parts)}; {_way_out(unexpected)}."
        )


def _way_out(unexpected: Iterable[str]) -> str:
    for name in unexpected:
        for part, wrapper in _WRAPPED.items():
            if part in name.split("."):
                return f"'{part}' stems from {wrapper}: save the model inside it again, without the wrapper"
    return "download the model again, or name another"


def _ignored(model: PreTrainedModel, name: str) -> bool:
    return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_unexpected or ())


def check_values(model: Any, location: str, files: Mapping[str, Path] | None = None) -> None:
    """Refuse parameters and stored buffers with values that are not finite.

    Args:
        files: of the tensors, where they have several.

    Raises:
        ModelError: there are some; the message names the first few.
    """
    wrong = [name for name, tensor in stored_state(model) if not _finite(tensor)]
    if wrong:
        place = (files or {}).get(wrong[0], location)
        raise ModelError(
            f"The model '{place}' is damaged: not all values of {first_few(wrong)} are finite; download it again."
        )


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, most = torch.aminmax(tensor)  # in one pass and without a copy; NaN wins over every number
    return bool(torch.isfinite(least) & torch.isfinite(most))
