"""Atomic writes: a file or folder is replaced as a whole or not at all, and leftovers of killed writers are removed.

A file is replaced by one rename, a folder by exchanging the two. Where a folder cannot be exchanged (a mount point, the
working directory, a parent or a file system that does not allow it), the new files are gathered inside it under a name
that says they are complete, then moved into place; after a kill, the next reader or writer finishes that.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import AcipError, StorageError
from ..paths import cache_dir, local_path
from .digests import file_digest
from .verified import DAMAGE, read_json

T = TypeVar("T")
log = logging.getLogger("acip")
DIGESTS = "digests.json"
_ENDING = ".acip-new"  # of folders in which something is written
_READY, _MOVING = ".acip-ready", ".acip-moving"  # complete files on their way into the folder around them
_SETTLED = 60  # seconds after which a folder of a living writer is surely locked
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `target` on success and vanishes on failure.

    The block may create a file or a folder there. Readers see the old content or the new, never a part. What a link to
    a folder points to is replaced, not the link.

    Raises:
        StorageError: the folder cannot be created or written, or the disk is full; the old content is still there.
    """
    with reporting_write_errors(target):
        place = _place(target)
        recover(place)
        with locked_folder(place) as holder:
            temporary = holder / (place.name or "new")
            yield temporary
            _open_to_readers(temporary, holder / ".probe")
            _flush(temporary)
            _put(temporary, place)
            _sync(place.parent)


def check_writable(target: Path) -> None:
    """Find out before the work whether `target` can be written; nothing is left behind.

    Raises:
        StorageError: it cannot.
    """
    with reporting_write_errors(target):
        place = _place(target)
        while not (os.path.lexists(place) or os.path.lexists(place.parent)):
            place = place.parent
        with locked_folder(place) as holder:
            (holder / ".probe").write_bytes(b"1")


@contextmanager
def reporting_write_errors(target: Path) -> Iterator[None]:
    """Turn whatever a failed write to `target` raises into a StorageError."""
    try:
        yield
    except Exception as error:
        # safetensors reports a full disk in a class of its own, tokenizers in none at all
        if isinstance(error, AcipError) or not (
            isinstance(error, OSError | SafetensorError) or "(os error " in str(error)
        ):
            raise
        way = "set ACIP_CACHE to another folder" if target.is_relative_to(cache_dir()) else "choose another folder"
        raise StorageError(f"Cannot write {target} ({error}); free space or {way}.") from error


def _place(target: Path) -> Path:
    path = Path(os.path.abspath(local_path(target)))
    return Path(os.path.realpath(path)) if path.is_symlink() and not path.is_file() else path


@contextmanager
def locked_folder(place: Path) -> Iterator[Path]:
    """A folder for what is being written, on the file system of `place`, locked while its writer lives."""
    inside = place.is_dir() and (os.path.ismount(place) or _is_working_directory(place))
    parent = place if inside else place.parent
    parent.mkdir(parents=True, exist_ok=True)
    try:
        holder = Path(tempfile.mkdtemp(_ENDING, f".{place.name[:60]}.", parent))
    except OSError as error:
        if inside or not place.is_dir() or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        parent = place  # a folder of the user's below one that is not
        holder = Path(tempfile.mkdtemp(_ENDING, ".", parent))
    lock = FileLock(holder / ".lock", timeout=0, thread_local=False)
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
        remove_leftovers(parent)
        yield holder
    finally:
        lock.release()
        shutil.rmtree(holder, ignore_errors=True)


def _is_working_directory(folder: Path) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Delete temporary folders of killed writers in `folder`: those that no living writer has locked."""
    for leftover in folder.glob(f".*{_ENDING}"):
        with suppress(OSError, Timeout, NotImplementedError):  # another process may be doing the same
            if time.time() - leftover.stat().st_mtime > _SETTLED:
                with FileLock(leftover / ".lock", timeout=0):
                    pass
                shutil.rmtree(leftover, ignore_errors=True)


def entries(folder: Path) -> list[str]:
    """Names of a folder's entries without temporary ones of running or killed writers; none if there is no folder."""
    recover(folder)
    if not os.path.isdir(folder):  # pathlib's raises where a name is too long
        return []
    return sorted(name for name in os.listdir(folder) if not name.endswith(_ENDING))


