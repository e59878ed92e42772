"""What `evaluate` measured, as the file `evaluation.json` in an artifact's folder keeps it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..storage.atomic import atomic_path
from ..storage.verified import listed, parse_dataclass, read_json, reporting_damage, write_json

FILE = "evaluation.json"


@dataclass(frozen=True)
class TaskResult:
    """One metric of one task at one size.

    Attributes:
        ratio: size ratio asked for; `parameters` and `bytes` are the whole model's at the cut.
        error: standard error, None where there is none.
        limit: examples of the task that were used at most; None for all.
    """

    task: str
    metric: str
    ratio: float
    parameters: int
    bytes: int
    value: float
    error: float | None
    limit: int | None


def write_evaluation(results: Sequence[TaskResult], folder: Path) -> None:
    """Replace the file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [asdict(result) for result in results]
    for row in rows:  # JSON has no infinity
        row |= {key: None for key in ("value", "error") if row[key] is not None and not math.isfinite(row[key])}
    with atomic_path(folder / FILE) as temporary:
        write_json(temporary, {"results": rows})


def read_evaluation(folder: Path) -> list[TaskResult]:
    """What `evaluate` wrote to an artifact's folder; nothing when it never ran.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return []
    with reporting_damage(path, "delete it and run `python -m acip_core measure tasks`"):
        rows = listed(read_json(path), "results")
        values = [math.inf if row["value"] is None else row["value"] for row in rows]
        return [parse_dataclass(TaskResult, row | {"value": v}) for row, v in zip(rows, values, strict=True)]
