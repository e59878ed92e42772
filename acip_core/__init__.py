"""Any size of a language model from one score map: factorize, score, cut, run.

    import acip_core
    model = acip_core.load("smollm2-135m-instruct")
    model.set_size(0.6)
    model.generate("The capital of Germany is called")

Importing the package is instant; torch and transformers are imported with the first name that needs them.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

# transformers imports torchao, which tells everybody of kernels for devices that they do not have.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_HOMES = {
    "load": "api",
    "Model": "api",
    "load_base": "base",
    "open_model": "loading",
    "ElasticModel": "elastic",
    "SizePlanner": "sizing",
    "Recipe": "precompute",
    "measure_perplexity": "evaluate",
    "documents": "corpus",
    "token_windows": "corpus",
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
