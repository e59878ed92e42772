"""Damaged files: whatever happens to a file that a model is read from, it is refused by name, made again, or harmless.

What is right is what the same folder gives undamaged. A model's own files carry no digest, so one of them that is
still a whole model is another model: right is then what plain transformers reads there, as long as it is finite and
nothing of it was made up.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, dynamic_module_utils

from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.model.base_model import fingerprint, load_base
from acip_core.pipelines.precompute import precompute
from acip_core.progress import finish
from acip_core.training import checkpoint

from . import models
from .breaking import DAMAGES, possible
from .content import content
from .outcome import Tally
from .trial import Ended, forked

DAMAGED, QUICK_DAMAGED = 500, 24
_OUTCOMES = ("refused by name", "made again", "harmless", "another model")
_SECONDS = 20.0  # until a trial counts as hung
_PROMPT = torch.tensor([[1, 70, 71, 72, 73, 74, 75, 76]])
_SIZES = (1.0, 0.6)
_NEVER_MADE = tuple(  # as good as missing
    f"{name}.json" for name in ("completions", "comparison", "ablation", "evaluation", "peers")
)


@dataclass(frozen=True)
class Place:
    """Files of one kind, and what reads them.

    Attributes:
        folder: where they lie, relative to the trial's folder; a file or a folder.
        read: reads them; returns what must stay the same.
        own: whether the project wrote them for itself and can tell any change; otherwise they are a user's.
        plain: of a user's, what transformers loads: a folder, and options.
    """

    name: str
    folder: str
    read: Callable[[Path], tuple[torch.Tensor, str]]
    own: bool = True
    plain: tuple[str, dict[str, Any]] | None = None


@torch.inference_mode()
def _logits(model: torch.nn.Module) -> torch.Tensor:
    return model(_PROMPT).logits.float()


def _opened(root: Path) -> tuple[torch.Tensor, str]:
    """All that the page and the command line know of a model: logits, curves, texts, results, history."""
    loaded = finish(open_model(str(root / "tiny"), root / "artifact"))
    planner, elastic, artifact = loaded.elastic.planner, loaded.elastic, loaded.artifact
    logits = []
    for ratio in _SIZES:
        elastic.apply(planner.at_ratio(ratio))
        logits.append(_logits(elastic.model))
    weights = elastic.elastic_layers().weights()
    if fingerprint(weights) != artifact.fingerprint and not loaded.note:
        raise RuntimeError("an artifact of other weights is used and nothing is said")
    history = {name: values.tolist() for name, values in artifact.history.items()}
    told = (artifact.curves, artifact.recipe, loaded.completions, loaded.evaluation, loaded.comparison, history)
    return logits[0], repr((_digest(logits[1]), *told))


def _alone(root: Path, model: str) -> tuple[torch.Tensor, str]:
    base = load_base(str(root / model))
    return _logits(base.model), repr(base.tokenizer(models.EXAMPLE).input_ids)


def _continued(root: Path) -> tuple[torch.Tensor, str]:
    """Precompute with what an interrupted run left."""
    _precompute(root, root / "again")
    files = {path.name: content(path) for path in (root / "again").iterdir()}
    return torch.zeros(1), repr(sorted(files.items()))


def _precompute(root: Path, folder: Path) -> None:
    models.short_examples()
    checkpoint.CHECKPOINT_SECONDS = 0
    finish(precompute(str(root / "tiny"), models.recipe(root / "text.txt"), folder))


def _digest(logits: torch.Tensor) -> str:
    return hashlib.sha256(logits.numpy().tobytes()).hexdigest()


_EXPORT = ("small", {"trust_remote_code": True})
_GGUF = ("gguf", {"gguf_file": "tiny.gguf"})
PLACES = (
    Place("artifact", "artifact", _opened),
    Place("model", "tiny", _opened, own=False, plain=("tiny", {})),
    Place("model in shards", "shards", lambda root: _alone(root, "shards"), own=False, plain=("shards", {})),
    Place("export", "small", lambda root: _alone(root, "small"), own=False, plain=_EXPORT),
    Place("GGUF file", "gguf", lambda root: _alone(root, "gguf/tiny.gguf"), own=False, plain=_GGUF),
    Place("converted copy", "cache/models", lambda root: _alone(root, "gguf/tiny.gguf")),
    Place("factor cache", "cache/factors", _opened),
    Place("kept work", "cache/precompute", _continued),
)


def run_damage(folder: Path, quick: bool = False) -> Tally:
    """Every place in turn, all its files and all ways to damage them mixed; `folder` is empty."""
    trials, draw = QUICK_DAMAGED if quick else DAMAGED, random.Random(20)
    tally = Tally("damaged files", _OUTCOMES, trials)
    root, kept = folder / "trial", folder / "kept"
    os.environ["ACIP_CACHE"] = str(root / "cache")
    root.mkdir()
    if (made := forked(lambda: _prepared(root), 120)).how != "returned":
        tally.fault(f"what all start from cannot be made: {made.told}", trials)
        return tally
    root.rename(kept)
    for index, place in enumerate(PLACES):
        count = trials // len(PLACES) + (index < trials % len(PLACES))
        files = sorted(path.relative_to(kept) for path in _files(kept / place.folder))
        _fresh(root, kept)
        right = forked(lambda place=place: place.read(root), _SECONDS)
        if right.how != "returned" or not files:
            tally.fault(f"{place.name}: undamaged: {right.how} {right.told}", count)
            continue
        for file, damage in _chosen(kept, files, count, draw):
            _fresh(root, kept)
            DAMAGES[damage](root / file, draw)
            ended = forked(lambda place=place: place.read(root), _SECONDS)
            try:
                tally.add(_judged(root, place, file, ended, right.value))
            except AssertionError as fault:
                tally.fault(f"{place.name}, {_stem(file)}, {damage}: {fault}")
    return tally


def _prepared(root: Path) -> None:
    models.write_model(root / "tiny")
    models.write_model(root / "shards", shard="60KB")
    models.write_text(root / "text.txt")
    (root / "gguf").mkdir()
    models.write_gguf(root / "gguf" / "tiny.gguf")
    models.write_artifact(root / "tiny", root / "text.txt", root / "artifact")
    loaded = finish(open_model(str(root / "tiny"), root / "artifact"))
    finish(export(loaded.elastic, loaded.artifact, loaded.elastic.planner.at_ratio(0.6), root / "small"))
    load_base(str(root / "gguf" / "tiny.gguf"))
    _interrupted(root)


def _interrupted(root: Path) -> None:
    """Leave all that a precompute run keeps while it works: stopped when the artifact would be written."""
    with patch.object(sys.modules["acip_core.pipelines.precompute"], "write_artifact", side_effect=KeyboardInterrupt):
        try:
            _precompute(root, root / "again")
        except KeyboardInterrupt:
            return
    raise RuntimeError("precompute was not interrupted")


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]


def _chosen(kept: Path, files: list[Path], count: int, draw: random.Random) -> list[tuple[Path, str]]:
    """Pairs of file and damage, all of them before any comes twice."""
    pairs = [(file, damage) for file in files for damage in possible(kept / file)]
    chosen: list[tuple[Path, str]] = []
    while len(chosen) < count:
        chosen += draw.sample(pairs, min(len(pairs), count - len(chosen)))
    return chosen


def _fresh(root: Path, kept: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(kept, root)


def _judged(root: Path, place: Place, file: Path, ended: Ended, right: tuple[Any, ...]) -> str:
    """The outcome; AssertionError with a sentence for a fault."""
    if ended.how == "refused":
        assert _names(ended.told, root, place, file), (
            f"refused without naming the file: {ended.told[:240].replace(str(root), '…')}"
        )
        return _OUTCOMES[0]
    assert ended.how == "returned", f"{ended.how} {ended.told}"
    (logits, told), gone = ended.value, not os.path.lexists(root / file)
    if torch.equal(logits, right[0]) and (told == right[1] or (file.name in _NEVER_MADE and gone)):
        again = place.folder.startswith("cache")
        return _OUTCOMES[1] if again else _OUTCOMES[2]
    assert logits.isfinite().all(), "logits that are not finite"
    changed = "other logits" if not torch.equal(logits, right[0]) else "other values"
    assert not place.own, f"{changed}, silently"
    plain = forked(lambda: _plain(root, place), _SECONDS)
    assert plain.how == "returned", f"{changed}, where transformers has: {plain.told}"
    expected, made_up = plain.value
    assert not made_up, f"weights made up, silently: {made_up}"
    assert expected.shape == logits.shape and torch.allclose(expected, logits, atol=1e-4), (
        f"{changed} than transformers"
    )
    return _OUTCOMES[3]


def _names(told: str, root: Path, place: Place, file: Path) -> bool:
    """Whether a refusal names the file; of one that is gone, or where two contradict each other, the folder will do."""
    both = file.suffix in (".json", ".safetensors") and "configuration" in told
    return file.name in told or (str(root / place.folder) in told and (both or not (root / file).exists()))


def _plain(root: Path, place: Place) -> tuple[torch.Tensor, str]:
    """Logits as transformers alone gives them, and the names of weights that it found nowhere."""
    assert place.plain is not None
    folder, options = place.plain
    dynamic_module_utils.HF_MODULES_CACHE = str(root / "modules")  # code that came with an export
    model, said = AutoModelForCausalLM.from_pretrained(
        root / folder, dtype=torch.float32, output_loading_info=True, **options
    )
    wrong = [name for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in sorted(said[kind])]
    return _logits(model.eval()), ", ".join(map(str, wrong[:3]))


def _stem(file: Path) -> str:
    """A file's name without what only machines read."""
    return file.name if len(file.stem) < 24 or not all(c in "0123456789abcdef" for c in file.stem) else file.suffix[1:]
