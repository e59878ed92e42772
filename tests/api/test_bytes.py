"""Bytes spent from Python."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import acip_core
from acip_core import AcipModel
from acip_core.api import bars
from acip_core.errors import AcipError, ArgumentError, ArtifactError, ModelError, PrecisionError, SizeError
from acip_core.progress import Progress


def test_python_spends_bytes(coded_folders: tuple[str, Path]):
    model = AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1])
    plan = model.set_size(0.5, mode="bits")
    assert plan.mode == "bits" and model.size == plan.ratio <= 0.5
    assert model.set_bytes(plan.bytes).bytes <= plan.bytes
    assert model.plan.mode == "both"
    assert model.set_quality(0).loss == 0 and model.set_quality(1e6).bytes < plan.bytes
    assert isinstance(model.complete("abc", max_new_tokens=3), str)
    assert model.perplexity("some text of a few tokens") > 1
    assert model.set_size(0.5, mode="directions").mode == "directions"


def test_both_is_spent_where_nobody_says_what(coded_folders: tuple[str, Path]):
    model = AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1])
    assert model.plan.saved == 0 and model.elastic.coded is None, "the original needs no codes"
    plan = model.set_size(0.5)
    assert (plan.mode, plan) == ("both", model.elastic.planners["both"].at_ratio(0.5)) and model.size <= 0.5
    assert AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1], size=0.5).plan == plan
    assert model.set_size(1.0) == model.elastic.planner.at_ratio(1.0)
    assert model.set_size(1.0, mode="both").mode == "both"
    with pytest.warns(DeprecationWarning):
        former = acip_core.load(*coded_folders)
    assert former.set_size(0.5).mode == "directions", "as in the release before"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"precision": "int8"}, PrecisionError, "Layers in int8"),
        ({"device_map": "disk"}, ModelError, "stay in their files"),
        ({}, ArtifactError, "acip_core codes` adds them"),
    ],
)
def test_where_no_bits_can_be_spent_directions_are_and_that_is_said(
    app_folders: tuple[Path, Path],
    coded_folders: tuple[str, Path],
    options: dict[str, str],
    kind: type[AcipError],
    words: str,
    caplog: pytest.LogCaptureFixture,
):
    model, artifact = coded_folders if options else app_folders
    opened = AcipModel.from_pretrained(model, artifact=artifact, **options)
    assert not caplog.text
    assert opened.set_size(0.6).mode == opened.set_size(0.7).mode == "directions"
    assert caplog.text.count("Directions are spent instead") == caplog.text.count(words) == 1
    assert opened.complete("abc", max_new_tokens=2)
    before = opened.plan
    for refused in (lambda: opened.set_size(0.6, mode="bits"), lambda: opened.set_quality(0.1)):
        with pytest.raises(kind, match=words):
            refused()
    assert opened.plan == before


class Bar:
    """A bar that keeps what it draws."""

    def __init__(self, drawn: list[str], total: int, desc: str):
        self.drawn, self.n = drawn, 0
        drawn.append(desc)

    def set_postfix_str(self, note: str) -> None:
        self.drawn.append(note)

    def close(self) -> None:
        self.drawn.append("closed")


@pytest.mark.parametrize("told", [True, False])
def test_making_codes_is_shown(
    coded_folders: tuple[str, Path],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(bars, "_PATIENCE", 0)
    drawn: list[str] = []
    monkeypatch.setattr(bars, "tqdm", lambda **bar: Bar(drawn, **bar))  # the Hub's is silent in tests
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path))
    steps: list[Progress] = []
    options = {"on_progress": steps.append} if told else {}
    for is_first in (True, False):
        steps.clear()
        drawn.clear()
        AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1], size=0.5, **options)
        shown = "".join([*drawn, *(f"{step.stage}, {step.note}" for step in steps)])
        assert ("making codes" in shown) == ("once on this machine" in shown) == is_first
        assert bool(steps) == told != ("closed" in drawn)


@pytest.mark.parametrize("size", [0, -1, math.nan, "much", 1])
def test_python_refuses_bytes_that_no_plan_has(coded_folders: tuple[str, Path], size: object):
    model = AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1])
    before = model.plan
    with pytest.raises(SizeError):
        model.set_bytes(size)  # type: ignore[arg-type]
    assert model.plan == before


def test_modes_that_there_are_not(app_folders: tuple[Path, Path], coded_folders: tuple[str, Path]):
    with pytest.raises(ArgumentError, match="directions, bits, both"):
        AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1]).set_size(0.5, mode="bytes")
    with pytest.raises(ArgumentError, match="directions, bits, both"):
        AcipModel.from_pretrained("/nowhere", mode="bytes")
    with pytest.raises(ArgumentError, match="by a share"):
        AcipModel.from_pretrained(coded_folders[0], artifact=coded_folders[1]).set_bytes(1e6, mode="directions")
    with pytest.raises(ArtifactError, match="acip_core codes"):
        AcipModel.from_pretrained(app_folders[0], artifact=app_folders[1]).set_bytes(1e6)
