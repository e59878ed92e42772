"""How far a size of a tiny model is from the full one."""

from __future__ import annotations

from acip_core.evaluation.fidelity import full_logits, measure_fidelity
from acip_core.model.elastic_model import ElasticModel
from acip_core.progress import finish
from tests.support.tiny import calibration


def divergence(elastic: ElasticModel, ratio: float) -> float:
    """Mean KL divergence per token of `calibration()`, in nats."""
    windows = calibration()
    teacher, _ = finish(full_logits(elastic.model, windows, "text"))
    with elastic.on_this_thread(elastic.planner.at_ratio(ratio)):
        return finish(measure_fidelity(elastic.model, windows, teacher, "text")).divergence
