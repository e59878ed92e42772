"""Making codes while the page already runs: a thread that gives way to visitors, and what they are told of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..artifacts.loading import Loaded, install_coding
from ..errors import AcipError
from ..model.thread_pools import release_threads
from ..progress import Progress, Steps
from .names import without_places

_NICENESS = 10  # of the thread and what it starts: visitors' passes get the processor first
_PATIENCE = 5.0  # seconds that a page waits for the thread's step when it closes
_FEW = 3  # steps after which the rest can be foretold


class Preparation:
    """Codes of one model on their way.

    Attributes:
        state: "waiting", "running", "ready" or "failed"; "absent" where the artifact has no operating points or the
            model is quantized.
        finish: what is done with the codes before anybody is told that they are there.
    """

    finish: Callable[[], object] | None = None

    def __init__(self, loaded: Loaded, install: Callable[[Loaded], Steps[bool]] = install_coding):
        self.state = "absent" if loaded.coding is None or loaded.quantized is not None else "waiting"
        self._is_quantized = loaded.quantized is not None
        self._loaded: Loaded | None = loaded
        self._install = install
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._step, self._began, self._first, self._error = Progress("", 0, 0), 0.0, 0, ""

    def start(self) -> None:
        """Begin, where there is something to make and nobody has begun."""
        if self.state == "waiting" and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="codes", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End within a step and let go of the model."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
        self._loaded = None

    def run(self) -> None:
        """Make the codes on this thread."""
        loaded = self._loaded
        if loaded is None or self.state != "waiting":
            return
        self.state = "running"
        steps = self._install(loaded)
        try:
            made = self._made(steps)
            if made and self.finish is not None:
                self.finish()
            if made is not None:
                self.state = "ready" if made else "absent"
        except Exception as error:
            self._fail(error)
        finally:
            steps.close()
            release_threads()

    def _made(self, steps: Steps[bool]) -> bool | None:
        """Whether there are codes, once all steps are taken; None where the page closes before."""
        try:
            while not self._closing.is_set():
                step = next(steps)
                if step.stage != self._step.stage:  # it may begin where an earlier run ended
                    self._began, self._first = time.monotonic(), step.done
                self._step = step
        except StopIteration as stop:
            return bool(stop.value)
        return None

    def _run(self) -> None:
        with suppress(AttributeError, OSError):  # where threads have no niceness of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self.run()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, AcipError):
            logging.getLogger(__name__).error("The codes could not be made.", exc_info=error)
        known = isinstance(error, AcipError)
        self._error = without_places(str(error)) if known else "The server's log says what went wrong."
        self.state = "failed"

    @property
    def told(self) -> str:
        """One sentence for visitors, empty once bits can be spent."""
        match self.state:
            case "ready":
                return ""
            case "absent" if self._is_quantized:
                return "At this precision only directions can be spent."
            case "absent":
                return "Of this model only directions can be spent; `python -m acip_core codes` adds sizes in bytes."
            case "failed":
                return f"Bits cannot be spent. {self._error}"
        step = self._step
        if not step.total:
            return "Bits can be spent soon; until then the slider spends directions."
        left = f" in about {self._left(step)}" if step.done - self._first >= _FEW else " soon"
        return f"Bits can be spent{left} ({step.stage}, {step.done} of {step.total}); until then, directions."

    def _left(self, step: Progress) -> str:
        passed = time.monotonic() - self._began
        seconds = passed / (step.done - self._first) * (step.total - step.done)
        return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
