"""Add sizes in bytes to an artifact: moments, codes, adapters of coded layers, calibration, measured curves.

Every stage leaves its result in a work folder, so a run that is killed continues where it was; the artifact changes
only when everything is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..artifacts.artifact import Artifact
from ..artifacts.coding import CodedCurve, CodedPoint, Coding, in_eight_bits, write_coding
from ..artifacts.knowledge import made_from
from ..artifacts.loading import open_model
from ..data.corpus import SPLITS, corpus_windows
from ..errors import CorpusError
from ..evaluation.facts import facts_kept, known_facts
from ..evaluation.fidelity import full_logits, measure_fidelity
from ..model.base_model import fingerprint
from ..model.code_cache import CodedModel, cached_codes
from ..model.coded_states import coded_matrices, install_coded_adapters, install_codes
from ..model.coding_moments import CodingMoments, measure_coding_moments, read_coding_moments, save_coding_moments
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, Calibration, ElasticModel
from ..model.operating_points import code_of, coded_state, is_coded
from ..model.residual_adapters import residual_adapters
from ..model.size_planner import BITS, BOTH, DIRECTIONS, Plan
from ..progress import Steps
from ..storage.digests import cache_key
from ..storage.locks import only_run
from ..storage.resumable import ResumableRun
from ..storage.verified import listed, parse_dataclass, read_json, write_json
from ..training.adapters import AdapterConfig, train_adapters

# Of the default model's published 269 MB these are all, 84, 77, 70, 63, 57, 50 and 40 MB.
SHARES = (1.0, 0.3123, 0.2862, 0.2602, 0.2342, 0.2119, 0.1859, 0.1487)
_REPAIRED = 0.6  # share of a layer's loss that its adapter is taken to leave until that is measured
_CALIBRATED_AT = (0.24, 0.19, 0.15)


@dataclass(frozen=True)
class CodingConfig:
    """How sizes in bytes are made.

    Attributes:
        moment_windows: calibration windows per corpus for the moments.
        adapters: training of the adapters of coded layers; None trains none.
        shares: sizes that are measured, in shares of the published bytes.
        curve_windows: held-out windows per corpus for the curves.
        calibration_windows: validation windows per corpus for the calibration.
        seed: of the labels that are drawn.
    """

    moment_windows: int = 32
    adapters: AdapterConfig | None = None
    shares: tuple[float, ...] = SHARES
    curve_windows: int = 32
    calibration_windows: int = 6
    seed: int = 0


def add_codes(source: str | None, config: CodingConfig, artifact: str | Path | None = None) -> Steps[Path]:
    """Measure, train and write what an artifact needs for sizes in bytes.

    Args:
        source: as `load_base`.
        artifact: its folder; that of the model's name by default.

    Returns:
        The artifact's folder.

    Raises:
        ModelError, CorpusError, ArtifactError, StorageError: one sentence each; finished stages stay.
    """
    loaded = yield from open_model(source, artifact, same_weights=True, whole_for="codes", codes=False)
    with only_run(loaded.folder):
        made = made_from(loaded.folder, DIRECTIONS)  # the basis, whose columns the moments are compressed to
        resumable = ResumableRun.of("coding", loaded.elastic.base.name, asdict(config), loaded.fingerprint, made)
        resumable.check_writable()
        coding = yield from CodingRun(loaded.elastic, loaded.artifact, config, resumable).coding()
        write_coding(coding, loaded.folder, loaded.artifact.basis, loaded.artifact.gradients)
        resumable.remove()
    return loaded.folder


class CodingRun:
    """The stages of one run.

    Args:
        artifact: of which basis and recipe count.
        resumable: keeps what is finished; one that depends on model, artifact and config. The text is added here.

    Raises:
        CorpusError: too little text.
    """

    def __init__(self, elastic: ElasticModel, artifact: Artifact, config: CodingConfig, resumable: ResumableRun):
        self.elastic, self.config = elastic, config
        self.basis, self.gradients = artifact.basis, artifact.gradients
        self.corpora: tuple[str, ...] = tuple(artifact.recipe.get("corpora", ("c4", "wikipedia")))
        self.length = fitting_window(elastic.model, artifact.recipe.get("window") or 512)
        self.text = {(corpus, split): self._read(corpus, split) for corpus in self.corpora for split in SPLITS}
        self.resumable = resumable.part("text", *self.text.values())  # a file may be edited between two runs

    def windows(self, corpus: str, split: str, count: int | None = None) -> torch.Tensor:
        """(windows, length) of one split of a corpus; at most `count`."""
        return self.text[corpus, split][:count]

    def _read(self, corpus: str, split: str) -> torch.Tensor:
        """All windows of a split; where a text is so short that none is for validation, those of the split before."""
        try:
            return corpus_windows(self.elastic.tokenizer, corpus, split, self.length)
        except CorpusError:
            if split != "validation":
                raise
            return self._read(corpus, "calibration")

    def coding(self) -> Steps[Coding]:
        """All stages."""
        basis, gradients, config, elastic = self.basis, self.gradients, self.config, self.elastic
        text = torch.cat([self.windows(c, "calibration", config.moment_windows) for c in self.corpora])
        layers = list(elastic.elastic_layers())
        partial = self.resumable.part("moments")
        moments = yield from self.resumable.step(
            "coding.safetensors",
            measure_coding_moments(elastic.model, text, layers, basis, config.seed, gradients, partial),
            lambda path: read_coding_moments(path, basis, gradients),
            lambda moments, path: save_coding_moments(moments, path, basis, gradients),
        )
        partial.remove()
        matrices = coded_matrices(elastic, moments.tables)
        codes_of = fingerprint(matrices)
        coded = yield from cached_codes(matrices, moments, codes_of)
        install_codes(elastic, coded)
        adapters = None
        if config.adapters is not None:
            install_codes(elastic, coded, Calibration(repaired=_REPAIRED))
            adapters = yield from self._adapters(config.adapters, coded, moments)
            install_codes(elastic, coded)
        calibration = yield from self._calibration(adapters)
        install_codes(elastic, coded, calibration)
        if adapters is not None:
            install_coded_adapters(elastic, adapters)
        modes = (BITS, BOTH) if adapters is not None else (BITS,)
        curves = yield from self._curves(modes)
        if adapters is None:  # the same plans
            curves += [CodedCurve(BOTH, c.corpus, c.tokens, c.base_perplexity, c.points) for c in curves]
        return Coding(codes_of, moments, calibration, tuple(curves), adapters, asdict(config))

    def _adapters(
        self, settings: AdapterConfig, coded: CodedModel, moments: CodingMoments
    ) -> Steps[dict[str, AdapterWeights]]:
        """Trained from those that repair the middle of the sizes in closed form."""
        text = torch.cat([self.windows(c, "calibration") for c in self.corpora])
        weights = self.elastic.elastic_layers().weights()
        bits, share = self.elastic.planners[BITS], (settings.smallest + settings.largest) / 2
        middle = bits.at_ratio(max(share, bits.smallest / bits.base_bytes))
        levels = [code_of(state)[0] if is_coded(state) else 0 for state in middle.ranks]
        codes = {name: coded.matrices[name].codes[level] for name, level in zip(weights, levels, strict=True)}
        kept = yield from self.resumable.tensors("start", residual_adapters(weights, codes, moments, settings.rank))
        start = {name: AdapterWeights(kept[f"{name}.a"], kept[f"{name}.b"]) for name in weights}
        install_coded_adapters(self.elastic, start)  # so that plans name them
        planner, checkpoint = self.elastic.planners[BOTH], self.resumable.path("adapters.safetensors")
        trained = yield from train_adapters(self.elastic, text, settings, checkpoint, start, planner)
        return {name: in_eight_bits(weights) for name, weights in trained.weights.items()}  # as exports compute

    def _calibration(self, adapters: Mapping[str, AdapterWeights] | None) -> Steps[Calibration]:
        """Three plans without adapters fix scale and power; one of them with adapters says what is left."""
        planner, predicted, measured = self.elastic.planners[BITS], [], []
        for share in _CALIBRATED_AT:
            plan = planner.at_ratio(max(share, planner.smallest / planner.base_bytes))
            predicted.append(plan.loss or 0.0)
            measured.append((yield from self._rise(plan, f"rise-{plan.bytes}")))
        calibration = fitted_calibration(predicted, measured)
        if adapters is None:
            return calibration
        install_coded_adapters(self.elastic, adapters)
        plan = planner.at_ratio(_CALIBRATED_AT[-1])
        adapted = with_adapters(plan)
        left = yield from self._rise(adapted, f"adapted-{plan.bytes}")
        repaired = min(1.0, (max(left, 1e-6) / measured[-1]) ** (1 / calibration.power))
        return Calibration(calibration.scale, calibration.power, repaired)

    def _rise(self, plan: Plan, name: str) -> Steps[float]:
        """Measured rise of the loss on validation text, nats per token, the mean of the corpora."""

        def measure() -> Steps[float]:
            rises = []
            for corpus in self.corpora:
                windows = self.windows(corpus, "validation", self.config.calibration_windows)
                teacher, base = yield from full_logits(self.elastic.model, windows, corpus)
                with self.elastic.on_this_thread(plan):
                    found = yield from measure_fidelity(self.elastic.model, windows, teacher, f"calibrating, {corpus}")
                rises.append(math.log(found.perplexity / base))
            return sum(rises) / len(rises)

        return self.resumable.number(name, measure())

    def _curves(self, modes: Sequence[str]) -> Steps[list[CodedCurve]]:
        curves = []
        known = yield from self._facts(None)
        for corpus in self.corpora:
            windows = self.windows(corpus, "held-out", self.config.curve_windows)
            teacher = _Teacher(self.elastic, windows, corpus)
            for mode in modes:
                points: list[CodedPoint] = []
                base = math.nan
                for plan in self._plans(mode):
                    name = f"point-{mode}-{cache_key(corpus, length=8)}-{plan.bytes}.json"
                    point, base = yield from self.resumable.step(
                        name, self._point(plan, teacher, known), _read_point, _write_point
                    )
                    points.append(point)
                curves.append(CodedCurve(mode, corpus, windows.numel(), base, tuple(points)))
        return curves

    def _facts(self, plan: Plan | None) -> Steps[tuple[bool, ...]]:
        """Which facts are known at a size, or by the full model."""

        def ask() -> Steps[tuple[bool, ...]]:
            if plan is None:
                return (yield from known_facts(self.elastic.model, self.elastic.tokenizer))
            with self.elastic.on_this_thread(plan):
                return (yield from known_facts(self.elastic.model, self.elastic.tokenizer))

        name = "facts.json" if plan is None else f"facts-{plan.mode}-{plan.bytes}.json"
        return (yield from self.resumable.step(name, ask(), _read_facts, _write_facts))

    def _plans(self, mode: str) -> list[Plan]:
        planner = self.elastic.planners[mode]
        least = planner.smallest / planner.base_bytes
        plans = [planner.at_ratio(share) for share in sorted(self.config.shares, reverse=True) if share >= least]
        return list(dict.fromkeys(plans))  # between two plans there may be several shares

    def _point(self, plan: Plan, teacher: _Teacher, known: Sequence[bool]) -> Steps[tuple[CodedPoint, float]]:
        logits, base = yield from teacher.logits()
        with self.elastic.on_this_thread(plan):
            label = f"{plan.mode} at {plan.bytes / 1e6:.1f} MB, {teacher.corpus}"
            found = yield from measure_fidelity(self.elastic.model, teacher.windows, logits, label)
        facts = yield from self._facts(plan)
        measured = found.perplexity, found.divergence, found.agreement, facts_kept(known, facts), found.error
        return CodedPoint(plan.bytes, plan.ratio, plan.loss or 0.0, *measured), base


class _Teacher:
    """The full model's logits on a corpus, computed when first asked for."""

    def __init__(self, elastic: ElasticModel, windows: torch.Tensor, corpus: str):
        self.elastic, self.windows, self.corpus = elastic, windows, corpus
        self._found: tuple[torch.Tensor, float] | None = None

    def logits(self) -> Steps[tuple[torch.Tensor, float]]:
        """Logits and perplexity, as `full_logits`."""
        if self._found is None:
            self._found = yield from full_logits(self.elastic.model, self.windows, self.corpus)
        return self._found


