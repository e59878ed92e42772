"""Which models visitors can switch to, and which of them somebody asked for."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from ..errors import AcipError
from ..model.base_model import DEFAULT_MODEL
from ..model.quantization import FULL
from ..paths import artifact_homes
from ..storage.verified import DAMAGE, read_json
from .names import shown_name

_MOST_SWITCHES, _WITHIN = 5, 300.0  # switches within so many seconds: each one interrupts everybody


class ModelChoiceError(AcipError):
    """The models that were named cannot be offered together, or the one that was asked for cannot be had now."""


@dataclass(frozen=True)
class ModelChoice:
    """A model to open.

    Attributes:
        title: what visitors choose it by; says nothing of where a local one lies.
        model, artifact, precision: as `loading.open_model`.
    """

    title: str
    model: str
    artifact: str | None = None
    precision: str = FULL


class ModelChoices:
    """The models that a page can show, of which one is open at a time.

    Attributes:
        models: the first is the one to open first.
    """

    def __init__(self, models: Sequence[ModelChoice]):
        self.models = tuple(models)
        self._asked: queue.SimpleQueue[ModelChoice] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._switched: deque[float] = deque(maxlen=_MOST_SWITCHES)  # when, on the monotonic clock
        self._current: ModelChoice | None = None

    def ask(self, title: str) -> None:
        """Ask for a model; the one that is open changes nothing.

        Raises:
            ModelChoiceError: it is not offered, or the page was switched too often.
        """
        wanted = next((choice for choice in self.models if choice.title == title), None)
        if wanted is None:
            raise ModelChoiceError("This page does not offer that model.")
        with self._guard:
            if wanted == self._current:
                return
            now = time.monotonic()
            if len(self._switched) == _MOST_SWITCHES and now - self._switched[0] < _WITHIN:
                left = int(_WITHIN - now + self._switched[0]) + 1
                raise ModelChoiceError(
                    f"This page was switched {_MOST_SWITCHES} times just now; try again in {left} seconds."
                )
            self._switched.append(now)
            self._asked.put(wanted)

    def open(self, choice: ModelChoice) -> None:
        """Set which model is open from now on, before anybody sees its page; what was asked for before is void."""
        with self._guard:
            self._current = choice
            while not self._asked.empty():
                self._asked.get()

    def wait(self) -> ModelChoice:
        """Wait until somebody asks for another model than the open one, and return it."""
        return self._asked.get()


def model_choices(
    models: Sequence[str], artifacts: Sequence[str] = (), precomputed: Path | None = None, precision: str = FULL
) -> ModelChoices:
    """The models named at start, or the default one, and those with an artifact in one of `paths.artifact_homes`.

    An artifact says where its model came from: those of a Hub id and of the default model can be opened again, those
    of a local file cannot and have to be named.

    Args:
        artifacts: of the named models, in their order; `precomputed/<model>` for those that are left.
        precision: of all of them.

    Raises:
        ModelChoiceError: there are more artifacts than models.
    """
    if len(artifacts) > max(1, len(models)):
        raise ModelChoiceError(f"{len(artifacts)} artifacts for {max(1, len(models))} models; name a model for each.")
    pairs = zip_longest(models or (DEFAULT_MODEL,), artifacts)
    choices = [ModelChoice(shown_name(model), model, artifact, precision) for model, artifact in pairs]
    homes = [precomputed] if precomputed is not None else artifact_homes()
    for description in [path for home in homes for path in sorted(home.glob("*/acip.json"))]:
        try:
            source = read_json(description)["source"]
        except DAMAGE:
            continue  # whoever opens it is told what is wrong with it
        model = DEFAULT_MODEL if description.parent.name == DEFAULT_MODEL else source
        if isinstance(model, str) and (model == DEFAULT_MODEL or model.count("/") == 1):
            choices.append(ModelChoice(model, model, precision=precision))
    unique = {choice.model: choice for choice in reversed(choices)}
    ordered = [unique[model] for model in dict.fromkeys(choice.model for choice in choices)]
    return ModelChoices(_with_distinct_titles(ordered))


def _with_distinct_titles(choices: Sequence[ModelChoice]) -> list[ModelChoice]:
    """The same choices; where several models have one name, theirs are numbered."""
    counts: dict[str, int] = {}
    distinct = []
    for choice in choices:
        counts[choice.title] = number = counts.get(choice.title, 0) + 1
        distinct.append(replace(choice, title=f"{choice.title} ({number})") if number > 1 else choice)
    return distinct
