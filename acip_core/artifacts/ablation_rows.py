"""What `ablate` measured, as the files `ablation.json` and `parts.json` in an artifact's folder keep it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.atomic import atomic_path
from ..storage.verified import read_json, reporting_damage, write_json

FILE = "ablation.json"  # of the paper's questions
PARTS_FILE = "parts.json"  # of this project's own parts, which need no pruning run and so share other settings


@dataclass(frozen=True)
class Row:
    """One ablation: perplexity ÷ base, the worst corpus', by size ratio."""

    name: str
    relative: dict[str, float | None]


def read_rows(folder: Path, file: str = FILE) -> dict[str, dict[str, float | None]]:
    """What `ablate` wrote to an artifact's folder: perplexity ÷ base by row and size ratio; empty if nothing.

    Raises:
        ArtifactError: the file is damaged.
    """
    return read_ablation(folder, file).get("rows", {})


def write_ablation(content: Mapping[str, Any], folder: Path, file: str = FILE) -> None:
    """Replace a file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_path(folder / file) as temporary:
        write_json(temporary, content, indent=1)


def read_ablation(folder: Path, file: str = FILE) -> dict[str, Any]:
    """All of a file, `settings` and `rows`; empty if there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    path = folder / file
    if not os.path.lexists(path):
        return {}
    with reporting_damage(path, "delete it and run `python -m acip_core measure ablations`"):
        content = read_json(path)
        if content.keys() != {"settings", "rows"}:
            raise ValueError(f"it holds {', '.join(content)}")
        for relative in content["rows"].values():
            for ratio, value in relative.items():
                if not (math.isfinite(float(ratio)) and (value is None or math.isfinite(value))):
                    raise ValueError(f"{value!r} at {ratio}")
        return {"settings": content["settings"], "rows": dict(content["rows"])}
