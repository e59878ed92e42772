"""One process at a time: locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from accelerate import PartialState
from filelock import FileLock, Timeout

from ..errors import StorageError
from ..paths import cache_dir
from ..progress import Progress, Steps
from .digests import cache_key

_PATIENCE = 0.5  # seconds between two looks at a lock


def _lock(target: Path) -> FileLock:
    """A lock that is held, in the user's cache, for `target` may be anywhere.

    Raises:
        Timeout: somebody else holds it.
        StorageError: it cannot be made.
    """
    path = cache_dir() / "locks" / f"{cache_key(os.path.realpath(target), length=16)}.lock"
    lock = FileLock(path, timeout=0, thread_local=False)  # a generator may end on another thread than it began on
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        raise StorageError(f"Cannot write {path} ({error}); free space or set ACIP_CACHE to another folder.") from error
    return lock


@contextmanager
def only_run(target: Path) -> Iterator[None]:
    """Keep a second run from writing the same artifact; processes of one `accelerate launch` are one run.

    Raises:
        StorageError: another run is writing it, or the lock cannot be made.
    """
    if not PartialState().is_main_process:
        yield
        return
    try:
        lock = _lock(target)
    except Timeout:
        raise StorageError(f"Another run is writing {target}; wait for it, stop it, or name another folder.") from None
    with _released(lock):
        yield


def turn(target: Path, waiting: Callable[[], Progress]) -> Steps[AbstractContextManager[bool]]:
    """Wait until nobody else makes `target`, a part of the cache.

    Args:
        waiting: what is said meanwhile.

    Returns:
        Nobody else makes it within this; whether there was a wait, so that it may be there by now. Where there can be
        no lock, two may make the same.
    """
    waited = False
    while True:
        try:
            return _released(_lock(target), waited)
        except (StorageError, NotImplementedError):  # a cache that cannot be written, a file system without locks
            return nullcontext(waited)
        except Timeout:
            waited = True
            yield waiting()
            time.sleep(_PATIENCE)


@contextmanager
def _released(lock: FileLock, waited: bool = False) -> Iterator[bool]:
    try:
        yield waited
    finally:
        lock.release()
