"""`decode_step.c` as this machine's own compiler makes it: once for each processor, kept in the cache folder.

Where there is no compiler, or it makes nothing that can be loaded, there is no native code, and nothing else changes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from ..paths import cache_dir
from ..storage.digests import cache_key

log = logging.getLogger("acip")
_SOURCE = Path(__file__).with_name("decode_step.c")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-ffp-contract=off", "-std=gnu11", "-fPIC")
_TIMEOUT = 120  # seconds


@lru_cache(1)
def native_code() -> ctypes.CDLL | None:
    """The library, None where this machine has none or `ACIP_NATIVE` is 0; compiling it takes a second or two."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or os.environ.get("ACIP_NATIVE", "").strip() == "0":
        return None
    folder, key = cache_dir() / "native", _key(compiler)
    try:
        path = _intact(folder, key)
        if path is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = _compile(compiler, folder, key)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("Texts are written without native code, which is slower: %s", error)
        return None


def _intact(folder: Path, key: str) -> Path | None:
    """The library of a key that is what was made: its name ends in its digest."""
    return next(
        (path for path in folder.glob(f"{key}-*.so") if path.stem == f"{key}-{_digest(path.read_bytes())}"), None
    )


def _compile(compiler: str, folder: Path, key: str) -> Path:
    """The library in its place, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        compiled, linked = Path(work) / "step.o", Path(work) / "step.so"
        # Linked without OpenMP's library, for it must be the one that PyTorch has loaded: each has threads of its own.
        _run(compiler, *_FLAGS, "-fopenmp", "-c", str(_SOURCE), "-o", str(compiled))
        _run(compiler, "-shared", str(compiled), "-o", str(linked))
        path = folder / f"{key}-{_digest(linked.read_bytes())}.so"
        os.replace(linked, path)
    return path


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT)
    if done.returncode:
        raise OSError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


def _key(compiler: str) -> str:
    """Of source, compiler and processor: a cache folder may be another machine's."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    known = (_SOURCE.read_text(encoding="utf-8"), *_FLAGS, os.path.realpath(compiler), platform.machine(), processor)
    return _digest("\0".join(known).encode())


def _digest(data: bytes) -> str:
    return cache_key(data, length=32)
