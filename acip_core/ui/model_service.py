"""The model that is open, and what its visitors share: the engine that runs it, known texts, files, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ..artifacts.loading import Loaded
from ..data.corpus import corpus_windows
from ..evaluation.curves import primary_curves
from ..evaluation.perplexity import WINDOW
from ..generation.engine import Engine
from ..generation.tokens import TokenSteps
from ..model.context import fitting_window
from ..model.tracks import Track
from .downloads import Downloads
from .galleries import Galleries
from .modes import Modes
from .requests import CompletionRequest
from .sweep import Texts
from .visitors import Run, Visitors

_KEPT_PROMPTS = 1024  # tokens, of 46 KB each for the default model
MEASURED_WINDOWS = 16  # per corpus, as many as the measured curve at least has


class ModelService:
    """One open model.

    Attributes:
        file_name: of its exports, without the size.
        corpora: that perplexity is measured on.
        window: tokens of a held-out window.
        windows: held-out windows of a corpus, token ids (windows, tokens).
        modes: what may be spent, and the slider in each.
    """

    def __init__(self, loaded: Loaded):
        self.engine = Engine(loaded.elastic, _KEPT_PROMPTS)
        self.downloads = Downloads(loaded)
        self.modes = Modes(loaded)
        self.galleries = Galleries(loaded, self.modes.track)
        self.visitors = Visitors()
        self.file_name = loaded.elastic.base.name
        self.precision = f"-{loaded.quantized.precision.name}" if loaded.quantized else ""
        self.corpora = [curve.corpus for curve in primary_curves(loaded.artifact.curves)] or ["c4", "wikipedia"]
        self.texts = Texts(loaded.completions)
        self.window = fitting_window(loaded.elastic.model, WINDOW)
        self.windows: Callable[[str], torch.Tensor] = lru_cache(maxsize=None)(self._read_windows)

    def side_by_side(
        self, request: CompletionRequest, track: Track, sizes: Sequence[float], run: Run, judge: bool = False
    ) -> TokenSteps:
        """Completions of one prompt at several sizes of a track, in percent; other arguments as `Engine.compare`."""
        plans = [track.plan_at(size)[1] for size in sizes]
        return self.engine.compare(request.prompt, plans, request.sampling, run.cancel, request.chat, judge)

    def close(self) -> None:
        """Stop all runs and let go of the model, whoever still refers to this object."""
        self.visitors.leave_all()
        self.modes.close()
        self.downloads.close()
        self.galleries.close()
        vars(self).clear()

    def _read_windows(self, corpus: str) -> torch.Tensor:
        return corpus_windows(self.engine.elastic.tokenizer, corpus, "held-out", self.window, MEASURED_WINDOWS)
