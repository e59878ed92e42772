"""Folders for what one process needs for a while: they go with it, however it ends."""

from __future__ import annotations

import weakref
from contextlib import ExitStack

from ..paths import cache_dir
from .atomic import locked_folder, reporting_write_errors


class ScratchFolder:
    """A folder that goes with this object; where its process was killed, when the next one is made beside it.

    Attributes:
        path: where it is.
        close: deletes it now.

    Args:
        name: of the folder in the cache that it is made in.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, name: str):
        parent = cache_dir() / name
        with ExitStack() as stack, reporting_write_errors(parent):
            self.path = stack.enter_context(locked_folder(parent / "scratch"))
            self.close = weakref.finalize(self, stack.pop_all().close)
