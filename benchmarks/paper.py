"""What preparing larger models would take, on paper: work and memory from shapes, over throughput that was measured.

Nothing here was run at these sizes. The rate of passes and training is that of factor training of the default model on
one H200 (benchmarks/LOG.md, "Training on pivoted sizes": 167 steps of 16 windows in 60 s), a small model's, so a larger
one's is hardly lower; the rate of factorizing is that at which one core here prepares a block with a 3B model's widths,
all else included.
"""

from __future__ import annotations

from dataclasses import dataclass

from .figure import markdown_table, read
from .tables import RESULTS

_DEFAULT_WEIGHTS = 106e6 + 28e6  # of the default model: its layers, its head
_WINDOW, _CORES = 512, 16
_STEP_PASSES = 14  # 2 to read, twice 2 + 4 to learn, floating-point operations for each weight and token
_RATE = 167 * 16 * _WINDOW * _STEP_PASSES * _DEFAULT_WEIGHTS / 60  # per second
PREPARING = "3B widths: preparing a block, one core"


@dataclass(frozen=True)
class Shapes:
    """A Llama's widths; `attention` and `shared` are those of all query heads, and of all key or value heads."""

    name: str
    blocks: int
    width: int
    inner: int
    attention: int
    shared: int
    vocabulary: int = 128256

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(out_features, in_features) of a block's layers."""
        attention = [(self.attention, self.width), (self.shared, self.width), (self.shared, self.width)]
        return [*attention, (self.width, self.attention), *[(self.inner, self.width)] * 2, (self.width, self.inner)]

    @property
    def block(self) -> int:
        """Weights of a block's layers."""
        return sum(m * n for m, n in self.layers)

    @property
    def weights(self) -> int:
        return self.blocks * self.block + 2 * self.vocabulary * self.width


THREE = Shapes("3B", 28, 3072, 8192, 3072, 1024)
MODELS = (
    Shapes("8B", 32, 4096, 14336, 4096, 1024),
    Shapes("30B", 64, 5120, 25600, 8192, 1024, 151936),
    Shapes("70B", 80, 8192, 28672, 8192, 1024),
)


def factorizing(shapes: Shapes) -> float:
    """Floating-point operations that factorizing a block two-sided takes, in double precision."""
    total = 0.0
    for m, n in shapes.layers:
        r = min(m, n)
        total += (m**3 + n**3) / 3 + 2 * m * m * n + 2 * m * n * n + 2 * r * r * max(m, n)  # roots, images, their Gram
        total += 9 * r**3 + 3 * m * m * r + (6 * m * r * r if m > n else 0)  # eigenvectors, turned back
    return total


def paper() -> list[str]:
    """One row a model: the time of each stage, and its memory."""
    seconds = next((measured.figure.value for measured in read(RESULTS) if measured.figure.name == PREPARING), None)
    if seconds is None:
        return ["Not measured yet: run `python -m benchmarks large`."]
    core = factorizing(THREE) / seconds
    header = [
        "model",
        "moments",
        f"factors, {_CORES} cores",
        "curve",
        "memory, disk",
        "training by block",
        "its memory",
    ]
    note = (
        f"Computed by `benchmarks/paper.py` from {_RATE / 1e12:.0f} TFLOP/s (training the default model, one H200) and "
        f"{core / 1e9:.0f} GFLOP/s in double precision (preparing a block of 3B widths on one core); none of it was "
        "run at these sizes. 128 windows of moments and fifteen sizes on 32 windows, on one device with "
        "`ACIP_DEVICE=disk`: memory is that of a block, its moments and factors, embedding and head, and all windows' "
        "hidden states. `--block-steps 64` needs the whole model with its factors on one device, more than 80 GB at "
        "30B; training end to end (20 bytes for each entry of the factors) is left out."
    )
    return [*markdown_table(header, [_row(shapes, core) for shapes in MODELS]), "", note]


def _row(shapes: Shapes, core: float) -> list[str]:
    tokens, passes, entries = 128 * _WINDOW, 2 * shapes.weights, shapes.blocks * shapes.block
    sums = 2 * shapes.blocks * sum(m * m + n * n for m, n in shapes.layers)
    moments = (tokens * (passes + sums) + tokens / 2 * 3 * passes) / _RATE
    by_block = (64 * 16 * _WINDOW * 2 * 6 + 256 * _WINDOW * 6) * entries / _RATE
    tables, states = 2 * 2 * shapes.vocabulary * shapes.width, 2 * tokens * shapes.width
    widest = max(max(pair) for pair in shapes.layers)
    at_work = max(8 * shapes.block + 8 * 3 * widest**2, 4 * sum(m * m for m, _ in shapes.layers))
    disk = (8 + 4) * entries + shapes.blocks * states // 2  # factors, banks, hidden states
    return [
        shapes.name,
        _time(moments),
        _time(shapes.blocks * factorizing(shapes) / (_CORES * core)),
        _time(15 * 32 * _WINDOW * passes / _RATE),
        f"{(2 * shapes.block + at_work + tables + 2 * states) / 1e9:.0f} GB, {disk / 1e9:.0f} GB",
        _time(by_block),
        f"{(4 * entries + 16 * shapes.block + tables) / 1e9:.0f} GB",
    ]


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
