"""One set of ablations: its settings, the model and the text that all rows share, the rows so far."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..artifacts.ablation_rows import FILE, PARTS_FILE, read_ablation, write_ablation
from ..artifacts.artifact import Artifact
from ..artifacts.knowledge import made_from
from ..data.corpus import corpus_windows
from ..data.framing import framing
from ..evaluation.perplexity import measure_perplexity
from ..model.base_model import BaseModel, load_base
from ..model.context import fitting_window
from ..model.elastic_model import ElasticModel
from ..model.second_moments import basis_values
from ..model.size_planner import DIRECTIONS
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..scoring.pruning_config import SMALL, PruningConfig
from ..storage.atomic import same_settings
from ..storage.digests import cache_key
from ..storage.resumable import ResumableRun
from ..training.adapters import AdapterConfig
from ..training.factors import FactorConfig

_UNUSED = {FILE: ("adapters", "factors"), PARTS_FILE: ("pruning",)}  # settings that rows of a file do not depend on


@dataclass(frozen=True)
class AblationConfig:
    """Settings that all rows share.

    Attributes:
        pruning: of the run that the others differ from.
        adapters: of the rows without a pruning run, trained on as many windows as adapters are after one.
        factors: likewise, in as many steps as these windows give.
        score_windows, held_out_windows: windows per corpus for scores and for results.
    """

    pruning: PruningConfig = field(default_factory=lambda: replace(SMALL, post_steps=60))
    adapters: AdapterConfig = field(default_factory=lambda: AdapterConfig(steps=60))
    factors: FactorConfig = field(default_factory=lambda: FactorConfig(steps=15, batch=4))
    ratios: tuple[float, ...] = (0.8, 0.6, 0.4)
    corpora: tuple[str, ...] = ("c4", "wikipedia")
    score_windows: int = 16
    held_out_windows: int = 8


class AblationRun:
    """One set of ablations: the model, the text, the rows so far.

    Args:
        file: that the rows are kept in.
    """

    def __init__(
        self, source: str | None, base: BaseModel, artifact: Artifact, folder: Path, settings: AblationConfig, file: str
    ):
        self.source, self.settings, self.folder, self.file = source, settings, folder, file
        targets = named_layers(base.model, artifact.scores)
        self.weights, self.shapes = targets.weight_copies(), targets.shapes
        self.basis, self.fingerprint = artifact.basis, artifact.fingerprint
        window, tokenizer = fitting_window(base.model, settings.pruning.window), base.tokenizer
        texts = [corpus_windows(tokenizer, c, "calibration", window) for c in settings.corpora]
        self.calibration = torch.cat(texts)
        self.score_windows = torch.cat([text[: settings.score_windows] for text in texts])
        self.held_out = [
            corpus_windows(tokenizer, c, "held-out", window, settings.held_out_windows) for c in settings.corpora
        ]
        # Between two runs a text's file may be edited, and the artifact made anew in another basis.
        shared = cache_key(self.calibration, *self.held_out, basis_values(artifact.basis))
        used = {name: value for name, value in asdict(settings).items() if name not in _UNUSED[file]}
        facts = used | {"fingerprint": artifact.fingerprint, "shared": shared}
        facts["framing"] = framing(tokenizer).described(tokenizer)
        self.facts = json.loads(json.dumps(facts))
        made = made_from(folder, DIRECTIONS)
        self.resumable = ResumableRun.of("ablate", base.name, [self.facts, artifact.recipe], made)
        written = read_ablation(folder, file)
        standard = json.loads(json.dumps(asdict(AblationConfig())))
        same = same_settings(written.get("settings"), self.facts, standard)
        self.rows: dict[str, dict[str, float | None]] = written["rows"] if same else {}

    def fresh(self) -> BaseModel:
        """The model loaded anew, untouched by the rows before."""
        return load_base(self.source)

    def measure(self, row: str, elastic: ElasticModel) -> Steps[None]:
        """Measure a row's model at all sizes and keep the row."""
        relative: dict[str, float | None] = {}
        for ratio in self.settings.ratios:
            plan = elastic.planner.at_ratio(ratio)
            worst = 0.0
            for index, windows in enumerate(self.held_out):
                full = yield from self.resumable.number(f"base-{index}", self._full_perplexity(windows))
                with elastic.at(plan):
                    for step in measure_perplexity(elastic.model, windows):
                        yield Progress(f"measuring {row}, {ratio:.0%}", step.done, step.total, f"{step.value:.2f}")
                worst = max(worst, step.value / full)
            relative[f"{ratio:.2f}"] = worst if math.isfinite(worst) else None
        self.rows[row] = relative
        write_ablation({"settings": self.facts, "rows": self.rows}, self.folder, self.file)

    def _full_perplexity(self, windows: torch.Tensor) -> Steps[float]:
        model = self.fresh().model
        for step in measure_perplexity(model, windows):
            yield Progress("measuring the full model", step.done, step.total)
        return step.value
