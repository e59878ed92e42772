"""Results that commands leave beside an artifact, and what reads them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from acip_core.artifacts.ablation_rows import PARTS_FILE, read_ablation
from acip_core.artifacts.comparison import read_comparison
from acip_core.artifacts.completions import read_completions
from acip_core.artifacts.peers import read_peers
from acip_core.artifacts.task_results import read_evaluation
from acip_core.storage.digests import file_digest
from acip_core.storage.verified import write_json
from tests.support.coded import made_up_peers

RESULTS = {
    "completions.json": ({"completions": [{"prompt": "a", "new_tokens": 3, "texts": {"100": "b"}}]}, read_completions),
    "evaluation.json": (
        {
            "results": [
                {"task": "t", "metric": "m", "ratio": 0.5, "parameters": 9, "bytes": 36, "value": 0.1, "error": None,
                 "limit": 1}
            ]
        },
        read_evaluation,
    ),
    "comparison.json": ({"budget": {"x": 1e5}, "base_perplexity": {"c4": 3.5}, "results": []}, read_comparison),
    "peers.json": (asdict(made_up_peers()), read_peers),
    "ablation.json": ({"settings": {"x": 1e5}, "rows": {"one": {"0.50": 1.25}}}, read_ablation),
    "parts.json": (
        {"settings": {"x": 1e5}, "rows": {"one": {"0.50": 1.25}}}, lambda folder: read_ablation(folder, PARTS_FILE)
    ),
}  # fmt: skip


def resealed(folder: Path) -> None:
    """Make an edit look as if it had been written so: what is checked besides digests comes to light."""
    if not (path := folder / "acip.json").is_file():
        return
    try:
        description = json.loads(path.read_text())
        description.pop("sha256")
        for name, told in description["files"].items():
            if (folder / name).is_file():
                told |= {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        write_json(path, description)
    except (ValueError, AttributeError, TypeError, RecursionError):  # beyond repair
        return
