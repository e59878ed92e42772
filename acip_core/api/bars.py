"""Progress of long work as bars on the error stream, where nobody draws it in another way."""

from __future__ import annotations

import time

from huggingface_hub.utils import tqdm

from ..progress import Progress

_PATIENCE = 2.0  # seconds that a stage may take without a bar


class Bars:
    """A bar for every stage that takes long, as transformers has them.

    `HF_HUB_DISABLE_PROGRESS_BARS=1` turns them off.
    """

    def __init__(self) -> None:
        self._stage, self._began = "", 0.0
        self._bar: tqdm | None = None

    def __call__(self, step: Progress) -> None:
        now = time.monotonic()
        if step.stage != self._stage:
            self._close()
            self._stage, self._began = step.stage, now
        if self._bar is None and now - self._began >= _PATIENCE and step.done < step.total:
            self._bar = tqdm(total=step.total, desc=step.stage)
        if self._bar is not None:
            self._bar.n = step.done
            self._bar.set_postfix_str(step.note)
            if step.done >= step.total:
                self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
