"""Text that a model writes itself, to be distilled on: the full model's own distribution, in any amount.

Each window continues a few words of calibration text at temperature 1 (LLM-QAT, arXiv 2305.17888), so that it stays in
the corpora's domain and no two are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

_PREFIX = 15  # tokens of calibration text that a window continues
_NEVER = -1  # the id of an end token that is never drawn: a window has no other end than its length


@torch.no_grad()
def sampled_windows(model: Any, text: torch.Tensor, lead: Sequence[int], count: int, seed: int) -> torch.Tensor:
    """(count, length) token ids.

    Args:
        model: as it is to be imitated.
        text: (windows, length) of calibration.
        lead: what a text begins with, as `Framing.lead`.
        seed: fixes all draws.
    """
    length = text.shape[1]
    prefix = min(_PREFIX, length - len(lead) - 1)
    source = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(text), (count,), generator=source)
    starts = torch.randint(length - prefix, (count,), generator=source)
    begun = torch.stack([text[row, start : start + prefix] for row, start in zip(rows, starts, strict=True)])
    begun = torch.cat([torch.tensor(list(lead), dtype=begun.dtype).expand(count, -1), begun], 1).to(model.device)
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_length=length, min_length=0,
        eos_token_id=_NEVER, pad_token_id=0, repetition_penalty=1.0,
    )  # fmt: skip
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return model.generate(begun, attention_mask=torch.ones_like(begun), generation_config=settings).cpu()
