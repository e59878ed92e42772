"""Models that visitors take with them: one ZIP file each, kept a few minutes under an address nobody can guess."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from ..artifacts.export import export
from ..artifacts.loading import Loaded
from ..errors import StorageError
from ..model.size_planner import Plan

ROUTE = "acip/model"
_KEPT_SECONDS = 600
_MOST_FILES = 3
_PATIENCE = 10  # seconds; a visitor's former export stops within one file
_BLOCK = 8_000_000  # bytes copied at a time
_GONE = "This file is no longer kept; export the model again."


@dataclass(frozen=True)
class File:
    """A ZIP file ready to be fetched."""

    token: str
    path: Path
    made: float

    @property
    def address(self) -> str:
        """Relative to the page."""
        return f"{ROUTE}/{self.token}/{self.path.name}"


class Downloads:
    """All files that can be fetched; one is written at a time."""

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self._folder = tempfile.TemporaryDirectory(prefix="acip-models-")
        self._files: dict[str, File] = {}
        self._writing = threading.Lock()

    def close(self) -> None:
        """Delete all files and let go of the model."""
        self._folder.cleanup()
        del self._loaded

    def write(self, plan: Plan, name: str, cancel: threading.Event) -> Iterator[float | File]:
        """Shares of the work done, then the file; nothing more once `cancel` is set, and nothing is left then.

        Raises:
            StorageError: another file is being written, or the disk is full.
        """
        if not self._writing.acquire(timeout=_PATIENCE):
            raise StorageError("Somebody else's model is being written; try again in half a minute.")
        try:
            self._forget()
            token = secrets.token_urlsafe(16)
            folder = Path(self._folder.name) / token
            try:
                yield from self._written(plan, folder, name, cancel)
                if cancel.is_set():
                    return
                self._files[token] = File(token, folder / f"{name}.zip", time.monotonic())
                yield self._files[token]
            except OSError as error:
                raise StorageError(
                    f"The model cannot be written on the server ({error}); try a smaller size."
                ) from error
            finally:
                if token not in self._files:
                    shutil.rmtree(folder, ignore_errors=True)
        finally:
            self._writing.release()

    def _written(self, plan: Plan, folder: Path, name: str, cancel: threading.Event) -> Iterator[float]:
        yield 0.0
        loaded = self._loaded
        for step in export(loaded.elastic, loaded.artifact, plan, folder / name, quantized=loaded.quantized):
            yield 0.5 * step.done / step.total
            if cancel.is_set():
                return
        files = sorted(path for path in (folder / name).iterdir() if path.is_file())
        total, done = sum(path.stat().st_size for path in files), 0
        with zipfile.ZipFile(folder / f"{name}.zip", "w", allowZip64=True) as archive:  # weights do not compress
            for path in files:
                with path.open("rb") as source, archive.open(f"{name}/{path.name}", "w", force_zip64=True) as target:
                    while block := source.read(_BLOCK):
                        target.write(block)
                        done += len(block)
                        yield 0.5 + 0.5 * done / total
                        if cancel.is_set():
                            return
        shutil.rmtree(folder / name)

    def fetch(self, request: Request) -> Response:
        """What the address of a file answers."""
        file = self._files.get(request.path_params["token"])
        if file is None or not file.path.is_file():
            return PlainTextResponse(_GONE, 404)
        return FileResponse(file.path, media_type="application/zip", filename=file.path.name)

    def _forget(self) -> None:
        """Delete what is old, and the oldest when there are many; a download that has begun goes on."""
        oldest = sorted(self._files.values(), key=lambda file: file.made)
        for i, file in enumerate(oldest):
            if time.monotonic() - file.made > _KEPT_SECONDS or len(oldest) - i >= _MOST_FILES:
                del self._files[file.token]
                shutil.rmtree(file.path.parent, ignore_errors=True)
