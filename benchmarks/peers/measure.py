"""Measure peers one by one; each is kept as soon as it is measured, so that a run that is killed continues there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from acip_core.artifacts.coding import read_coding
from acip_core.artifacts.loading import find_artifact
from acip_core.artifacts.peers import FILE, PeerPoint, Peers, read_peers, write_peers
from acip_core.data.corpus import corpus_windows
from acip_core.errors import ArtifactError
from acip_core.evaluation.facts import facts_kept, known_facts
from acip_core.evaluation.fidelity import full_logits, measure_fidelity
from acip_core.model.base_model import load_base
from acip_core.progress import Progress, Steps
from acip_core.storage.locks import only_run
from acip_core.storage.resumable import ResumableRun

from .bitstack import bitstack_peers
from .int4_ranks import int4_rank_peers
from .integers import gptq_peers, rtn_peers
from .llama_cpp import llama_cpp_peers
from .nf4 import nf4_peers
from .subject import CALIBRATION, CORPORA, LENGTH, Peer, Subject

log = logging.getLogger("acip")
HELD_OUT = 32  # windows of each corpus
METHODS: dict[str, Callable[[Subject], list[Peer]]] = {
    "rtn": rtn_peers,
    "gptq": gptq_peers,
    "nf4": nf4_peers,
    "llama.cpp": llama_cpp_peers,
    "bitstack": bitstack_peers,
    "int4-ranks": int4_rank_peers,
}


def measure_missing(source: str | None = None, artifact: Path | None = None, windows: int = HELD_OUT) -> Steps[Peers]:
    """Measure what `peers.json` of the model's artifact does not hold yet, and write it there.

    Points of other weights, text or settings count as not measured. A method whose library is missing is left out,
    with a sentence in the log.

    Args:
        source: as `load_base`.
        artifact: its folder; that of the model's name by default.
        windows: held-out windows of each corpus.

    Raises:
        ModelError, ArtifactError, CorpusError, StorageError: one sentence each; what is measured stays.
    """
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    found = find_artifact(base, artifact, same_weights=True)
    coding = read_coding(found.folder, found.artifact.basis, found.artifact.gradients)
    if coding is None:
        raise ArtifactError(f"{found.folder} has no moments of gradients; add them with `python -m acip_core codes`.")
    settings = {"fingerprint": found.fingerprint, "held_out": windows, "calibration": CALIBRATION, "window": LENGTH}
    with only_run(found.folder / FILE):
        run = PeerRun(Subject(base, coding.moments.gradients, source, artifact), found.folder, settings)
        for method, peers in METHODS.items():
            yield from run.method(method, peers)
        run.resumable.remove()
    return run.peers


class PeerRun:
    """What is measured so far, and what all points are measured against.

    Attributes:
        peers: as written.
    """

    def __init__(self, subject: Subject, folder: Path, settings: dict):
        self.subject, self.folder = subject, folder
        before = read_peers(folder)
        self.peers = before if before is not None and before.settings == settings else Peers(settings, {}, ())
        self.resumable = ResumableRun.of("peers", subject.base.name, settings)
        self.resumable.check_writable()
        self._windows = {
            corpus: corpus_windows(subject.base.tokenizer, corpus, "held-out", LENGTH)[: settings["held_out"]]
            for corpus in CORPORA
        }
        self._teachers: dict[str, torch.Tensor] = {}
        self._known: tuple[bool, ...] = ()

    def method(self, method: str, peers_of: Callable[[Subject], list[Peer]]) -> Steps[None]:
        """Measure the sizes of a method that are not there yet, and drop those that it does not have any more."""
        try:
            peers = peers_of(self.subject)
        except ModuleNotFoundError as error:
            log.warning("%s is left out: %s", method, error)
            return
        wanted = {peer.setting for peer in peers}
        points = tuple(p for p in self.peers.points if p.method != method or p.setting in wanted)
        if points != self.peers.points:
            self._keep(points)
        for peer in peers:
            if not any((p.method, p.setting) == (peer.method, peer.setting) for p in points):
                measured = yield from self._measured(peer)
                self._keep(self.peers.points + measured)

    def _keep(self, points: tuple[PeerPoint, ...]) -> None:
        self.peers = replace(self.peers, points=points)
        write_peers(self.peers, self.folder)

    def _measured(self, peer: Peer) -> Steps[tuple[PeerPoint, ...]]:
        yield from self._full_model()
        model, tokenizer = self.subject.base.model, self.subject.base.tokenizer
        stored = yield from peer.make()
        size, points = self.subject.bytes(stored), []
        with self.subject.holding(stored):
            facts = facts_kept(self._known, (yield from known_facts(model, tokenizer)))
            for corpus, windows in self._windows.items():
                label = f"{peer.method}, {peer.setting}, {corpus}"
                found = yield from measure_fidelity(model, windows, self._teachers[corpus], label)
                measured = found.perplexity, found.divergence, found.agreement, facts
                points.append(PeerPoint(peer.method, peer.setting, corpus, size, *measured))
        return tuple(points)

    def _full_model(self) -> Steps[None]:
        """Logits, perplexity and facts of the full model, once."""
        if self._known:
            return
        model = self.subject.base.model
        perplexities = {}
        for corpus, windows in self._windows.items():
            kept = yield from self.resumable.tensors(f"full-{corpus}", _teacher(model, windows, corpus))
            self._teachers[corpus], perplexities[corpus] = kept["logits"], float(kept["perplexity"])
        self.peers = replace(self.peers, base_perplexity=perplexities)
        self._known = yield from known_facts(model, self.subject.base.tokenizer)


def _teacher(model: torch.nn.Module, windows: torch.Tensor, corpus: str) -> Steps[dict[str, torch.Tensor]]:
    logits, perplexity = yield from full_logits(model, windows, corpus)
    return {"logits": logits, "perplexity": torch.tensor(perplexity, dtype=torch.float64)}
