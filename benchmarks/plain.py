"""The base model as anyone else has it: loaded by transformers alone, none of this package's layers in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import AutoModelForCausalLM, PreTrainedModel

from acip_core.model.base_model import BaseModel


@contextmanager
def saved(base: BaseModel) -> Iterator[str]:
    """A folder with the model and its tokenizer, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        yield folder


def plain_model(base: BaseModel) -> PreTrainedModel:
    """A copy of the base model, on its device and in its precision."""
    with saved(base) as folder:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=base.dtype).to(base.device).eval()
