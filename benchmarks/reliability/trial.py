"""A trial in a process of its own, forked from one that has imported everything: half a second instead of ten.

The parent computes nothing and has no threads, so that a fork is as good as a new process.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acip_core.errors import AcipError

_MEMORY = 6 << 30  # bytes of address space beyond the parent's: what asks for more is refused by the system
_LOOK = 1.0  # seconds between two looks at a trial, at most


@dataclass(frozen=True)
class Ended:
    """How a trial's process ended.

    Attributes:
        how: `returned`, `refused` (an error of the project), `raised` (any other), `killed` or `hung`.
        value: what it returned.
        told: the error, in one line.
    """

    how: str
    value: Any = None
    told: str = ""


def forked(work: Callable[[], Any], seconds: float = 60.0, kill_after: float | None = None) -> Ended:
    """Run `work` in a forked process that is killed after `seconds` (hung), or on purpose after `kill_after`."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    answer, ended = _read(reader, min(seconds, kill_after or seconds))
    os.close(reader)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if answer:
        return pickle.loads(answer)
    if not ended and kill_after is None:
        return Ended("hung", told=f"no end after {seconds:.0f} s")
    code = os.waitstatus_to_exitcode(status)
    return Ended("killed", told=signal.Signals(-code).name if code < 0 else f"exit code {code}")


def _read(reader: int, left: float) -> tuple[bytes, bool]:
    """All that the child says, and whether it came to its end in time; a machine that sleeps takes no time."""
    parts: list[bytes] = []
    while left > 0:
        began = time.monotonic()
        if select.select([reader], [], [], min(left, _LOOK))[0]:
            part = os.read(reader, 1 << 20)
            if not part:
                return b"".join(parts), True
            parts.append(part)
        left -= min(time.monotonic() - began, _LOOK)
    return b"", False


def _child(work: Callable[[], Any], writer: int) -> None:
    """Never returns: what the parent has open or registered is the parent's."""
    code = 1
    try:
        gc.freeze()  # what was imported is no garbage; looking through it would copy all of it, 0.4 s of a trial
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.set_num_threads(1)
        answer = pickle.dumps(_ended(work))
        while answer:
            answer = answer[os.write(writer, answer) :]
        code = 0
    finally:
        os._exit(code)


def _ended(work: Callable[[], Any]) -> Ended:
    try:
        return Ended("returned", work())
    except AcipError as error:
        return Ended("refused", told=str(error))
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "acip_core" in f.filename]
        at = f" at {Path(frames[-1].filename).name}, {frames[-1].name}" if frames else ""
        first = (str(error).strip().splitlines() or [""])[0]
        return Ended("raised", told=f"{type(error).__name__}: {first[:160]}{at}")
