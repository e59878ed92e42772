"""Models that visitors take with them: one ZIP file each, kept a few minutes under an address nobody can guess."""

from __future__ import annotations

import secrets
import shutil
import threading
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
from ..storage.scratch import ScratchFolder

ROUTE = "acip/model"
_KEPT_SECONDS = 600
_SPARE = 1_000_000_000  # bytes of the disk that stay free
_PATIENCE = 10  # seconds; a visitor's former export stops within one file
_BLOCK = 8_000_000  # bytes copied at a time
_GONE = "This file is no longer kept; export the model again."


@dataclass(frozen=True)
class File:
    """A ZIP file ready to be fetched."""

    token: str
    path: Path

    @property
    def address(self) -> str:
        """Relative to the page."""
        return f"{ROUTE}/{self.token}/{self.path.name}"


class Downloads:
    """All files that can be fetched; one is written at a time."""

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self._folder: ScratchFolder | None = None
        self._files: dict[str, File] = {}
        self._writing = threading.Lock()

    def close(self) -> None:
        """Delete all files and let go of the model."""
        if self._folder is not None:
            self._folder.close()
        del self._loaded

    def write(self, plan: Plan, name: str, cancel: threading.Event) -> Iterator[float | File]:
        """Shares of the work done, then the file; nothing more once `cancel` is set, and nothing is left then.

        Raises:
            StorageError: another file is being written, nothing can be written, or the disk is full.
        """
        if not self._writing.acquire(timeout=_PATIENCE):
            raise StorageError("Somebody else's model is being written; try again in half a minute.")
        try:
            if self._folder is None:
                self._folder = ScratchFolder("models")
            self._make_room(self._folder.path, 2 * plan.base_bytes)  # its files, then the ZIP file beside them
            token = secrets.token_urlsafe(16)
            folder = self._folder.path / token
            try:
                yield from self._written(plan, folder, name, cancel)
                if cancel.is_set():
                    return
                self._files[token] = file = File(token, folder / f"{name}.zip")
                end = threading.Timer(_KEPT_SECONDS, self._forget, [token])
                end.daemon = True
                end.start()
                yield file
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

    def _make_room(self, folder: Path, needed: int) -> None:
        """Forget the oldest file while the disk has no room for as many bytes."""
        for token in list(self._files):
            if shutil.disk_usage(folder).free >= needed + _SPARE:
                return
            self._forget(token)

    def _forget(self, token: str) -> None:
        """Delete a file; a download that has begun goes on."""
        if file := self._files.pop(token, None):
            shutil.rmtree(file.path.parent, ignore_errors=True)
