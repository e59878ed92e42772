"""Folders for what one process needs for a while: they go with it, however it ends."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path

from .atomic import locked_folder, reporting_write_errors


class ScratchFolder:
    """A folder that goes with this object; where its process was killed, when the next one is made beside it.

    Attributes:
        path: where it is.
        close: deletes it now.

    Args:
        parent: in which it is made.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, parent: Path):
        with ExitStack() as stack, reporting_write_errors(parent):
            self.path = stack.enter_context(locked_folder(parent / "scratch"))
            self.close = weakref.finalize(self, stack.pop_all().close)
