"""What `seen_in_all_looks` finds wrong: the tests of the page rest on it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.support.browser import PATIENCE
from tests.support.looks import seen_in_all_looks

pytestmark = [pytest.mark.browser, pytest.mark.long]
CASES = {
    "is not to be seen": '<p id="x" hidden>words</p>',
    "has no size": '<p id="x"></p>',
    "leaves the window": '<p id="x" style="position: absolute; left: -9px">words</p>',
    "below or above": '<div style="height: 2000px"></div><p id="x">words</p>',
    "is cut off": '<p id="x" style="width: 50px; overflow: hidden; white-space: nowrap">many words in a row</p>',
    "lies under": '<p id="x">words</p><div style="position: fixed; inset: 0"></div>',
    "has a contrast of 1.": '<p id="x" style="color: #ddd">words</p>',
    "has an edge with a contrast of 1.": '<textarea id="x" style="border: 1px solid #ddd">words</textarea>',
    "is wider than its window": '<p id="x">words</p><div style="width: 9999px">.</div>',
}
DARK = "<style>@media (prefers-color-scheme: dark) { p { color: black; background: #222 } }</style>"
NARROW = "<style>@media (max-width: 500px) { p { display: none } }</style>"


def test_each_fault_is_found(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content('<p id="x">words</p>')
    seen_in_all_looks(page, "#x", in_view=True)
    cases = [
        *CASES.items(),
        ("desktop, dark: .* contrast", DARK + '<p id="x">words</p>'),
        ("^phone", NARROW + '<p id="x">words</p>'),
    ]
    page.set_default_timeout(200)  # nothing here fades
    page.set_default_navigation_timeout(PATIENCE)
    for told, body in cases:
        page.set_content(body)
        with pytest.raises(AssertionError, match=told):
            seen_in_all_looks(page, "#x", in_view=True)
    page.close()
