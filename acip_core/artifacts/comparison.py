"""What `compare` measured, as the file `comparison.json` in an artifact's folder keeps it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.methods import current_id
from ..storage.atomic import atomic_path
from ..storage.verified import parse_dataclass, read_json, reporting_damage, write_json

FILE = "comparison.json"
_UNBOUNDED = ("perplexity", "divergence")


@dataclass(frozen=True)
class Result:
    """One method at one size on one corpus.

    Attributes:
        adapters: whether it was measured with adapters.
        wanted, ratio: size ratio asked for and that of the cut.
        perplexity: on held-out text.
        divergence: mean KL divergence from the full model per token, in nats.
        agreement: share of tokens for which both models' likeliest token is the same.
    """

    method: str
    adapters: bool
    corpus: str
    wanted: float
    ratio: float
    parameters: int
    bytes: int
    perplexity: float
    divergence: float
    agreement: float


@dataclass(frozen=True)
class Comparison:
    """All results, with the base model's perplexity by corpus and what they were measured with."""

    budget: dict
    base_perplexity: dict[str, float]
    results: tuple[Result, ...]


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Replace the file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    content = asdict(comparison)
    content["base_perplexity"] = {corpus: _finite(value) for corpus, value in comparison.base_perplexity.items()}
    content["results"] = [asdict(r) | {key: _finite(getattr(r, key)) for key in _UNBOUNDED} for r in comparison.results]
    with atomic_path(folder / FILE) as temporary:
        write_json(temporary, content)


def read_comparison(folder: Path) -> Comparison | None:
    """What `compare` wrote to an artifact's folder, or None.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    with reporting_damage(path, "delete it and run `python -m acip_core measure methods`"):
        read = read_json(path)
        results = tuple(parse_dataclass(Result, _current(result)) for result in read["results"])
        base = {corpus: math.inf if value is None else value for corpus, value in read["base_perplexity"].items()}
        if not all(value > 0 for value in base.values()):
            raise ValueError("a base perplexity is not positive")
        return parse_dataclass(Comparison, read | {"base_perplexity": base, "results": results})


def _finite(value: float) -> float | None:
    """A number for JSON, which has no infinity: null stands for it."""
    return value if math.isfinite(value) else None


def _current(result: dict[str, Any]) -> dict[str, Any]:
    """A result by today's method ids, with infinity for null."""
    infinite = {key: math.inf for key in _UNBOUNDED if result[key] is None}
    return result | infinite | {"method": current_id(result["method"])}


def worst_relative(comparison: Comparison, method: str, adapters: bool) -> Mapping[float, float]:
    """Perplexity ÷ base of the worse corpus by size ratio asked for, where all corpora are measured."""
    found: dict[float, list[float]] = {}
    for r in comparison.results:
        if (r.method, r.adapters) == (method, adapters):
            found.setdefault(r.wanted, []).append(r.perplexity / comparison.base_perplexity[r.corpus])
    count = len(comparison.base_perplexity)
    return {ratio: max(values) for ratio, values in sorted(found.items()) if len(values) == count}
