"""OpenMP's threads, of which only one pool at a time waits for work without falling asleep.

Every thread that computes has a pool of its own, one thread for each core. Once a process has more pool threads than
cores, GNU's OpenMP sends them to sleep as soon as they wait, and waking them takes as long as a product of one token
with a weight: a model decodes at half its speed for as long as some other thread has ever computed on all cores
(benchmarks/LOG.md). So whoever has computed gives its pool back, and what is small is computed without one.

Where OpenMP is another's, nothing happens here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
_SOFT = 1  # `omp_pause_soft`: threads end, settings stay


def release_threads() -> None:
    """End the pool of the calling thread; its next product on all cores makes a new one."""
    if (library := _gnu_openmp()) is not None:
        library.omp_pause_resource_all(_SOFT)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, the calling thread computes by itself; all others as before."""
    before = torch.get_num_threads()  # of this thread, which counts from the first time it is asked for
    library = _gnu_openmp()
    if library is None or before == 1:
        yield
        return
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)


def on_one_thread(steps: Iterator[T]) -> Iterator[T]:
    """The same steps, what each thread that asks for one computes for it computed by itself."""
    try:
        while True:
            with one_thread():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step
    finally:
        if isinstance(steps, Generator):
            steps.close()


@lru_cache(1)
def _gnu_openmp() -> ctypes.CDLL | None:
    """The library that PyTorch has loaded, if it can do both."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "omp_pause_resource_all"):
            return library
    return None
