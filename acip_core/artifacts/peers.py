"""What `python -m benchmarks peers` measured of other quantizers, as the file `peers.json` in an artifact's folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.methods import PEERS
from ..storage.atomic import atomic_path
from ..storage.verified import parse_dataclass, read_json, reporting_damage, write_json

FILE = "peers.json"


@dataclass(frozen=True)
class PeerPoint:
    """One size of one method on one corpus.

    Attributes:
        method: its id in `evaluation.methods`.
        setting: for people, what makes it this size.
        bytes: of the whole model, scales, offsets, embedding and norms counted.
        perplexity, divergence, agreement, facts: as `coding.CodedPoint`.
    """

    method: str
    setting: str
    corpus: str
    bytes: int
    perplexity: float
    divergence: float
    agreement: float
    facts: float | None = None


@dataclass(frozen=True)
class Peers:
    """All points, with the base model's perplexity by corpus and what they were measured with."""

    settings: dict
    base_perplexity: dict[str, float]
    points: tuple[PeerPoint, ...]


@dataclass(frozen=True)
class PeerSize:
    """One size of one method on all corpora, of which the worse one counts.

    Attributes:
        relative: perplexity ÷ base on each corpus, in their order.
    """

    method: str
    setting: str
    bytes: int
    relative: tuple[float, ...]
    divergence: float
    agreement: float
    facts: float | None

    @property
    def worst(self) -> float:
        """The larger of the relative perplexities."""
        return max(self.relative)


def peer_sizes(peers: Peers) -> list[PeerSize]:
    """Sizes that are measured on all corpora: method by method as they are registered, the largest first."""
    grouped: dict[tuple[str, str], dict[str, PeerPoint]] = {}
    for point in peers.points:
        grouped.setdefault((point.method, point.setting), {})[point.corpus] = point
    sizes = []
    for (method, setting), of in grouped.items():
        if of.keys() == peers.base_perplexity.keys():
            relative = tuple(of[corpus].perplexity / base for corpus, base in peers.base_perplexity.items())
            divergence, agreement = max(p.divergence for p in of.values()), min(p.agreement for p in of.values())
            first = next(iter(of.values()))
            sizes.append(PeerSize(method, setting, first.bytes, relative, divergence, agreement, first.facts))
    methods = [*PEERS, *(size.method for size in sizes)]
    return sorted(sizes, key=lambda size: (methods.index(size.method), -size.bytes))


def frontier(sizes: Sequence[PeerSize]) -> list[PeerSize]:
    """Those that no other one beats with as few bytes, the smallest first."""
    best: list[PeerSize] = []
    for size in sorted(sizes, key=lambda size: (size.bytes, size.worst)):
        if not best or size.worst < best[-1].worst:
            best.append(size)
    return best


def write_peers(peers: Peers, folder: Path) -> None:
    """Replace the file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_path(folder / FILE) as temporary:
        write_json(temporary, asdict(peers))


def read_peers(folder: Path) -> Peers | None:
    """What `write_peers` wrote, or None.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    with reporting_damage(path, "delete it; `python -m benchmarks peers` measures it again"):
        read = read_json(path, sealed=True)
        points = tuple(parse_dataclass(PeerPoint, point) for point in read["points"])
        peers = parse_dataclass(Peers, {**read, "points": points})
        if not all(_is_positive(value) for value in peers.base_perplexity.values()):
            raise ValueError("a base perplexity is not positive")
        for point in points:
            if point.corpus not in peers.base_perplexity or point.bytes <= 0 or not _is_positive(point.perplexity):
                raise ValueError(f"the point of {point.method}, {point.setting} is malformed")
        return peers


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
