"""From a new process to the first token, and resident weights, against the plain base model in transformers."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

from torch import nn

from acip_core.artifacts.loading import open_model
from acip_core.model.base_model import load_base
from acip_core.progress import finish

from .figure import Figure, median_of
from .plain import saved

_ENDING = """
ids = tokenizer("The capital of Germany is called", return_tensors="pt").to(model.device)
with torch.inference_mode():
    print(tokenizer.decode(model(**ids).logits[0, -1].argmax()))
"""
_OURS = "import torch\nfrom acip_core import finish, open_model\nelastic = finish(open_model()).elastic\n"
_OURS += f"model, tokenizer = elastic.model, elastic.tokenizer{_ENDING}"
_PLAIN = "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
_PLAIN += "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).to(sys.argv[2])\n"
_PLAIN += f"tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]){_ENDING}"


def measure_start(rounds: int = 5) -> list[Figure]:
    """Both processes in turn, files cached; the elastic model's tensors counted once per storage."""
    base = load_base()
    weights, device = _stored(base.model), str(base.device)
    with saved(base) as folder:
        del base
        resident = _stored(finish(open_model()).elastic.model)
        ratios = [_seconds(_OURS) / _seconds(_PLAIN, folder, device) for _ in range(rounds)]
    return [
        median_of("a cached model's start to its first token ÷ the base model's", ratios, "×", 1.5),
        Figure("resident weights ÷ the base model's", resident / weights, "×", 2.0),
    ]


def _seconds(code: str, *arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def _stored(model: nn.Module) -> int:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