def _open_to_readers(path: Path, probe: Path) -> None:
    """Give files the permissions of any new file: safetensors writes them for their owner alone."""
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | mode)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk."""
    for inner in path.rglob("*") if path.is_dir() else ():
        _sync(inner)
    _sync(path)


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def _put(new: Path, place: Path) -> None:
    """Put `new` in place of whatever is at `place`; an old folder may take the place of `new`."""
    if not new.is_relative_to(place):
        try:
            os.replace(new, place)
            return
        except OSError:
            if not os.path.lexists(place) or not (new.is_dir() or place.is_dir()):
                raise
        if _exchange(new, place):
            return
    if new.is_dir() and place.is_dir():
        _move_into(place, new)
    else:  # a file in place of a folder, or the reverse
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        os.replace(new, place)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _move_into(folder: Path, new: Path) -> None:
    """Replace the files of a folder by those of `new`; renaming them to ready is the point of no return."""
    remove_leftovers(folder)
    try:
        if new.stat().st_dev != folder.stat().st_dev or not new.is_relative_to(folder):
            staged = Path(tempfile.mkdtemp(_ENDING, ".", folder)) / "new"
            new = Path(shutil.copytree(new, staged))  # the folder may be a mount point that looks like none
            _flush(new)
        os.rename(new, folder / _READY)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        recover(folder)  # of another process that does the same
        os.rename(new, folder / _READY)
    finally:
        if new.parent.parent == folder:
            shutil.rmtree(new.parent, ignore_errors=True)
    recover(folder)


def recover(folder: Path) -> None:
    """Finish an interrupted replacement of a folder's files, if there is one. Several processes may do so at once."""
    ready, moving = folder / _READY, folder / _MOVING
    with suppress(OSError):  # another process was faster; a folder that is only read
        if ready.is_dir():
            new = set(os.listdir(ready))
            for old in folder.iterdir():
                if old.name not in new and not old.name.startswith(".") and not old.is_dir():
                    old.unlink(missing_ok=True)
            os.rename(ready, moving)
    with suppress(OSError):
        for entry in sorted(moving.iterdir()) if moving.is_dir() else ():
            with suppress(FileNotFoundError):
                os.replace(entry, folder / entry.name)
        moving.rmdir()
        _sync(folder)


def read_unless_damaged(path: Path, read: Callable[[Path], T]) -> T | None:
    """What a file of an interrupted run holds; None if it is missing or damaged, so that it is made again."""
    if not os.path.lexists(path):
        return None
    try:
        return read(path)
    except DAMAGE as error:
        log.warning("The file %s is damaged (%s); making it again.", path, error)
        return None


def write_digests(folder: Path) -> None:
    """Write `digests.json`: the SHA-256 of every file in a folder by its name."""
    content = json.dumps(_digests(folder), indent=0)
    (folder / DIGESTS).write_text(content + "\n", encoding="utf-8")


def check_digests(folder: Path) -> None:
    """Check that a folder holds the files of its `digests.json`, unchanged, and no others.

    Raises:
        ValueError: the message names the first file that is missing, added or differs.
    """
    try:
        stated = read_json(folder / DIGESTS)
    except DAMAGE as error:
        raise ValueError(f"{DIGESTS} is missing or damaged ({error})") from error
    try:
        found = _digests(folder)
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from error
    if not isinstance(stated, dict):
        raise ValueError(f"{DIGESTS} is damaged")
    for name in sorted(stated.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if name not in stated:
            raise ValueError(f"{name} was added")
        if stated[name] != found[name]:
            raise ValueError(f"{name} differs from what was written")


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() and path != folder / DIGESTS)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def same_settings(found: Any, wanted: Any, default: Any = None) -> bool:
    """Whether settings read from a JSON file are the wanted ones.

    Args:
        default: values of settings that did not exist yet when the file was written.
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return bool(found == wanted)
    standard = default if isinstance(default, dict) else {}
    return all(
        same_settings(found.get(key, standard.get(key)), value, standard.get(key)) for key, value in wanted.items()
    )
