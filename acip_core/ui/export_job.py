"""Writing the model at a size as a ZIP file that the visitor then fetches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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

    def __init__(self, model: ModelService, percent: Any):
        super().__init__()
        self._model, self._asked = model, percent

    def check(self) -> None:
        self.percent, self.plan = self._model.plan(self._asked)
        self.name = f"{self._model.file_name}-at-{self.percent}{self._model.precision}"
        self.common.update(percent=self.percent, name=self.name, address="", bytes=0, done=0.0)

    def messages(self, run: Run) -> Iterator[Message]:
        percent, plan = self.percent, self.plan
        yield {"state": "running", "status": f"Exporting {percent} % …"}
        for step in self._model.downloads.write(plan, self.name, run.cancel):
            if isinstance(step, File):
                size = step.path.stat().st_size
                status = f"{percent} % is ready, {size / 1e6:.0f} MB. It is kept for ten minutes."
                code = loading_code(self.name, plan.bytes < plan.base_bytes)
                done = {"state": "done", "status": status, "code": code, "done": 1.0}
                yield done | {"address": step.address, "bytes": size}
            else:
                yield {"state": "running", "status": f"Exporting {percent} %: {step:.0%}", "done": step}
        if run.cancel.is_set():
            yield {"state": "stopped", "status": f"Stopped exporting {percent} %; nothing is left of it."}
