"""What visitors are shown of the server's files: names, never places. Knows nothing of gradio."""

from __future__ import annotations

import os
import re

from ..model.base_model import BaseModel
from ..paths import exists_here, local_path

# What ends a GGUF file's name: the kind of its blocks.
_BLOCKS = re.compile(r"([.-](I?Q\d\w*|B?F16|F32))?(\.gguf)?$", re.IGNORECASE)
# A path of at least two parts that begins at the root or at home; a part ends at white space, quotes and brackets.
_PART = r"""[^\s/\\"'“”‘’`<>()\[\],;]"""
_PLACE = re.compile(rf"(?<![\w:/.~])(?:~|[A-Za-z]:)?[/\\](?:{_PART}+[/\\])+({_PART}*)")


def shown_name(source: str) -> str:
    """What a model is called: its name on the Hub, or the last part of a local path."""
    path = local_path(source)
    local = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or exists_here(path)
    return (os.path.basename(os.path.abspath(path)) or source) if local else source


def known_name(base: BaseModel) -> str:
    """What people call a model: that of a GGUF file is its name without the kind of its blocks."""
    name = shown_name(base.source)
    return (_BLOCKS.sub("", name, count=1) or name) if base.file is not None else name


def without_places(text: str, *known: str | None) -> str:
    """A sentence in which only the last part of each local path is left.

    Args:
        known: paths that may hold spaces.
    """
    for place in sorted(filter(None, known), key=len, reverse=True):
        if shown_name(place) != place:
            text = text.replace(place, shown_name(place))
    return _PLACE.sub(lambda found: found[1] or "…", text)
