"""How it works: five pictures of the model's own data, in a drawer beside the slider."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import expect

from acip_core.artifacts.loading import Loaded
from acip_core.figures.pictures import layer_types
from acip_core.model.second_moments import plain_basis
from acip_core.model.size_planner import DENSE
from acip_core.ui.galleries import Galleries
from tests.support.browser import Newcomer
from tests.support.visitor import SLIDER, opened, served, tiny_loaded, wait_state

pytestmark = pytest.mark.long

TITLES = [
    "1. A weight becomes directions",
    "2. One order for all directions",
    "3. A size is a cut",
    "4. Thin where it pays, whole where not",
    "5. What a size costs",  # its artifact has no curves without adapters
]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return tiny_loaded()


def test_the_first_directions_carry_most(loaded: Loaded) -> None:
    first, *_ = Galleries(loaded).made("method")
    for line in first["figure"]["data"]:
        share = np.array(line["y"])
        assert share[0] == 0 and share[-1] == 100 and (np.diff(share) >= 0).all()
    ours, plain = (np.array(line["y"]) for line in first["figure"]["data"])
    assert (ours >= plain - 0.01).all()  # best for the outputs, direction by direction


def test_the_kept_part_shrinks_with_the_size(loaded: Loaded) -> None:
    _, order, *_ = Galleries(loaded).made("method")
    shares = [max(order["frames"][str(percent)][0][1]["x"]) for percent in range(30, 101)]
    assert shares == sorted(shares) and shares[-1] == 100 and shares[0] < 50
    line = np.array(order["figure"]["data"][0]["y"])
    assert line[0] == 0 and (np.diff(line) <= 0).all()


def test_every_layer_costs_what_the_plan_says(loaded: Loaded) -> None:
    price = Galleries(loaded).made("method")[3]
    layers = loaded.elastic.elastic_layers()
    kinds = layer_types(loaded.artifact)
    sizes = [layers[name].weight.numel() for names in kinds.values() for name in names]
    for percent in (30, 60, 90):
        plan = loaded.elastic.planner.at_ratio(percent / 100)
        shown = [y for _, values in price["frames"][str(percent)] for y in values["y"]]
        assert shown.count(100) == plan.ranks.count(DENSE)
        cost = sum(y / 100 * size for y, size in zip(shown, sizes, strict=True))
        assert cost == pytest.approx(plan.target_parameters, rel=2e-3)


def test_what_an_artifact_lacks_is_left_out() -> None:
    without = tiny_loaded(curves=False)
    assert [picture["title"] for picture in Galleries(without).made("method")] == TITLES[:4]
    weights = {name: layer.weight for name, layer in without.elastic.elastic_layers().items()}
    plain = replace(without, artifact=replace(without.artifact, basis=plain_basis(weights)))
    first = Galleries(plain).made("method")[0]
    assert len(first["figure"]["data"]) == 1 and "text" not in first["note"]


def test_unknown_galleries_are_refused(loaded: Loaded) -> None:
    for name in ("", "score-map", "score-map.<b>", "nothing.q_proj"):
        with pytest.raises(KeyError):
            Galleries(loaded).made(name)


@pytest.mark.browser
def test_the_drawer_follows_the_slider_and_closes(newcomer: Newcomer, loaded: Loaded) -> None:
    wrong: list[str] = []
    with served(loaded) as (address, _):
        page = opened(newcomer(), address, wrong)
        wait_state(page, "done", 100)
        assert page.locator("#how").is_hidden() and page.locator("#how .plot").count() == 0
        page.focus("[data-method]")
        page.keyboard.press("Enter")
        expect(page.locator("#how h3")).to_have_text(TITLES)
        expect(page.locator("#how .plot[data-ready=true]")).to_have_count(5)
        page.focus(SLIDER)
        for _ in range(3):
            page.keyboard.press("PageDown")
        for number in (1, 2, 3, 4):
            expect(page.locator("#how .plot").nth(number)).to_have_attribute("data-percent", "70")
        at = page.evaluate("document.querySelectorAll('#how .plot')[4].data.at(-1).x")
        assert list(at) == [70, 70]
        page.keyboard.press("Escape")
        expect(page.locator("#how")).to_be_hidden()
        assert page.evaluate("document.activeElement.hasAttribute('data-method')")
        page.close()
    assert wrong == []


@pytest.mark.browser
def test_pictures_that_did_not_arrive_can_be_asked_for_again(newcomer: Newcomer, loaded: Loaded) -> None:
    with served(loaded) as (address, _):
        page = opened(newcomer(), address, [])
        page.route("**/acip/pictures/*", lambda route: route.abort())
        page.click("[data-method]")
        expect(page.locator("#how .status")).to_contain_text("did not arrive")
        page.unroute("**/acip/pictures/*")
        page.click("#how .status button")
        expect(page.locator("#how .plot[data-ready=true]")).to_have_count(5)
        page.close()


SHIFTS = """() => {
  window.shifts = [];
  const element = (node) => node instanceof Element ? node : node.parentElement;
  const seen = ({ node, previousRect, currentRect }) => element(node).closest("#how") ? [] :
    [`${element(node).outerHTML.slice(0, 70)} ${JSON.stringify(previousRect)} ${JSON.stringify(currentRect)}`];
  new PerformanceObserver((list) => list.getEntries().forEach(({ sources }) => shifts.push(...sources.flatMap(seen))))
    .observe({ type: "layout-shift" });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_moves_while_text_streams(newcomer: Newcomer, loaded: Loaded, width: int) -> None:
    wrong: list[str] = []
    with served(loaded) as (address, _):
        page = opened(newcomer(), address, wrong)
        page.set_viewport_size({"width": width, "height": 900})
        wait_state(page, "done", 100)
        page.wait_for_function("() => document.querySelectorAll('#readouts .ready i').length >= 14")
        page.evaluate(SHIFTS)
        for button, done in (("#run", "#completion"), ("#measure", "#chart")):
            with page.expect_response("**/queue/join*"):  # it may be done before anybody sees it run
                page.evaluate("selector => document.querySelector(selector).click()", button)
            page.wait_for_selector(f'{done} [data-state="done"]')
        assert page.evaluate("shifts") == []
        page.evaluate("document.querySelector('[data-method]').click()")
        expect(page.locator("#how .plot[data-ready=true]")).to_have_count(5)
        moved = [
            shift
            for shift in page.evaluate("shifts")
            if not all("how" in node or "pictures" in node for node in shift[1:])
        ]
        assert moved == []
        page.close()
    assert wrong == []
