"""What every size still knows: the facts of the full model asked at every position of the slider, in every mode.

Each size's answers are kept as soon as they are there, so a run that is killed continues where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from ..artifacts.knowledge import Knowledge, KnownSizes, made_from, write_knowledge
from ..artifacts.loading import install_coding, open_model
from ..evaluation.fact_strip import LONGEST_ANSWER, choose_strip
from ..evaluation.facts import FACTS, SKILLS, Answers, Fact, answers, asked, vocabulary_of
from ..evaluation.skill_sentences import GROUPS
from ..model.elastic_model import ElasticModel
from ..model.size_planner import Plan
from ..model.tracks import Track, tracks_of
from ..progress import Progress, Steps
from ..storage.digests import cache_key
from ..storage.locks import only_run
from ..storage.resumable import ResumableRun
from ..storage.verified import read_tensors, save_tensors

ASKED = FACTS + SKILLS  # of every model
_SizedAnswers = list[tuple[int, Answers]]  # bytes of a size and what it says, the largest first


def measure_knowledge(source: str | None, artifact: str | Path | None = None) -> Steps[Knowledge]:
    """Ask every size of a model's artifact for facts, and keep the answers in it; continues where it was.

    Args:
        source: as `load_base`.
        artifact: its folder; that of the model's name by default.

    Raises:
        ModelError, ArtifactError, StorageError: one sentence each; answers are kept.
    """
    loaded = yield from open_model(source, artifact, same_weights=True)
    elastic = loaded.elastic
    yield from install_coding(loaded)
    identity = [made_from(loaded.folder, mode) for mode in elastic.planners]
    resumable = ResumableRun.of("knowledge", elastic.base.name, loaded.fingerprint, identity)
    with only_run(loaded.folder):
        resumable.check_writable()
        run = KnowledgeRun(elastic, resumable)
        yield from run.ask(elastic)
        knowledge = run.knowledge()
        write_knowledge(knowledge, loaded.folder)
        resumable.remove()
    return knowledge


class KnowledgeRun:
    """The facts that the full model knows, and what the sizes asked so far say.

    Args:
        elastic: any elastic model of these weights, at full size.
        resumable: keeps the answers; one that depends on what decides them.
        facts: those to ask for; `ASKED` by default.
    """

    def __init__(self, elastic: ElasticModel, resumable: ResumableRun, facts: Sequence[Fact] | None = None):
        facts = ASKED if facts is None else facts
        self.resumable = resumable.part("facts", [[fact.prompt, fact.answer] for fact in facts])
        self.tokenizer = elastic.tokenizer
        self.vocabulary = vocabulary_of(elastic.model)
        there = asked(self.tokenizer, facts)
        self.facts = tuple(fact for i, fact in enumerate(facts) if i in there)
        self._modes: dict[str, _SizedAnswers] = {}
        self._said: dict[str, Answers] = {}  # modes share plans
        self._full: Answers | None = None
        self._questions: dict[int, tuple[list[int], int]] = {}  # of the facts that count

    def ask(self, elastic: ElasticModel, *made_as: object) -> Steps[None]:
        """Ask every size of all modes that a model has and that were not asked yet; of equal plans one.

        Args:
            made_as: what decides the answers beside the run's own identity.
        """
        for mode, track in tracks_of(elastic.planners).items():
            if mode not in self._modes:
                self._modes[mode] = yield from self._of(elastic, track, made_as)

    def knowledge(self) -> Knowledge:
        """All answers, and of their facts those that stand for all."""
        known = torch.cat([torch.stack([said.known for _, said in sizes]) for sizes in self._modes.values()])
        shown = [self._may_be_shown(fact) for fact in self.facts]
        names = [fact.field for fact in self.facts], [fact.answer for fact in self.facts]
        strip = choose_strip(known.numpy(), *names, shown, GROUPS)
        tokens = [token for _, token in self._questions.values()]
        modes = {mode: _known_sizes(sizes, strip) for mode, sizes in self._modes.items()}
        return Knowledge(self.facts, tuple(tokens), tuple(strip), self.vocabulary, modes)

    def _of(self, elastic: ElasticModel, track: Track, made_as: tuple[object, ...]) -> Steps[_SizedAnswers]:
        full = yield from self._known_by_all(elastic)
        plans = list(dict.fromkeys(track.plan_at(percent)[1] for percent in reversed(track.percents)))
        sizes = [(plans[0].bytes, full)]  # the model itself
        for index, plan in enumerate(plans[1:], 1):
            name = f"said-{cache_key(plan.states, *made_as)}.safetensors"
            if name not in self._said:
                self._said[name] = yield from self.resumable.step(name, self._at(elastic, plan), _read, _write)
            said = self._said[name]
            sizes.append((plan.bytes, said))
            note = f"{plan.bytes / 1e6:.1f} MB: {int(said.known.sum())} of {len(self.facts)} known"
            yield Progress(f"asking for facts, {track.mode}", index + 1, len(plans), note)
        return sizes

    def _known_by_all(self, elastic: ElasticModel) -> Steps[Answers]:
        """The full model's answers; from then on only the facts that it knows count."""
        if self._full is None:
            steps = answers(elastic.model, asked(self.tokenizer, self.facts))
            said = yield from self.resumable.step("said-full.safetensors", steps, _read, _write)
            self.facts = tuple(fact for fact, right in zip(self.facts, said.known.tolist(), strict=True) if right)
            self._questions = asked(self.tokenizer, self.facts)
            self._full = Answers(*(getattr(said, part.name)[said.known] for part in fields(Answers)))
        return self._full

    def _at(self, elastic: ElasticModel, plan: Plan) -> Steps[Answers]:
        with elastic.on_this_thread(plan):
            return (yield from answers(elastic.model, self._questions))

    def _may_be_shown(self, fact: Fact) -> bool:
        """Whether its answer is one short token, as those beside it are that a size says in its place."""
        token = asked(self.tokenizer, [fact])[0][1]
        word = fact.answer.strip()
        return len(word) <= LONGEST_ANSWER and str(self.tokenizer.decode([token])).strip() == word


def _known_sizes(sizes: _SizedAnswers, strip: Sequence[int]) -> KnownSizes:
    falling = {size: said for size, said in sorted(sizes, key=lambda pair: -pair[0])}
    all_said = list(falling.values())
    return KnownSizes(
        torch.tensor(list(falling)),
        torch.stack([said.probability for said in all_said]).half(),
        torch.stack([said.rank for said in all_said]).int(),
        torch.stack([said.top[list(strip)] for said in all_said]).int(),
        torch.stack([said.top_probability[list(strip)] for said in all_said]).half(),
    )


def _read(path: Path) -> Answers:
    tensors, _ = read_tensors(path)
    return Answers(**tensors)


def _write(said: Answers, path: Path) -> None:
    tensors: Mapping[str, torch.Tensor] = {part.name: getattr(said, part.name) for part in fields(Answers)}
    save_tensors(tensors, path)
