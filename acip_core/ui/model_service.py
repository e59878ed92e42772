"""The model that is open, and what its visitors share: the engine that runs it, known texts, files, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from ..artifacts.loading import Loaded
from ..data.corpus import corpus_windows
from ..evaluation.curves import primary_curves
from ..evaluation.perplexity import WINDOW
from ..figures.size_table import plan_at, smallest_percent
from ..generation.engine import Engine
from ..generation.tokens import TokenSteps
from ..model.context import fitting_window
from ..model.size_planner import Plan
from .downloads import Downloads
from .galleries import Galleries
from .requests import CompletionRequest, percent_of
from .sweep import Texts
from .visitors import Run, Visitors

MEASURED_WINDOWS = 16  # per corpus, as many as the measured curve at least has


class ModelService:
    """One open model.

    Attributes:
        file_name: of its exports, without the size.
        corpora: that perplexity is measured on.
        window: tokens of a held-out window.
        windows: held-out windows of a corpus, token ids (windows, tokens).
        smallest: lower end of the slider, in percent.
    """

    def __init__(self, loaded: Loaded):
        self.engine = Engine(loaded.elastic)
        self.downloads = Downloads(loaded)
        self.galleries = Galleries(loaded)
        self.visitors = Visitors()
        self.planner = loaded.elastic.planner
        self.file_name = loaded.elastic.base.name
        self.precision = f"-{loaded.quantized.precision.name}" if loaded.quantized else ""
        self.corpora = [curve.corpus for curve in primary_curves(loaded.artifact.curves)] or ["c4", "wikipedia"]
        self.texts = Texts(loaded.completions)
        self.smallest = smallest_percent(self.planner)
        self.window = fitting_window(loaded.elastic.model, WINDOW)
        self.windows: Callable[[str], torch.Tensor] = lru_cache(maxsize=None)(self._read_windows)

    def plan(self, percent: Any) -> tuple[int, Plan]:
        """The slider position that a request means, and its plan.

        Raises:
            GenerationError: `percent` is no number.
        """
        return plan_at(self.planner, percent_of(percent))

    def side_by_side(
        self, request: CompletionRequest, sizes: Sequence[int], run: Run, judge: bool = False
    ) -> TokenSteps:
        """Completions of one prompt at several sizes in percent; other arguments as `Engine.compare`."""
        plans = [plan_at(self.planner, size)[1] for size in sizes]
        return self.engine.compare(request.prompt, plans, request.sampling, run.cancel, request.chat, judge)

    def close(self) -> None:
        """Stop all runs and let go of the model, whoever still refers to this object."""
        self.visitors.leave_all()
        self.downloads.close()
        self.galleries.close()
        vars(self).clear()

    def _read_windows(self, corpus: str) -> torch.Tensor:
        return corpus_windows(self.engine.elastic.tokenizer, corpus, "held-out", self.window, MEASURED_WINDOWS)
