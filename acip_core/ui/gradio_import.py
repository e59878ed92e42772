"""Gradio, without what this page has no use for: the modules of this room take it from here.

For each of its 81 components Gradio parses the source anew and writes an interface file for editors beside it, at every
import: 0.75 of 1.75 s. It leaves out a class that has no file, which is what its classes say of themselves meanwhile.
Around every message it looks for matplotlib twice, on all paths where there is none: a seventh of a message's time.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

_file_of = inspect.getfile


def _no_file_of_gradio(thing: Any) -> str:
    if str(getattr(thing, "__module__", "")).startswith("gradio."):
        raise OSError("no interface file is wanted")
    return _file_of(thing)


with patch.object(inspect, "getfile", _no_file_of_gradio):
    import gradio as gr
    from gradio import utils
    from gradio.events import Dependency
    from gradio.queueing import Queue
    from gradio.utils import LRUCache

utils.MatplotlibBackendMananger = nullcontext  # type: ignore[assignment, misc]

__all__ = ["Dependency", "LRUCache", "Queue", "gr"]
