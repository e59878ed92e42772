"""Long computations that continue where they were killed: every finished step's result is a file.

Knows nothing of what is computed. Gradient runs, whose state changes at every step, keep a `training.checkpoint` in the
folder of their run instead.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState

from ..paths import cache_dir
from ..progress import Steps
from .atomic import atomic_path, check_writable, read_unless_damaged
from .digests import cache_key
from .verified import read_json, read_tensors, save_tensors, write_json

T = TypeVar("T")
_WRITING = 20  # times as long as writing took it is not written again


class ResumableRun:
    """One run's work folder.

    Attributes:
        folder: None keeps nothing, so that every step is computed.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    @classmethod
    def of(cls, kind: str, name: str, *identity: object) -> ResumableRun:
        """A run in the user's cache whose results depend on `identity` and nothing else.

        Args:
            name: of the folder, for people; the key of the identity follows it.
        """
        return cls(cache_dir() / kind / f"{name}-{cache_key(*identity)}")

    def part(self, name: str, *identity: object) -> ResumableRun:
        """A run within this one, fixed by a further identity."""
        return ResumableRun(self.path(f"{name}-{cache_key(*identity)}"))

    def path(self, name: str) -> Path | None:
        """Path of a file of this run; None if nothing is kept."""
        return None if self.folder is None else self.folder / name

    def read(self, name: str, read: Callable[[Path], T]) -> T | None:
        """What an earlier, interrupted run wrote to a file; None if that is missing or damaged."""
        path = self.path(name)
        return None if path is None else read_unless_damaged(path, read)

    def write(self, name: str, content: T, write: Callable[[T, Path], object]) -> None:
        """Write a file of this run; of several processes (`accelerate launch`), whose results are equal, one does.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.path(name)
        if path is not None and PartialState().is_main_process:
            with atomic_path(path) as temporary:
                write(content, temporary)

    def step(
        self, name: str, make: Steps[T], read: Callable[[Path], T], write: Callable[[T, Path], object]
    ) -> Steps[T]:
        """The result of a step, read from its file if there is one, otherwise computed and written.

        Args:
            name: of its file.
            make: computes the result; not started where the file exists.

        Raises:
            StorageError: it cannot be written.
        """
        if (result := self.read(name, read)) is not None:
            return result
        result = yield from make
        self.write(name, result, write)
        return result

    def tensors(self, name: str, make: Steps[dict[str, torch.Tensor]]) -> Steps[dict[str, torch.Tensor]]:
        """A step whose result is tensors by name."""
        return self.step(f"{name}.safetensors", make, lambda path: read_tensors(path)[0], save_tensors)

    def number(self, name: str, make: Steps[float]) -> Steps[float]:
        """A step whose result is one number."""
        return self.step(
            f"{name}.json",
            make,
            lambda path: float(read_json(path)[name]),
            lambda value, path: write_json(path, {name: value}),
        )

    def check_writable(self) -> None:
        """Find out before the work whether results can be written.

        Raises:
            StorageError: they cannot.
        """
        if self.folder is not None:
            check_writable(self.folder)

    def remove(self) -> None:
        """Delete the work folder: the run is over."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class PartialStep:
    """Tensors that a step adds to, kept while it runs: after its first unit, then so rarely that it costs little.

    Args:
        run: one without a folder keeps nothing.
        name: of the file in it.
    """

    def __init__(self, run: ResumableRun, name: str):
        self.run, self.name = run, f"{name}.safetensors"
        self._due = 0.0

    def read(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Units that an interrupted run had done, and its tensors; 0 and none where there was no such run."""
        if (found := self.run.read(self.name, read_tensors)) is None:
            return 0, {}
        tensors, metadata = found
        return int(metadata["done"]), tensors

    def keep(self, done: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write them, unless that was done a short while ago.

        Raises:
            StorageError: they cannot be written.
        """
        begun = time.monotonic()
        if self.run.folder is None or begun < self._due:
            return
        self.run.write(self.name, tensors, lambda kept, path: save_tensors(kept, path, {"done": str(done)}))
        ended = time.monotonic()
        self._due = ended + _WRITING * (ended - begun)
