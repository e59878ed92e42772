"""All places on this machine: the cache, where artifacts are written and looked for, what comes with the package.

Knows folders only, nothing of what lies in them. `HF_HOME` and its like belong to the Hub's own library. A checkout has
`assets/` and `precomputed/` beside the package, a wheel within it (`setup.py`).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

log = logging.getLogger("acip")
_PACKAGE = Path(__file__).resolve().parent
_ROOT = _PACKAGE.parent  # of a checkout; site-packages where the package is installed


def cache_dir() -> Path:
    """The user's cache folder (`ACIP_CACHE` or the platform's convention), absolute; not created here."""
    override = os.environ.get("ACIP_CACHE", "").strip()
    if not override:
        return _below_home(lambda: user_cache_path("acip"), "cache")
    path = os.path.expanduser(override)
    return _homeless("cache") if path.startswith("~") else Path(os.path.abspath(path))


def assets_dir() -> Path:
    """What the page is made of besides Python: scripts, styles, pictures."""
    return _bundled("assets")


def artifacts_home() -> Path:
    """Where artifacts are written by default: beside the package in a checkout, else in the user's data folder."""
    bundled = _ROOT / "precomputed"
    folder = bundled if bundled.is_dir() else _ROOT
    if (_ROOT / "pyproject.toml").is_file() and os.access(folder, os.W_OK):
        return bundled
    return _data_home()


def artifact_homes() -> list[Path]:
    """Where artifacts are looked for by name, in this order: the working directory's, the user's, the package's."""
    try:
        here = [Path.cwd() / "precomputed"]
    except OSError:  # it was deleted
        here = []
    return list(dict.fromkeys([*here, artifacts_home(), _data_home(), _bundled("precomputed")]))


def local_path(name: str | Path) -> Path:
    """A path with `~` for the home folder; of a user who is not known it stays as it is written."""
    return Path(os.path.expanduser(name))


def exists_here(name: str | Path) -> bool:
    """Whether a file or folder of a name is on this machine; one that no path can have is not: too long, say."""
    return os.path.exists(local_path(name))


def _bundled(name: str) -> Path:
    """A folder that comes with the package."""
    within = _PACKAGE / name
    return within if within.is_dir() else _ROOT / name


def _data_home() -> Path:
    return _below_home(lambda: user_data_path("acip"), "data") / "precomputed"


def _below_home(place: Callable[[], Path], kind: str) -> Path:
    """The platform's folder of a kind, or one below the temporary folder where the user has no home to write to."""
    try:
        path = place()
    except (RuntimeError, KeyError, OSError):  # no HOME, and nobody of this user's number is known
        return _homeless(kind)
    if not path.is_absolute():  # `~` that stands for nothing
        return _homeless(kind)
    existing = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    return path if existing == path or os.access(existing, os.W_OK | os.X_OK) else _homeless(kind)


@lru_cache
def _homeless(kind: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"acip-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != user):  # somebody else's trap
        folder = Path(tempfile.mkdtemp(prefix="acip-"))
    log.warning(
        "There is no home folder to write to, so %s goes to %s, which may not last; "
        "set HOME, or ACIP_CACHE for the cache, to a folder of your own.", f"the {kind}", folder / kind,
    )  # fmt: skip
    return folder / kind
