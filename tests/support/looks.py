"""What a visitor can see of a page in the state that a test has reached: at both widths, in light and dark."""

from __future__ import annotations

import time
from collections.abc import Iterator

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, TimeoutError

from tests.support.browser import PATIENCE

WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
# In an order that changes one of the two at a time, for the page is drawn anew each time; it begins and ends in light.
LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "dark"), ("phone", "light")]
# What is wrong with the elements that a selector finds, as sentences.
_WRONG = """
([selectors, inView]) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = color;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [...[r, g, b].map((c, i) => c * a + below[i] * (1 - a)), 1];
  const behind = (element) => {
    if (!element) return rgba(getComputedStyle(document.documentElement).colorScheme === "dark" ? "black" : "white");
    const color = rgba(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color : over(color, behind(element.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (element) => {
    const style = getComputedStyle(element), below = behind(element);
    const [a, b] = [light(over(rgba(style.fill !== "rgb(0, 0, 0)" && element.closest("svg") ? style.fill : style.color),
                               below)), light(below)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const edge = (element) => {
    const style = getComputedStyle(element), below = behind(element.parentElement);
    const [a, b] = [light(over(rgba(style.borderTopColor), below)), light(below)];
    return parseFloat(style.borderTopWidth) > 0 ? (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) : 1;
  };
  // What a term means stands over its neighbours, where a test left the pointer over one.
  const isSentence = (element) => element.closest("#meaning") !== null;
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const isLarge = ({ fontSize, fontWeight }) =>
    parseFloat(fontSize) >= (Number(fontWeight) >= 700 ? 18.66 : 24);
  const wrong = [];
  if (inView) scrollTo({ top: 0, behavior: "instant" });
  for (const selector of selectors) {
    const isThere = (each) => each.checkVisibility({ visibilityProperty: true });
    const found = [...document.querySelectorAll(selector)].filter(isThere);
    if (!found.length) wrong.push(`${selector} is not to be seen`);
    for (const element of found) {
      const name = `${selector} "${(element.textContent ?? "").trim().slice(0, 30)}"`;
      if (!inView) element.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
      const { left, right, top, bottom, width, height } = element.getBoundingClientRect();
      if (width < 1 || height < 1) wrong.push(`${name} has no size`);
      if (left < -0.5 || right > innerWidth + 0.5) wrong.push(`${name} leaves the window: ${left} to ${right}`);
      if (inView && (top < -0.5 || bottom > innerHeight + 0.5)) wrong.push(`${name} is below or above the window`);
      const style = getComputedStyle(element);
      if (["hidden", "clip"].includes(style.overflowX) && style.textOverflow !== "ellipsis"
          && element.scrollWidth > element.clientWidth + 1)
        wrong.push(`${name} is cut off`);
      if (element.matches("textarea, select, input[type=number]") && edge(element) < 3)
        wrong.push(`${name} has an edge with a contrast of ${edge(element).toFixed(2)}`);
      const [x, y] = [left + width / 2, Math.min(Math.max(top + height / 2, 1), innerHeight - 1)];
      const front = document.elementFromPoint(x, y);
      if (style.pointerEvents !== "none" && front && !element.contains(front) && !front.contains(element)
          && getComputedStyle(front).pointerEvents !== "none" && !element.closest("svg") && !isSentence(front))
        wrong.push(`${name} lies under ${front.tagName}.${front.className}`);
      for (const words of [element, ...element.querySelectorAll("*")]) {
        if (!hasText(words) || words.closest(":disabled, [hidden]") || !isThere(words)) continue;
        const own = getComputedStyle(words), ratio = contrast(words);
        if (own.backgroundImage === "none" && ratio < (isLarge(own) ? 3 : 4.5))
          wrong.push(`"${words.textContent.trim().slice(0, 30)}" of ${selector} has a contrast of ${ratio.toFixed(2)}`);
      }
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is wider than its window");
  return wrong;
}
"""


def looks(page: Page, zoom: int = 1) -> Iterator[tuple[str, str]]:
    """The page in each of the four, one after another, without loading it anew; afterwards as it was.

    Args:
        zoom: how much larger everything is; it leaves so much less of the window.

    Yields:
        Width, "desktop" or "phone", and color scheme.
    """
    before = page.viewport_size
    try:
        for width, scheme in LOOKS:
            across, down = WIDTHS[width]
            page.set_viewport_size({"width": across // zoom, "height": down // zoom})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            yield width, scheme
    finally:
        page.emulate_media(color_scheme="light")
        if before is not None:
            page.set_viewport_size(before)


def seen_in_all_looks(page: Page, *selectors: str, in_view: bool = False, zoom: int = 1) -> None:
    """As `can_be_seen`, in all four.

    Args:
        zoom: as `looks`.
    """
    for width, scheme in looks(page, zoom):
        can_be_seen(page, *selectors, in_view=in_view, look=f"{width}, {scheme}: ")


def can_be_seen(page: Page, *selectors: str, in_view: bool = False, look: str = "") -> None:
    """Each is there: whole, within the window, over everything else, with text and edges that can be seen.

    Args:
        in_view: at the top of the page, without scrolling.
        look: what a failure begins with.
    """
    asked = [selectors, in_view]
    try:  # colors fade, plots are drawn anew
        page.wait_for_function(f"(asked) => !({_WRONG.strip()})(asked).length", arg=asked, polling=100)
    except TimeoutError:
        if wrong := page.evaluate(_WRONG, asked):
            raise AssertionError(look + "; ".join(wrong)) from None


def nothing_in_anybodys_way(page: Page) -> None:
    """axe finds nothing in any of the four."""
    for width, scheme in looks(page):
        until = time.monotonic() + PATIENCE / 1000  # colors fade
        while found := Axe().run(page).response["violations"]:
            told = [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found]
            assert time.monotonic() < until, (width, scheme, told)
