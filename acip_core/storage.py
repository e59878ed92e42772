"""Where derived files live on this machine, and how they are written so that none is ever half there."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

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
        OSError: the folder cannot be created or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary = holder / target.name
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers killed half-way left in `folder` (hidden temporaries older than a day)."""
    import time

    for leftover in folder.glob(".*.*"):
        if leftover.is_dir() and time.time() - leftover.stat().st_mtime > 86_400:
            shutil.rmtree(leftover, ignore_errors=True)
