"""Any size of a language model from one score map: factorize, score, cut, run.

    from acip_core import AcipModel
    model = AcipModel.from_pretrained("smollm2-135m-instruct", size=0.24)
    model.complete("The capital of Germany is called")

Importing the package is instant; torch and transformers are imported with the first name that needs them.
"""

from __future__ import annotations

import logging
import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Nothing is reported to anybody, by whichever door the package is entered: the libraries read these when they are
# imported, which happens below this line. What the user's own environment says comes first.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # a request for each data set, to be counted
    "GRADIO_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_name, _value)

# transformers imports torchao, which tells everybody of kernels for devices that they do not have.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_HOMES = {
    "AcipModel": "api",
    "precompute": "api",
    "PrecomputeConfig": "pipelines.precompute",
    "load_base": "model.base_model",
    "open_model": "artifacts.loading",
    "ElasticModel": "model.elastic_model",
    "SizePlanner": "model.size_planner",
    "measure_perplexity": "evaluation.perplexity",
    "documents": "data.corpus",
    "token_windows": "data.corpus",
    "finish": "progress",
    "AcipError": "errors",
}
_FORMER = {  # names of the release before: where they are, what they are called now
    "load": ("api.former", "load", "AcipModel.from_pretrained"),
    "Model": ("api.former", "Model", "AcipModel"),
    "Recipe": ("pipelines.precompute", "PrecomputeConfig", "PrecomputeConfig"),
}
__all__ = [
    "AcipModel", "precompute", "PrecomputeConfig", "load_base", "open_model", "ElasticModel", "SizePlanner",
    "measure_perplexity", "documents", "token_windows", "finish", "AcipError",
]  # fmt: skip

if TYPE_CHECKING:  # what type checkers and editors see of the names above
    from .api import AcipModel, precompute
    from .artifacts.loading import open_model
    from .data.corpus import documents, token_windows
    from .errors import AcipError
    from .evaluation.perplexity import measure_perplexity
    from .model.base_model import load_base
    from .model.elastic_model import ElasticModel
    from .model.size_planner import SizePlanner
    from .pipelines.precompute import PrecomputeConfig
    from .progress import finish


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        module, own, now = _FORMER[name]
        sentence = f"acip_core.{name} is called acip_core.{now} now; the old name works for one release."
        warnings.warn(sentence, DeprecationWarning, stacklevel=2)
        return getattr(import_module(f".{module}", __name__), own)
    if name not in _HOMES:
        raise AttributeError(f"module 'acip_core' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
