"""What the browser is told of facts, for models that were asked, partly asked, and not asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.knowledge import KnownSizes
from acip_core.artifacts.loading import Loaded
from acip_core.model.size_planner import BOTH, DIRECTIONS
from acip_core.ui.handlers import Handlers
from acip_core.ui.knowledge import ROUTE
from acip_core.ui.markup import claim
from acip_core.ui.names import known_name
from tests.support import patient
from tests.support.coded import opened_with_codes
from tests.support.knowledge import with_knowledge
from tests.support.visitor import served, tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """A tiny model with codes, asked in all modes."""
    return with_knowledge(opened_with_codes(tiny_loaded()))


def ready(loaded: Loaded) -> Handlers:
    handlers = Handlers(loaded)
    handlers.model.modes.preparation.state = "ready"  # the codes are in
    return handlers


def test_every_position_of_every_mode_has_its_flags(loaded: Loaded, cache: Path) -> None:
    modes = ready(loaded).model.modes
    assert loaded.knowledge is not None
    strip = list(loaded.knowledge.strip)
    facts = modes.knowledge.facts()
    assert facts is not None and facts["of"] == len(loaded.knowledge.facts) and len(facts["facts"]) == len(strip)
    told = modes.told()["modes"]
    assert told.keys() == {"bits", "both"}
    for mode in (DIRECTIONS, "bits", BOTH):
        track = modes.track(mode)
        known = modes.knowledge.known(track)
        assert known is not None and len(known["flags"]) == len(known["shares"]) == len(track.percents)
        assert all(len(flags) == len(strip) for flags in known["flags"]) and known["flags"][-1] == "1" * len(strip)
        assert known["shares"][-1] == 1.0
        opening = track.percents.index(modes.knowledge.opening(track))
        assert min(known["shares"][opening:]) >= 0.9 and (opening == 0 or known["shares"][opening - 1] < 0.9)
        if mode != DIRECTIONS:
            assert told[mode]["known"] == known and told[mode]["opening"] == track.percents[opening]
        said = modes.knowledge.said(track)
        for place, size in enumerate(said["sizes"]):
            right = "".join("1" if rank == 1 else "0" for _, rank, _, _ in said["said"][size])
            assert right == known["flags"][place]
            assert all(len(top) == len(chances) == 5 for _, _, top, chances in said["said"][size])


def test_a_mode_that_was_not_asked_is_told_so(loaded: Loaded, cache: Path) -> None:
    assert loaded.knowledge is not None
    only = {DIRECTIONS: loaded.knowledge.modes[DIRECTIONS]}
    modes = ready(replace(loaded, knowledge=replace(loaded.knowledge, modes=only))).model.modes
    assert modes.knowledge.known(modes.directions) is not None
    assert modes.told()["modes"][BOTH]["known"] is None and modes.told()["modes"][BOTH]["opening"] == 100


def test_positions_of_another_planner_are_not_made_up(loaded: Loaded, cache: Path) -> None:
    assert loaded.knowledge is not None
    of = loaded.knowledge.modes[DIRECTIONS]
    some = KnownSizes(of.bytes[::9], of.probability[::9], of.rank[::9], of.top[::9], of.top_probability[::9])
    modes = Handlers(replace(loaded, knowledge=replace(loaded.knowledge, modes={DIRECTIONS: some}))).model.modes
    assert modes.knowledge.known(modes.directions) is None and modes.knowledge.opening(modes.directions) == 100
    nearly = KnownSizes(of.bytes + 40, of.probability, of.rank, of.top, of.top_probability)
    modes = Handlers(replace(loaded, knowledge=replace(loaded.knowledge, modes={DIRECTIONS: nearly}))).model.modes
    assert modes.knowledge.known(modes.directions) is not None


def test_a_model_that_forgets_at_once_opens_whole(loaded: Loaded, cache: Path) -> None:
    assert loaded.knowledge is not None
    of = loaded.knowledge.modes[DIRECTIONS]
    rank = torch.full_like(of.rank, 9)
    rank[0] = 1
    forgetful = KnownSizes(of.bytes, of.probability, rank, of.top, of.top_probability)
    modes = Handlers(replace(loaded, knowledge=replace(loaded.knowledge, modes={DIRECTIONS: forgetful}))).model.modes
    assert modes.knowledge.opening(modes.directions) == 100


def test_browsers_fetch_what_is_said(loaded: Loaded, cache: Path) -> None:
    with served(loaded) as (address, handlers):
        answer = patient.get(f"{address}{ROUTE}/{DIRECTIONS}")
        assert answer.status_code == 200 and answer.headers["content-encoding"] == "gzip"
        assert answer.json() == handlers.model.modes.knowledge.said(handlers.model.modes.directions)
        for name in ("nothing", "..%2Facip.json", "%00"):
            assert patient.get(f"{address}{ROUTE}/{name}").status_code == 404
    with served(tiny_loaded()) as (address, handlers):
        assert handlers.model.modes.knowledge.facts() is None
        assert patient.get(f"{address}{ROUTE}/{DIRECTIONS}").status_code == 404


def test_the_claim_speaks_of_what_can_be_spent(loaded: Loaded) -> None:
    assert loaded.knowledge is not None
    published = loaded.elastic.planner.base_bytes
    modes = {
        mode: least(known, share * published)
        for (mode, known), share in zip(sorted(loaded.knowledge.modes.items()), (0.25, 0.26, 0.92), strict=True)
    }
    asked = replace(loaded, knowledge=replace(loaded.knowledge, modes=modes))
    name = known_name(loaded.elastic.base)
    still, drag = f"of its size {name} still gives 9 in 10 of its answers", "Drag the slider and see what it forgets."
    assert claim(asked, "bits", "ready") == f"At a quarter {still}. {drag}"
    for state in ("waiting", "running"):
        assert claim(asked, DIRECTIONS, state) == f"At 92 % {still}, and at a quarter once bits can be spent. {drag}"
    assert claim(asked, DIRECTIONS, "ready") == f"At 92 % {still}, and at a quarter where bits are spent. {drag}"
    for state in ("absent", "failed"):
        assert claim(asked, DIRECTIONS, state) == f"At 92 % {still}. {drag}"
    only = {DIRECTIONS: least(modes[DIRECTIONS], 0.97 * published)}
    for odd in (replace(asked, knowledge=replace(loaded.knowledge, modes=only)), replace(loaded, knowledge=None)):
        assert claim(odd, DIRECTIONS, "running").startswith(f"{name}, made smaller on the spot")


def least(known: KnownSizes, size: float) -> KnownSizes:
    """The same facts at two sizes: all of them at the published one and at this one, none below."""
    rank = torch.ones_like(known.rank[:3])
    rank[2] = 2
    sizes = torch.tensor([2 * size, size, size / 2]).long()
    return KnownSizes(sizes, known.probability[:3], rank, known.top[:3], known.top_probability[:3])
