"""Command lines of the release before, which work for one release: verbs that were renamed, the model as an option."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_RENAMED = {
    "complete": ("examples",),
    "quantize": ("measure", "precision"),
    "evaluate": ("measure", "tasks"),
    "compare": ("measure", "methods"),
    "ablate": ("measure", "ablations"),
}
_NAMED_ITS_MODEL = ("precompute", "report", "prepare", "complete", "compare", "ablate", "app")  # by --model


def current_form(arguments: Sequence[str]) -> tuple[list[str], str]:
    """A command line as it is written now, and a sentence that says so where that is another one."""
    if not arguments:
        return [], ""
    verb, *rest = arguments
    models: list[str] = []
    if verb in _NAMED_ITS_MODEL:
        rest, models = _without_model(rest)
    now = [*_RENAMED.get(verb, (verb,)), *models, *rest]
    if now == list(arguments):
        return now, ""
    return now, f"This is written `{shlex.join(['acip', *now])}` now; the old form works for one release."


def _without_model(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--model NAME` and `--model=NAME`, and the names."""
    rest, models, left = [], [], iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name == "--model" and (equals or (value := next(left, ""))):
            models.append(value)
        else:
            rest.append(argument)
    return rest, models
