"""Where derived files live on this machine, and how they are written so that none is ever half there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_cache_path
from safetensors import SafetensorError

from .errors import StorageError

T = TypeVar("T")
log = logging.getLogger("acip")


def cache_dir() -> Path:
    """The user's cache folder (`ACIP_CACHE` or the platform's convention); not created here."""
    override = os.environ.get("ACIP_CACHE")
    return Path(override).expanduser() if override else user_cache_path("acip")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it on success and vanishes on failure.

    The block may create a file or a folder there. Readers see the old content or the new, never a part.

    Raises:
        StorageError: the folder cannot be created or written, or the disk is full; the old content is still there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            temporary = holder / target.name
            yield temporary
            _open_to_readers(temporary, holder / "probe")
            _replace(target, temporary, holder / "replaced")
        finally:
            shutil.rmtree(holder, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in a class of its own
        way = "set ACIP_CACHE to another folder" if target.is_relative_to(cache_dir()) else "choose another folder"
        raise StorageError(f"Cannot write {target} ({error}); free space or {way}.") from error


def _open_to_readers(path: Path, probe: Path) -> None:
    """Give files the permissions of any new file: safetensors writes them for their owner alone."""
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


def _replace(target: Path, new: Path, aside: Path) -> None:
    """Put `new` in place of `target`; a folder cannot be replaced in one move, so the old one is moved aside first."""
    if not target.is_dir():
        os.replace(new, target)
        return
    try:
        os.replace(target, aside)
        os.replace(new, target)
    except BaseException:
        if aside.exists() and not target.exists():
            os.replace(aside, target)
        raise


def read_kept(path: Path, read: Callable[[Path], T]) -> T | None:
    """What an interrupted run left in a file, or None: a damaged file is made again, not trusted."""
    if not path.exists():
        return None
    try:
        return read(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("The file %s is damaged (%s); making it again.", path, error)
        return None


_DIGESTS = "digests.json"


def write_digests(folder: Path) -> None:
    """Write `digests.json`, the SHA-256 of every file in a folder by name."""
    (folder / _DIGESTS).write_text(json.dumps(_digests(folder), indent=1), encoding="utf-8")


def check_digests(folder: Path) -> None:
    """Compare a folder's files with its `digests.json`.

    Raises:
        ValueError: there is none, or a file is missing, added or differs; the message names the first.
    """
    try:
        kept = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"no readable {_DIGESTS}: {type(error).__name__}") from None
    found = _digests(folder)
    if not isinstance(kept, dict) or kept != found:
        names = sorted(
            name for name in {*kept, *found} if not isinstance(kept, dict) or kept.get(name) != found.get(name)
        )
        raise ValueError(f"{names[0] if names else _DIGESTS} is not as it was written")


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS):
        with file.open("rb") as stream:
            digests[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def remove_leftovers(folder: Path) -> None:
    """Delete what writers killed half-way left in `folder` (hidden temporaries older than a day)."""
    for leftover in folder.glob(".*.*"):
        with suppress(OSError):  # another process may be doing the same
            if leftover.is_dir() and time.time() - leftover.stat().st_mtime > 86_400:
                shutil.rmtree(leftover, ignore_errors=True)


def agrees(kept: Any, wanted: Any, default: Any = None) -> bool:
    """Whether settings read from a JSON file are the wanted ones.

    Args:
        default: values of settings that did not exist yet when the file was written.
    """
    if not (isinstance(kept, dict) and isinstance(wanted, dict)):
        return bool(kept == wanted)
    standard = default if isinstance(default, dict) else {}
    return all(agrees(kept.get(key, standard.get(key)), value, standard.get(key)) for key, value in wanted.items())
