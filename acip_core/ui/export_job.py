"""Writing the model at a size as a ZIP file that the visitor then fetches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..model.size_planner import BOTH, DIRECTIONS
from .downloads import File
from .job import Job
from .messages import Message
from .model_service import ModelService
from .snippets import loading_code
from .visitors import Run


class ExportJob(Job):
    """A file of the model at one size; the last message has its address, relative to the page."""

    kind = "export"
    failed = "Not exported"

    def __init__(self, model: ModelService, percent: Any, mode: Any = ""):
        super().__init__()
        self._model, self._asked = model, (percent, mode)

    def check(self) -> None:
        self.take_size(self._model, *self._asked)
        size, spent = f"{self.percent}", self.track.mode
        if spent != DIRECTIONS:
            size = f"{self.plan.bytes / 1e6:.3g}MB" + (f"-{spent}" if spent != BOTH else "")
        self.name = f"{self._model.file_name}-at-{size}{self._model.precision}"
        self.common.update(name=self.name, address="", bytes=0, done=0.0)

    def messages(self, run: Run) -> Iterator[Message]:
        named, plan = self.track.named(self.percent), self.plan
        yield {"state": "running", "status": f"Exporting {named} …"}
        for step in self._model.downloads.write(plan, self.name, run.cancel):
            if isinstance(step, File):
                size = step.path.stat().st_size
                status = f"{named} is ready, {size / 1e6:.0f} MB. It is kept for ten minutes."
                code = loading_code(self.name, plan.bytes < plan.base_bytes)
                done = {"state": "done", "status": status, "code": code, "done": 1.0}
                yield done | {"address": step.address, "bytes": size}
            else:
                yield {"state": "running", "status": f"Exporting {named}: {step:.0%}", "done": step}
        if run.cancel.is_set():
            yield {"state": "stopped", "status": f"Stopped exporting {named}; nothing is left of it."}
