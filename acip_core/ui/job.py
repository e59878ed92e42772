"""What a visitor asks for, as one kind of object: checked first, then run message by message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ..model.tracks import Track
from .messages import Message
from .model_service import ModelService
from .requests import percent_of
from .visitors import Run

STARTING: Message = {"state": "running", "status": "starting"}


class Job:
    """One request; `handlers.Handlers` takes every job the same way: begin, check, run, finish.

    Attributes:
        kind: a visitor's newer job of a kind replaces the former one.
        failed: title of the notice when it fails.
        nothing: what a message says where there is no result.
        common: what all its messages say; filled in as soon as it is known.
        track: what the slider means in the mode of the request.
    """

    track: Track

    kind: ClassVar[str]
    failed: ClassVar[str] = "Not measured"
    nothing: ClassVar[Message] = {}

    def __init__(self) -> None:
        self.common: Message = {}

    def check(self) -> None:
        """Take the request's values apart.

        Raises:
            AcipError: one of them is of another kind or out of range.
        """

    def take_mode(self, model: ModelService, mode: Any) -> None:
        """Set the track by what may be spent.

        Raises:
            GenerationError: there is no such mode, or the model does not have it.
        """
        self.track = model.modes.track(mode)
        self.common["mode"] = self.track.mode

    def take_size(self, model: ModelService, percent: Any, mode: Any) -> None:
        """Set track, `percent` and `plan` by the slider's position.

        Raises:
            GenerationError: as `take_mode`, or `percent` is no number.
        """
        self.take_mode(model, mode)
        self.percent, self.plan = self.track.plan_at(percent_of(percent))
        self.common["percent"] = self.percent

    def messages(self, run: Run) -> Iterator[Message]:
        """Run it, message by message.

        Raises:
            AcipError: one sentence for the visitor.
        """
        raise NotImplementedError
