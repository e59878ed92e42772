"""What may be spent, in a real browser: the choice, the track in megabytes, and what follows it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from playwright.sync_api import BrowserContext, Page, expect

from acip_core.artifacts.completions import EXAMPLES, NEW_TOKENS, REPETITION_PENALTY
from acip_core.ui.handlers import Handlers
from tests.support.browser import newcomers
from tests.support.coded import made_up_peers, with_coding
from tests.support.looks import nothing_in_anybodys_way, seen_in_all_looks
from tests.support.visitor import (
    REQUEST,
    SLIDER,
    at_rest,
    drag,
    figure,
    opened,
    readout,
    served,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
Visit = Callable[..., Page]
SIZE, DIRECTIONS = "#readouts [data-figure=size] dd", "#spend input[value=directions]"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Handlers]]:
    with served(replace(with_coding(tiny_loaded()), peers=made_up_peers())) as (address, handlers):
        thread = handlers.model.modes.preparation._thread
        assert thread is not None
        thread.join()
        handlers.model.engine.ends = frozenset()
        handlers.model.windows = lambda corpus: torch.randint(
            3, 128, (16, 24), generator=torch.Generator().manual_seed(1)
        )
        yield address, handlers


@pytest.fixture
def visit(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[Visit]:
    """Opens the page for a new visitor; afterwards there must have been no console error and no strange request."""
    wrong: list[str] = []
    with newcomers(profile) as newcomer:

        def visited(link: str = "", context: BrowserContext | None = None) -> Page:
            page = opened(context or newcomer(), server[0], wrong, link)
            expect(page.locator("#spend [data-modes=ready]")).to_be_attached()
            return page

        yield visited
    assert wrong == []


@pytest.fixture
def page(kept: tuple[Page, list[str]]) -> Iterator[Page]:
    """One tab for several tests, where both are spent."""
    tab, wrong = kept
    tab.check("#spend input[value=both]")
    at_rest(tab)
    yield tab
    assert wrong == []


def row(handlers: Handlers, percent: float, mode: str = "both") -> dict[str, float]:
    rows = handlers.model.modes.told()["modes"][mode]["rows"]
    return min(rows, key=lambda each: abs(each["percent"] - percent))


def test_both_is_the_default_and_the_track_ends_at_the_published_size(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    expect(page.locator("#spend input[value=both]")).to_be_checked()
    expect(page.locator(SIZE)).to_have_text("0.085 MB 100 % of 0.085 MB")
    assert figure(page, "worse") == "1.00 × nothing is lost" and figure(page, "same") == "100 % of the time"
    spoken = (
        "size: 0.085 MB 100 % of 0.085 MB",
        "how much worse: 1.00 × nothing is lost",
        "says the same: 100 % of the time",
    )
    assert page.locator(SLIDER).get_attribute("aria-valuetext") == ", ".join(spoken)
    assert "mode=both" in page.url
    expect(page.locator("#precision")).to_have_count(0)


def test_the_track_is_logarithmic_and_says_what_a_size_costs(page: Page, server: tuple[str, Handlers]) -> None:
    drag(page, 65)  # halfway
    page.mouse.up()
    percents = server[1].model.modes.track("both").percents
    wait_state(page, "done", percents[35])  # type: ignore[arg-type]
    assert abs(percents[35] - (percents[0] * 100) ** 0.5) < 2
    found = row(server[1], percents[35])
    expect(page.locator(SIZE)).to_contain_text(f"{percents[35]} % of 0.085 MB")
    words = "the perplexity, predicted" if found["predicted"] else "the perplexity"
    assert found["bytes"] < 0.98 * percents[35] / 100 * server[1].model.modes.told()["modes"]["both"]["published"]
    assert figure(page, "worse") == f"{found['relative']:.2f} × {words}: {found['bytes'] / 1e6:.3f} MB are enough"
    assert readout(page, "ratio") == f"{found['ratio']:.3f}"
    assert f"size={percents[35]}&" in page.url
    settings = (0.0, 1.0, 0, NEW_TOKENS, False, REQUEST, "both", REPETITION_PENALTY)
    last = list(server[1].complete(EXAMPLES[0], percents[35], *settings))[-1]
    assert text(page) == last["text"]
    seen_in_all_looks(page, SLIDER, "#readouts .figures", in_view=True)
    page.click("#readouts summary")
    page.locator(".aim select").select_option("bytes")
    page.fill(".aim input", str(percents[35] / 100 * 0.0851))
    page.press(".aim input", "Enter")
    enough = min(p for p in percents if row(server[1], p)["bytes"] == found["bytes"])
    assert enough < percents[35]
    expect(page).to_have_url(re.compile(f"size={enough}&"))


def test_another_mode_stands_at_the_same_megabytes_and_runs_at_once(visit: Visit) -> None:
    page = visit()  # who was in no other mode, which would open where it was left
    wait_state(page, "done", 100)
    page.check(DIRECTIONS)
    wait_state(page, "done", 100)
    drag(page, 60)
    page.mouse.up()
    wait_state(page, "done", 60)
    expect(page.locator(SLIDER)).to_have_value("60")
    expect(page.locator(SIZE)).to_contain_text("(60 % of the layers)")
    seen_in_all_looks(page, SIZE, SLIDER, in_view=True)
    former, size = text(page), page.locator("#visits [aria-current]").text_content()
    page.check("#spend input[value=bits]")
    expect(page.locator("#visits .chips li")).to_have_count(4)
    share = float(re.findall(r"size=([\d.]+)&", page.url)[0])
    assert "mode=bits" in page.url and share == pytest.approx(68, abs=3)
    page.locator("#visits .chips button", has_text=size or "").click()
    expect(page.locator(DIRECTIONS)).to_be_checked()
    assert text(page) == former and "mode=directions" in page.url


def test_side_by_side_starts_with_the_sizes_of_the_mode(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.click("#compare")
    page.wait_for_selector('#comparison [data-state="done"]')
    columns = page.locator("#comparison .column")
    shown = [columns.nth(i).get_attribute("data-percent") for i in range(columns.count())]
    assert shown == ["100", "40", "30", "24"]
    names = ["0.0846 MB", "0.0338 MB", "0.0254 MB", "0.0203 MB"]  # as everywhere else in this mode
    assert [each.strip() for each in page.locator("#compare-sizes .token").all_text_contents()] == names
    for i, (share, name) in enumerate(zip(shown, columns.locator(".head b").all_text_contents(), strict=True)):
        assert name.endswith(" MB") and float(name[:-3]) == pytest.approx(float(names[i][:-3]), abs=0.0006)
        expect(columns.nth(i).locator(".head span")).to_contain_text(f"{share} % · ")
    page.check(DIRECTIONS)
    expect(page.locator("#compare-sizes")).to_contain_text("60 %")
    page.click("#compare")
    expect(page.locator('#comparison .column[data-percent="80"] .head b')).to_have_text("80 %")
    page.wait_for_selector('#comparison [data-state="done"]')


def test_the_plot_is_that_of_the_mode(visit: Visit, server: tuple[str, Handlers]) -> None:
    page = visit()
    wait_state(page, "done", 100)
    plot = page.locator("#chart .plot")
    expect(plot).to_have_attribute("data-axis", "megabytes")
    expect(page.locator("[data-axis] >> visible=true").locator("option")).to_have_count(0)
    read = "(() => document.querySelector('#chart .plot').data.map((trace) => [trace.name, [...trace.x]]))()"
    drawn = dict(page.evaluate(read))
    made = server[1].model.modes.told()["modes"]["both"]["figure"]
    assert all(drawn[trace["name"]] == trace["x"] for trace in made["data"])
    page.click("#measure")
    expect(page.locator("#chart .status")).to_contain_text("Measured 0.0846 MB")
    assert len(dict(page.evaluate(read))["measured here"]) == 2
    page.check(DIRECTIONS)
    expect(plot).to_have_attribute("data-axis", "bytes")
    drawn = dict(page.evaluate(read))
    own = "document.querySelector('#chart .plot').data[0].customdata.map(([megabytes]) => megabytes)"
    assert drawn["C4"] == page.evaluate(own) and drawn["measured here"] == []


def test_the_table_of_the_plot_says_what_its_values_are(page: Page) -> None:
    def table() -> tuple[str, dict[str, list[list[str]]]]:
        with page.expect_download() as file:
            page.click('[data-save="csv"]')
        head, *lines = file.value.path().read_text(encoding="utf-8").splitlines()
        rows = [next(csv.reader([line])) for line in lines]
        return head, {row[0]: [each[1:] for each in rows if each[0] == row[0]] for row in rows}

    plot = page.locator("#chart .plot")
    expect(plot).to_have_attribute("data-axis", "megabytes")
    head, relative = table()
    assert head == "series,size in %,MB,perplexity ÷ the original's,± %"
    assert relative["C4"][-1][1:3] == ["0.06", "1.01"]
    page.check(DIRECTIONS)
    expect(plot).to_have_attribute("data-axis", "bytes")
    page.focus(SLIDER)
    page.keyboard.press("End")
    page.click("#measure")
    expect(page.locator("#chart .status")).to_contain_text("Measured 100 %")
    head, plain = table()
    assert head == "series,size in %,MB,perplexity,± %" and float(plain["C4"][-1][2]) == pytest.approx(30)
    (star,) = plain["C4, measured here"]
    whole = float(relative["predicted"][-1][1])
    assert star[0] == "100" and float(star[1]) == pytest.approx(whole) and float(star[3]) > 0
    assert "Wikipedia, measured here" in plain and "measured here" not in plain


def test_other_quantizers_join_the_plot_when_asked_for(page: Page) -> None:
    plot, switch = page.locator("#chart .plot"), page.get_by_label("other methods")
    names = "(() => document.querySelector('#chart .plot').data.map((trace) => trace.name))()"
    expect(plot).to_have_attribute("data-axis", "megabytes")
    assert "GPTQ" not in page.evaluate(names) and not switch.is_checked()
    page.click("#measure")
    expect(page.locator("#chart .status")).to_contain_text("Measured 0.0846 MB")
    switch.check()
    page.wait_for_function(f"{names}.includes('GPTQ')")
    drawn = "(() => Object.fromEntries(document.querySelector('#chart .plot').data.map((t) => [t.name, [...t.x]])))()"
    shown = page.evaluate(drawn)
    seen_in_all_looks(page, "#chart .xtitle", "#chart .ytitle", "#chart .entries .term", "#chart [data-others]")
    assert shown["GPTQ"] == [0.04, 0.05] and shown["round-to-nearest"] == [0.052]  # at their own bytes
    assert len(shown["measured here"]) == 2  # what the visitor measured stays
    page.check(DIRECTIONS)
    expect(switch).to_be_hidden()
    assert "GPTQ" not in page.evaluate(names)
    page.check("#spend input[value=bits]")
    page.wait_for_function(f"{names}.includes('GPTQ')")
    switch.uncheck()
    page.wait_for_function(f"!{names}.includes('GPTQ')")


def test_inside_the_cut_and_how_it_works_follow_what_is_spent(visit: Visit) -> None:
    page = visit(link="size=40&mode=bits")
    wait_state(page, "done", 40)
    page.click("#pictures > button")
    expect(page.locator("#bytes .plot[data-ready=true]")).to_have_count(2)
    expect(page.locator("#efficiency .next")).to_contain_text("The next megabyte buys")
    expect(page.locator("#score-map")).to_be_hidden()
    cells = "JSON.stringify(document.querySelector('#bytes .plot').data[0].z)"
    before = page.evaluate(cells)
    page.focus(SLIDER)
    for _ in range(2):
        page.keyboard.press("PageDown")
    percent = re.findall(r"([\d.]+) % of", figure(page, "size"))[0]
    expect(page.locator("#bytes .plot").first).to_have_attribute("data-percent", percent)
    assert page.evaluate(cells) != before
    page.click("[data-method]")
    plots = page.locator("#how .plot[data-ready=true]")
    expect(plots).to_have_count(4)
    bought = "document.querySelectorAll('#how .plot')[1].data.at(-1).x.at(-1)"
    before = page.evaluate(bought)
    page.focus(SLIDER)
    for _ in range(2):
        page.keyboard.press("PageDown")
    percent = re.findall(r"([\d.]+) % of", figure(page, "size"))[0]
    for number in range(4):
        expect(plots.nth(number)).to_have_attribute("data-percent", percent)
    page.wait_for_function(f"{bought} < {before}")
    page.keyboard.press("Escape")
    page.check(DIRECTIONS)
    expect(page.locator("#score-map .plot[data-ready=true]")).to_have_count(2)
    expect(page.locator("#bytes")).to_be_hidden()
    page.click("[data-method]")
    expect(page.locator("#how h3").first).to_have_text("1. A weight becomes directions")
    expect(plots).to_have_count(5)


def test_a_text_of_ones_own_is_drawn_against_megabytes(page: Page, server: tuple[str, Handlers]) -> None:
    page.click("#reading > button")
    page.fill("#own-text textarea", "A fox sees nine dogs.")
    page.click("#read")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    drawn = page.evaluate(
        "(() => { const { data, layout } = document.querySelector('#read-out .plot'); "
        "return [[...data[0].x], layout.xaxis.title.text]; })()"
    )
    assert drawn[1] == "size of the whole model, MB"
    rows = [row["bytes"] / 1e6 for row in server[1].model.modes.told()["modes"]["both"]["rows"]]
    assert all(min(abs(x - size) for size in rows) < 1e-4 for x in drawn[0])


def test_a_link_restores_mode_and_size_and_an_older_one_means_directions(visit: Visit) -> None:
    page = visit(link="size=24&mode=bits")
    wait_state(page, "done", 24)
    expect(page.locator("#spend input[value=bits]")).to_be_checked()
    older = visit("size=63", page.context)
    wait_state(older, "done", 63)
    expect(older.locator(DIRECTIONS)).to_be_checked()
    odd = visit("size=1e9&mode=%3Cb%3E", page.context)
    wait_state(odd, "done", 100)
    expect(odd.locator(DIRECTIONS)).to_be_checked()


def test_nothing_serious_in_the_way_of_anybody(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.click("#pictures > button")
    expect(page.locator("#bytes .plot[data-ready=true]")).to_have_count(2)
    seen_in_all_looks(page, "#bytes h3", "#bytes figcaption", "#bytes .terms", "#efficiency .next")
    nothing_in_anybodys_way(page)
