"""What `evaluate` measured, as the file `evaluation.json` in an artifact's folder keeps it.

It names the directions that it was measured with, so that none of it is shown of an artifact that was made since.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..model.size_planner import DIRECTIONS
from ..storage.atomic import atomic_path
from ..storage.verified import listed, parse_dataclass, read_json, reporting_damage, write_json
from .knowledge import made_from

log = logging.getLogger("acip")
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
    """Replace the file in an artifact's folder, whose other files they were measured with.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [asdict(result) for result in results]
    for row in rows:  # JSON has no infinity
        row |= {key: None for key in ("value", "error") if row[key] is not None and not math.isfinite(row[key])}
    with atomic_path(folder / FILE) as temporary:
        write_json(temporary, {"made_from": made_from(folder, DIRECTIONS), "results": rows})


def read_evaluation(folder: Path) -> list[TaskResult]:
    """What `evaluate` wrote to an artifact's folder; nothing when it never ran, or with other directions.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return []
    with reporting_damage(path, "delete it and run `python -m acip_core measure tasks`"):
        content = read_json(path)
        stated = content.pop("made_from", None) if isinstance(content, dict) else None  # former files do not say it
        rows = listed(content, "results")
        values = [math.inf if row["value"] is None else row["value"] for row in rows]
        results = [parse_dataclass(TaskResult, row | {"value": v}) for row, v in zip(rows, values, strict=True)]
    if stated == made_from(folder, DIRECTIONS):
        return results
    log.warning("%s was measured before its artifact changed; `python -m acip_core measure tasks` renews it.", path)
    return []
