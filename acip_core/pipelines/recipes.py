"""What fixes an artifact besides the model: the settings of `precompute`, and those of its presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..artifacts.completions import EXAMPLES
from ..evaluation.perplexity import WINDOW
from ..model.quantization import FULL
from ..model.second_moments import DEFAULT_RANK
from ..scoring.iterative import STAGES
from ..scoring.pruning_config import PAPER, SMALL, PruningConfig
from ..training.adapters import AdapterConfig
from ..training.blocks import BlockConfig
from ..training.factors import FactorConfig
from .coding import SHARES, CodingConfig

FINE = tuple(round(1 - 0.05 * i, 2) for i in range(15))  # 100, 95 … 30 %
COARSE = FINE[::2]  # 100, 90 … 30 %: comparison lines
# On the full model's predictions alone, which takes back much of what the first training learned of the kind of text.
REFINING = AdapterConfig(steps=200, batch=4, largest=0.98, distillation=1.0, seed=1)


@dataclass(frozen=True)
class PrecomputeConfig:
    """Everything that fixes an artifact besides the model.

    Attributes:
        corpora: names or files, as `corpus.documents`.
        include, exclude: patterns that narrow the layers that are compressed, as `target_layers`.
        window: tokens per window, everywhere.
        moment_windows, score_windows: calibration windows per corpus.
        stages: size ratios at which the Fisher information is measured anew; without any, the full model's counts.
        basis: `two-sided`, `activation` or `svd` (plain, as in the paper).
        scorer: `predicted` (by a two-sided basis) or `fisher`, where there is no pruning run.
        basis_rank: columns kept of each correlation.
        pivoted: whether sizes count ranks as they are stored by pivots, which the scorer `predicted` knows of.
        pruning: rank the directions by a pruning run (Step 2 of ACIP); None for Fisher information.
        factors: how the factors are trained end to end; None leaves it out.
        blocks: how they are trained block by block before that; None leaves it out.
        budget: hours for both and for the text it samples, from which its steps and windows follow; None takes them as
            `factors` has them.
        adapters: how adapters are trained; None keeps those of the pruning run, if there is one.
        refining: how they are trained further afterwards, at the same rank; None leaves them as they are.
        refined_share: weight of the refined adapters in the mean with those before, in (0, 1].
        curve_windows: held-out windows per corpus and size.
        ratios: sizes of the curve.
        comparisons: whether to measure the comparison lines too.
        examples: prompts that are completed at every size.
        quantized: precision of the weights that everything is made from, for use with the full ones (section 3.4).
        knowledge: whether every size is asked for facts.
        codes: how sizes in bytes are made; None leaves them out, as does `quantized`: codes are of full weights.
    """

    corpora: tuple[str, ...] = ("c4", "wikipedia")
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    window: int = WINDOW
    moment_windows: int = 64
    score_windows: int = 64
    stages: tuple[float, ...] = ()
    basis: str = "activation"
    basis_rank: int = DEFAULT_RANK
    scorer: str = "fisher"
    pivoted: bool = False
    pruning: PruningConfig | None = None
    factors: FactorConfig | None = None
    blocks: BlockConfig | None = None
    budget: float | None = None
    adapters: AdapterConfig | None = field(default_factory=AdapterConfig)
    refining: AdapterConfig | None = REFINING
    refined_share: float = 0.6
    curve_windows: int = 16
    ratios: tuple[float, ...] = FINE
    comparisons: bool = True
    examples: tuple[str, ...] = EXAMPLES
    quantized: str = FULL
    knowledge: bool = True
    codes: CodingConfig | None = field(default_factory=CodingConfig)

    @property
    def trains_factors(self) -> bool:
        """Whether the factors are trained, together or block by block."""
        return self.factors is not None or self.blocks is not None

    def facts(self) -> dict[str, Any]:
        """Plain values of what fixes everything but the codes, whose own settings are kept with them, and the facts."""
        facts = asdict(self)
        del facts["codes"], facts["knowledge"]
        return facts


DEFAULT_RECIPE = PrecomputeConfig(
    basis="two-sided",
    scorer="predicted",
    pivoted=True,
    factors=FactorConfig(),
    adapters=None,
    refining=None,
)
FISHER_RECIPE = PrecomputeConfig()
PAPER_RECIPE = PrecomputeConfig(pruning=PAPER, adapters=None, refining=None)
SMALL_RECIPE = PrecomputeConfig(pruning=SMALL)
ITERATED_RECIPE = PrecomputeConfig(score_windows=128, stages=STAGES)
QUICK = replace(
    DEFAULT_RECIPE,
    moment_windows=12,
    factors=None,
    curve_windows=6,
    ratios=COARSE,
    comparisons=False,
    knowledge=False,
    codes=CodingConfig(moment_windows=6, shares=(1.0, *SHARES[2::2]), curve_windows=4, calibration_windows=2),
)
