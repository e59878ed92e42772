"""Any size of a language model from one score map: factorize, score, cut, run.

    import acip_core
    model = acip_core.load("smollm2-135m-instruct")
    model.set_size(0.6)
    model.generate("The capital of Germany is called")

Importing the package is instant; torch and transformers are imported with the first name that needs them.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

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
    "load": "api",
    "Model": "api",
    "load_base": "model.base_model",
    "open_model": "artifacts.loading",
    "ElasticModel": "model.elastic_model",
    "SizePlanner": "model.size_planner",
    "PrecomputeConfig": "pipelines.precompute",
    "measure_perplexity": "evaluation.perplexity",
    "documents": "data.corpus",
    "token_windows": "data.corpus",
    "finish": "progress",
    "AcipError": "errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'acip_core' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
