"""The page for everyone: keyboard, phone, contrast, and a browser that has nothing to complain about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.web.conftest import Site
from tests.serving.web.driving import PNG, add, ask, fill, finish, tab_named

pytest.importorskip("gradio", reason="the extra 'web' is not installed")


def fill_all(tab: Any) -> None:
    """Every tab with a result in it; the first is shown at the end."""
    add(tab, PNG, "a-rather-long-file-name-of-a-radiograph-from-the-archive-2026-01-01.png")
    for name, box, value, button in (
        ("Report", "#indication", "Cough.", "#draft"),
        ("Differential", "#candidates", "Pneumonia\nEdema", "#rank"),
        ("Consult", "#message", "I have chest pain.", "#send"),
    ):
        tab_named(tab, name)
        fill(tab, box, value)
        finish(tab, button)
    tab_named(tab, "Ask")
    ask(tab, "Is it normal?")
    tab.page.locator("#look").click()
    tab.page.locator("#overlay img").wait_for()


def test_everything_can_be_done_with_the_keyboard(open_tab: Any, site: Site):
    tab = open_tab()
    tab.page.locator("#question textarea").focus()
    tab.page.keyboard.type("Is it normal?")
    tab.page.keyboard.press("Control+Enter")
    tab.page.locator("#ask-as-text").wait_for()
    reached = set()
    tab.page.locator("body").evaluate("() => document.activeElement.blur()")
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        reached.add(tab.page.evaluate("() => { const e = document.activeElement; return e.closest('[id]')?.id + '/' + e.tagName }"))  # fmt: skip
    seen = " ".join(sorted(map(str, reached)))
    for part in ("drop", "question", "answer", "ask-as-text"):
        assert part in seen, seen


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_has_room_for_everything(open_tab: Any, site: Site, width: int):
    tab = open_tab(width, 844, has_touch=True, is_mobile=True)
    fill_all(tab)
    for name in ("Ask", "Report", "Differential", "Consult"):
        tab_named(tab, name)
        wide = tab.page.evaluate("() => [document.scrollingElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], (name, wide)
        note = tab.page.locator("header.infimed [role=note]")
        tab.page.mouse.wheel(0, 3000)
        box = note.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] < 300, "in sight"
        tab.page.mouse.wheel(0, -9000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_tab: Any, site: Site, scheme: str):
    tab = open_tab(color_scheme=scheme)
    fill_all(tab)
    for name in ("Ask", "Report", "Differential", "Consult"):
        tab_named(tab, name)
        tab.page.wait_for_timeout(300)  # colours fade in
        assert tab.page.evaluate(CONTRAST) == [], name


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 })
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > .9) return c } return [255, 255, 255, 1] };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || (e.matches("textarea, input:not([type=range], [type=radio], [type=checkbox], [type=file])") && e.value);
    const box = e.getBoundingClientRect();
    if (!own || !box.width || !box.height || e.closest(".unseen, script, style, noscript") || getComputedStyle(e).visibility === "hidden") continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, (e.value || e.textContent).trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return poor;
}"""


def test_no_error_in_the_console_and_no_script_is_refused(open_tab: Any, site: Site):
    tab = open_tab()
    fill_all(tab)
    assert tab.errors == []
