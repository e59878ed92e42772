"""How close cuts of the default model that spend directions are to the full one: divergence, agreement, facts."""

from __future__ import annotations

from acip_core.artifacts.loading import open_model
from acip_core.data.corpus import corpus_windows
from acip_core.evaluation.facts import facts_kept, known_facts
from acip_core.evaluation.fidelity import full_logits, measure_fidelity
from acip_core.evaluation.methods import CORPORA
from acip_core.evaluation.perplexity import WINDOW
from acip_core.progress import finish

from .figure import Figure

_WINDOWS = 32  # of each corpus
_DIVERGENCE = {0.9: None, 0.8: 0.25, 0.7: None, 0.6: 0.65, 0.5: None, 0.4: None}  # nats, at most
_AGREEMENT = {0.8: 0.75, 0.6: 0.6}
_FACTS = {0.9: 0.95, 0.8: 0.75, 0.7: 0.5}


def measure_closeness() -> list[Figure]:
    """The worse corpus of held-out text at every size; facts at those that have a target."""
    elastic = finish(open_model()).elastic
    model, plan = elastic.model, elastic.planner.at_ratio
    worst: dict[float, tuple[float, float]] = dict.fromkeys(_DIVERGENCE, (0.0, 1.0))
    for corpus in ("c4", "wikipedia"):
        windows = corpus_windows(elastic.tokenizer, corpus, "held-out", WINDOW, _WINDOWS)
        teacher, _ = finish(full_logits(model, windows, CORPORA[corpus].title))
        for ratio, (divergence, agreement) in worst.items():
            with elastic.on_this_thread(plan(ratio)):
                found = finish(measure_fidelity(model, windows, teacher, corpus))
            worst[ratio] = max(divergence, found.divergence), min(agreement, found.agreement)
    figures = []
    for ratio, (divergence, agreement) in worst.items():
        figures.append(Figure(f"KL divergence at {ratio:.0%}, nats", divergence, "", _DIVERGENCE[ratio]))
        title, target = f"same likeliest token at {ratio:.0%}", _AGREEMENT.get(ratio)
        figures.append(Figure(title, agreement, "", target, better="higher"))
    known = finish(known_facts(model, elastic.tokenizer))
    for ratio, target in _FACTS.items():
        with elastic.on_this_thread(plan(ratio)):
            kept = facts_kept(known, finish(known_facts(model, elastic.tokenizer)))
        figures.append(Figure(f"facts kept at {ratio:.0%}", kept or 0.0, "", target, better="higher"))
    return figures