def with_adapters(plan: Plan) -> Plan:
    """The same codes, all with their adapters."""
    return replace(plan, ranks=tuple(coded_state(code_of(s)[0], True) if is_coded(s) else s for s in plan.ranks))


def fitted_calibration(predicted: Sequence[float], measured: Sequence[float]) -> Calibration:
    """Least squares of log measured over log predicted; the identity where there is nothing to fit."""
    pairs = [(math.log(p), math.log(m)) for p, m in zip(predicted, measured, strict=True) if p > 0 and m > 0]
    if len({x for x, _ in pairs}) < 2:
        return Calibration()
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    power = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    power = min(max(power, 0.5), 2.0)  # of noise alone a curve must not turn
    return Calibration(math.exp(mean_y - power * mean_x), power)


def _read_point(path: Path) -> tuple[CodedPoint, float]:
    content = read_json(path)
    return parse_dataclass(CodedPoint, content["point"]), float(content["base"])


def _write_point(result: tuple[CodedPoint, float], path: Path) -> None:
    write_json(path, {"point": asdict(result[0]), "base": result[1]})


def _read_facts(path: Path) -> tuple[bool, ...]:
    return tuple(bool(known) for known in listed(read_json(path), "facts"))


def _write_facts(facts: Sequence[bool], path: Path) -> None:
    write_json(path, {"facts": list(facts)})
