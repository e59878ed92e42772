"""What a visitor asks for, as one kind of object: checked first, then run message by message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from .messages import Message
from .visitors import Run

STARTING: Message = {"state": "running", "status": "starting"}


class Job:
    """One request; `handlers.Handlers` takes every job the same way: begin, check, run, finish.

    Attributes:
        kind: a visitor's newer job of a kind replaces the former one.
        failed: title of the notice when it fails.
        nothing: what a message says where there is no result.
        common: what all its messages say; filled in as soon as it is known.
    """

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

    def messages(self, run: Run) -> Iterator[Message]:
        """Run it, message by message.

        Raises:
            AcipError: one sentence for the visitor.
        """
        raise NotImplementedError
