"""What the measured peers say beside the default model's own sizes: figures and the documents' table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.peers import Peers, PeerSize, frontier, peer_sizes, read_peers
from acip_core.cli.drawing import lines
from acip_core.evaluation.methods import corpus_title, method
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.progress import finish

from ..coded import coded_curves
from ..figure import Figure, markdown_table
from .measure import measure_missing

MOST = 0.8  # our excess ÷ theirs, the worse corpus of each
Own = list[tuple[int, float]]  # bytes of the whole model and perplexity ÷ base of the worse corpus, the largest first


def measure_peers() -> list[Figure]:
    """Measure what is missing, which takes minutes a point, and compare excesses."""
    return peer_figures(finish(measure_missing(), lines()), own_sizes("both"))


def own_sizes(mode: str) -> Own:
    """The measured sizes of the default model in a mode."""
    curves = coded_curves(mode)
    return [
        (points[0].bytes, max(p.perplexity / c.base_perplexity for p, c in zip(points, curves, strict=True)))
        for points in zip(*(curve.points for curve in curves), strict=True)
    ]


def peer_figures(peers: Peers, own: Own) -> list[Figure]:
    """Our perplexity ÷ base above 1 as a share of the best peer's, both of the worse corpus.

    At each of our sizes the peer may have no more bytes; where none is so small there is no figure. The last figure is
    stricter: at each peer's own bytes we may have no more than it, the peers' frontier alone, the worst one.
    """
    sizes = peer_sizes(peers)
    figures = []
    for size, relative in own:
        best = min((peer.worst for peer in sizes if peer.bytes <= size), default=None)
        if best is not None and relative > 1:
            name = f"perplexity ÷ base above 1 at {size / 1e6:.1f} MB ÷ the best peer's of no more bytes"
            figures.append(Figure(name, _share(relative, best), "×", MOST))
    if at_theirs := [_share(ours, peer.worst) for peer in frontier(sizes) if (ours := _within(own, peer)) is not None]:
        name = "perplexity ÷ base above 1 within a peer's bytes ÷ the peer's, the worst"
        figures.append(Figure(name, max(at_theirs), "×", MOST))
    return figures


def peers_table() -> list[str]:
    """All sizes of all peers."""
    peers = read_peers(default_artifact(DEFAULT_MODEL))
    if peers is None or not peers.points:
        return ["Not measured yet: run `python -m benchmarks peers`."]
    titles = [corpus_title(corpus) for corpus in peers.base_perplexity]
    header = ["quantizer", "", "weights", *titles, "KL", "same likeliest token", "facts kept", "ours within its bytes"]
    own = own_sizes("both")
    return markdown_table(header, [_row(size, own) for size in peer_sizes(peers)])


def _row(size: PeerSize, own: Own) -> Sequence[str]:
    ours = _within(own, size)
    return [
        method(size.method).title, size.setting, f"{size.bytes / 1e6:.1f} MB",
        *(_times(relative) for relative in size.relative),
        f"{max(0.0, size.divergence):.3f}", f"{size.agreement:.0%}", "" if size.facts is None else f"{size.facts:.0%}",
        "" if ours is None else _times(ours),
    ]  # fmt: skip


def _times(relative: float) -> str:
    return f"{relative:.2f} ×" if relative < 100 else f"10^{math.log10(relative):.1f} ×"


def _within(own: Own, peer: PeerSize) -> float | None:
    """Perplexity ÷ base of our largest measured size of no more bytes."""
    return min((relative for size, relative in own if size <= peer.bytes), default=None)


def _share(ours: float, theirs: float) -> float:
    """Excess ÷ excess; infinite where the peer loses nothing and we do."""
    return (ours - 1) / (theirs - 1) if theirs > 1 else (0.0 if ours <= 1 else math.inf)
