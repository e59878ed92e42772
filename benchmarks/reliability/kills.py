"""Kills: whatever a process writes, SIGKILL at any moment leaves the old or the new, and a later run ends the same.

A trial starts from a fresh copy of a folder with everything in it, kills the work before a chosen file operation or at
a random time, lets a day pass, opens what is there, runs the work again (in every third trial killed once more) and
compares the whole folder, names and contents, with that of a run that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.model.base_model import load_base
from acip_core.pipelines.finetuning import FinetuneConfig, finetune
from acip_core.pipelines.precompute import precompute
from acip_core.progress import finish
from acip_core.training import checkpoint

from . import models
from .content import content
from .outcome import Tally
from .trial import Ended, forked
from .watching import watch

KILLS, QUICK_KILLS = 200, 10
_OUTCOMES = ("old in place", "new in place")
_DAY = 2 * 86_400.0  # seconds, and one more day to be sure
_AGAIN = 3  # every so many trials the second run is killed too
_EARLY = 12  # file operations of a second run among which one is chosen
_LAST_MOVES, _END = 4, 30  # renames, operations
_PROMPT = torch.tensor([[1, 70, 71, 72, 73, 74]])


@dataclass(frozen=True)
class Stage:
    """Something that writes.

    Attributes:
        work: runs it below a folder; returns what must be the same in every run.
        product: what it makes or replaces, relative to the folder; empty for what only fills the cache.
        replaces: whether an older product is there, with results of other commands in it.
    """

    name: str
    work: Callable[[Path], str]
    product: str = ""
    replaces: bool = False


Tree = dict[str, str]  # digest by path


@dataclass(frozen=True)
class _Undisturbed:
    """A run that nobody killed: the folder before and after, what it returned, its operations and seconds."""

    before: Tree
    after: Tree
    value: str
    operations: list[str]
    seconds: float


def _precompute(root: Path) -> str:
    _checkpoint_always()
    finish(precompute(str(root / "tiny"), models.recipe(root / "text.txt"), root / "out" / "artifact"))
    return ""


def _finetune(root: Path) -> str:
    _checkpoint_always()
    tuning = FinetuneConfig(0.7, (str(root / "text.txt"),), steps=3, batch=1, window=32, curve_windows=2)
    finish(finetune(str(root / "tiny"), tuning, root / "artifact", root / "out" / "tuned"))
    return ""


def _checkpoint_always() -> None:
    models.short_examples()
    checkpoint.CHECKPOINT_SECONDS = 0


def _export(root: Path) -> str:
    """To a place beside it where the model is complete already, so that leftovers have a writer to clear them."""
    loaded = finish(open_model(str(root / "tiny"), root / "artifact"))
    folder, plan = root / "out" / "model", loaded.elastic.planner.at_ratio(0.6)
    if folder.exists():
        beside = root / "out" / "beside"
        finish(export(loaded.elastic, loaded.artifact, plan, beside))
        shutil.rmtree(beside)
    else:
        finish(export(loaded.elastic, loaded.artifact, plan, folder))
    return ""


def _prepare(root: Path) -> str:
    loaded = finish(open_model(str(root / "tiny"), root / "artifact"))
    loaded.elastic.set_size(0.6)
    return _answer(loaded.elastic.model)


def _convert(root: Path) -> str:
    return _answer(load_base(str(root / "tiny.gguf")).model)


@torch.inference_mode()
def _answer(model: torch.nn.Module) -> str:
    return hashlib.sha256(model(_PROMPT).logits.numpy().tobytes()).hexdigest()


STAGES = (
    Stage("precompute", _precompute, "out/artifact"),
    Stage("precompute over an artifact", _precompute, "out/artifact", replaces=True),
    Stage("finetune", _finetune, "out/tuned"),
    Stage("finetune over an artifact", _finetune, "out/tuned", replaces=True),
    Stage("export", _export, "out/model"),
    Stage("prepare", _prepare),
    Stage("GGUF conversion", _convert),
)


def run_kills(folder: Path, quick: bool = False) -> Tally:
    """All stages in turn; `folder` is empty, and the cache of this process is within it from now on."""
    trials, draw = QUICK_KILLS if quick else KILLS, random.Random(19)
    tally = Tally("kills", _OUTCOMES, trials)
    root, kept, older = folder / "trial", folder / "kept", folder / "older"
    os.environ["ACIP_CACHE"] = str(root / "cache")
    root.mkdir()
    if (made := forked(lambda: _prepared(root, older), 120)).how != "returned":
        tally.fault(f"what all start from cannot be made: {made.told}", trials)
        return tally
    root.rename(kept)
    for index, stage in enumerate(STAGES):
        count = trials // len(STAGES) + (index < trials % len(STAGES))
        shutil.rmtree(kept / "out")
        shutil.copytree(older, kept / stage.product) if stage.replaces else (kept / "out").mkdir()
        _fresh(root, kept)
        reference = _undisturbed(root, kept, stage)
        if isinstance(reference, Ended):
            tally.fault(f"{stage.name}: an undisturbed run: {reference.how} {reference.told}", count)
            continue
        points = _points(reference.operations, count, draw)
        for number, at in enumerate(points):
            _fresh(root, kept)
            again = draw.randint(1, _EARLY) if number % _AGAIN == 0 else None
            late = draw.uniform(0.02, reference.seconds)
            try:
                tally.add(_trial(root, stage, reference, at, late, again))
            except AssertionError as fault:
                tally.fault(f"{stage.name}: {fault}")
    return tally


def _prepared(root: Path, older: Path) -> None:
    """What all stages start from: the model, a text, an artifact; and an older product for those that replace one."""
    models.write_model(root / "tiny")
    models.write_text(root / "text.txt")
    models.write_gguf(root / "tiny.gguf")
    models.write_artifact(root / "tiny", root / "text.txt", root / "artifact")
    models.write_artifact(root / "tiny", root / "text.txt", older, seed=7)
    (root / "out").mkdir()
    shutil.rmtree(root / "cache")


def _undisturbed(root: Path, kept: Path, stage: Stage) -> _Undisturbed | Ended:
    def work() -> tuple[list[str], str, float]:
        operations, began = watch(root), time.monotonic()
        return operations, stage.work(root), time.monotonic() - began

    ended = forked(work)
    if ended.how != "returned":
        return ended
    operations, value, seconds = ended.value
    return _Undisturbed(_tree(kept), _tree(root), value, operations, seconds)


def _points(operations: list[str], count: int, draw: random.Random) -> list[int | None]:
    """Numbers of the operations to be killed before; None for a random time.

    In turn: one of the last renames, with which the product comes; one of the end; any; a random time.
    """
    moves = [number for number, name in enumerate(operations, 1) if name == "os.rename"][-_LAST_MOVES:]
    moves = moves or [len(operations)]
    points: list[int | None] = []
    for index in range(count):
        turn, kind = divmod(index, 4)
        if kind == 0:
            points.append(moves[(len(moves) - 2 - turn) % len(moves)])
        elif kind == 3:
            points.append(None)
        else:
            points.append(draw.randint(max(1, len(operations) - _END) if kind == 1 else 1, len(operations)))
    return points


def _trial(root: Path, stage: Stage, reference: _Undisturbed, at: int | None, late: float, again: int | None) -> str:
    """The outcome; AssertionError with a sentence for a fault."""
    where = f"killed before operation {at}" if at else f"killed after {late:.2f} s"
    if at:
        where += f" ({reference.operations[at - 1] if at <= len(reference.operations) else 'the end'})"
    forked(lambda: _watched(root, stage, at), kill_after=None if at else late)
    _let_a_day_pass(root)
    outcome = _opened(root, stage, reference, where)
    if again:
        forked(lambda: _watched(root, stage, again))
        _let_a_day_pass(root)
        _opened(root, stage, reference, where := f"{where}, then before operation {again}")
    ended = forked(lambda: stage.work(root))
    assert ended.how == "returned", f"{where}; the next run: {ended.how} {ended.told}"
    assert ended.value == reference.value, f"{where}; the next run has another result"
    after = _tree(root)
    assert not (left := sorted(after.keys() - reference.after.keys())), f"{where}; left over: {_named(left)}"
    assert not (lost := sorted(reference.after.keys() - after.keys())), f"{where}; lost: {_named(lost)}"
    changed = sorted(path for path in after if after[path] != reference.after[path])
    assert not changed, f"{where}; not as without the kill: {_named(changed)}"
    return outcome


def _watched(root: Path, stage: Stage, at: int | None) -> None:
    watch(root, at)
    stage.work(root)


def _opened(root: Path, stage: Stage, reference: _Undisturbed, where: str) -> str:
    """Start anew on what a killed process left; which product is in place."""
    if not stage.product:
        reached = _tree(root).keys() >= reference.after.keys()
    else:
        product = root / stage.product
        if stage.replaces or product.exists():
            ended = forked(lambda: _used(root, product))
            assert ended.how == "returned", f"{where}; opened: {ended.how} {ended.told}"
        found = _below(_tree(root), stage.product)
        reached = found == _below(reference.after, stage.product)
        old = _below(reference.before, stage.product)
        lost = sorted((old.keys() & _below(reference.after, stage.product).keys()) - found.keys()) if old else []
        assert reached or found == old, f"{where}; neither old nor new in place, missing: {_named(lost)}"
    return _OUTCOMES[1] if reached else _OUTCOMES[0]


def _used(root: Path, product: Path) -> None:
    if (product / "config.json").is_file():
        load_base(str(product))
    else:
        read_artifact(product)
        finish(open_model(str(root / "tiny"), product))


def _fresh(root: Path, kept: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(kept, root)


def _let_a_day_pass(root: Path) -> None:
    """Leftovers of a killed writer look like the work of a slow one for some time."""
    then = time.time() - _DAY
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def _tree(root: Path) -> Tree:
    """Digests of all files and names of all folders; locks are for ever."""
    return {
        str(path.relative_to(root)): "" if path.is_dir() else content(path)
        for path in root.rglob("*")
        if path.suffix != ".lock" and path.name != "locks"
    }


def _below(tree: Tree, place: str) -> Tree:
    return {path: digest for path, digest in tree.items() if path.startswith(f"{place}/")}


def _named(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
