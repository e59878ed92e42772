"""File operations of a process, counted by Python's audit events, and a SIGKILL before the n-th."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

_CHANGES = frozenset(
    ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate")
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watch(root: Path, kill_at: int | None = None) -> list[str]:
    """Count every change below `root` from now on; the process kills itself before the `kill_at`-th.

    Returns:
        Names of the operations, filled while they happen.
    """
    operations: list[str] = []

    def happens(name: str) -> None:
        operations.append(name)
        if len(operations) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and _inside(path, root):
                happens("open")
        elif event in _CHANGES and (arguments[-1] not in (-1, None) or _inside(arguments[0], root)):
            happens(event)  # names relative to an open folder, as rmtree gives them, count always

    sys.addaudithook(heard)
    os.fsync = _before(os.fsync, lambda: happens("fsync"))  # these two tell nobody
    safetensors.torch.serialize_file = _before(safetensors.torch.serialize_file, lambda: happens("save"))
    return operations


def _inside(path: Any, root: Path) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(str(root))


def _before(function: Callable[..., Any], told: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        told()
        return function(*arguments, **options)

    return wrapped
