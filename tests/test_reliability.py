"""The short form of every campaign, through the real command: one process, for trials are forked from it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figure import Figure
from benchmarks.reliability import CAMPAIGNS
from benchmarks.reliability.outcome import Tally, reliability_table
from benchmarks.reliability.trial import forked
from benchmarks.tables import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `python -m benchmarks reliability --quick` prints."""
    command = [sys.executable, "-m", "benchmarks", "reliability", "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path_factory.mktemp("trials"))}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout.count("trials:") == len(CAMPAIGNS), ended.stderr[-2000:]
    return ended.stdout.splitlines()


@pytest.mark.parametrize("campaign", ["kills", "damaged files", "hostile requests", "resizes", "soak"])
def test_no_faults(campaign: str, lines: list[str]) -> None:
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{campaign}: "))
    told = [lines[start], *itertools.takewhile(lambda line: line.startswith("  "), lines[start + 1 :])]
    assert told[0].endswith(" 0 faults"), "\n".join(told)


def test_a_trial_tells_how_it_ended(tmp_path: Path) -> None:
    assert forked(lambda: 3).value == 3
    assert forked(lambda: 1 / 0).how == "raised"
    assert forked(lambda: os.kill(os.getpid(), 9)).told == "SIGKILL"
    assert forked(lambda: os.read(os.pipe()[0], 1), seconds=0.2).how == "hung"


def test_rows_and_table_hold_every_count() -> None:
    tally = Tally("kills", ("old in place", "new in place"), 3)
    tally.add("old in place", 2)
    tally.fault("lost")
    figures = tally.figures()
    assert tally.line() == "kills: 3 trials: 2 old in place, 0 new in place, 1 faults"
    assert [(f.value, f.target, f.reached) for f in figures] == [(2, None, None), (0, None, None), (1, 0, False)]
    (row,) = reliability_table([Figure("another", 1.0, "s"), *figures])[2:]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["kills", "2 old in place, 0 new in place", "1"]
