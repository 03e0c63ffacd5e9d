"""Which images an answer on the page is about is never left to be guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

from infimed.serving.media import Look
from infimed.serving.web.holding import About, Finished, Held
from infimed.serving.web.results import CHANGED, NO_IMAGE, as_json, as_sr, as_text, of_images
from tests.serving.web.conftest import Site, Tab
from tests.serving.web.driving import PNG, add, ask, fill, finish, saved, says, tab_named, text

STALE = CHANGED.format(images="1 a.png")


def held(name: str) -> Held:
    return Held(name, "data:", Look(b"", (1, 1), "PNG"))


def gone(tab: Tab, name: str) -> None:
    tab.page.locator(f"#{name}-about").wait_for(state="hidden")


def test_an_answer_is_about_the_very_images_of_its_question():
    a, b, again = held("a.png"), held("b.png"), held("a.png")
    about = About.of([a])
    for name in ("ask", "report", "differential", "consult"):
        assert of_images(name, about, [a]) == ""
        for others in ([a, b], [], [again], [b]):
            assert of_images(name, about, others) == STALE
        assert of_images(name, About.of([a, b]), [b, a]) == CHANGED.format(
            images="1 a.png, 2 b.png"
        )
        assert of_images(name, None, [a]) == ""
        assert of_images(name, About.of([]), [a]) == CHANGED.format(images="no image")
    assert (
        of_images("ask", About.of([]), [])
        == of_images("differential", About.of([]), [])
        == NO_IMAGE
    )
    assert of_images("consult", About.of([]), []) == "", "a complaint needs no image"


def test_images_that_changed_since_are_said_in_every_tab(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, "a.png")
    ask(tab, "What is this?")
    tab_named(tab, "Report")
    finish(tab, "#draft")
    tab_named(tab, "Consult")
    fill(tab, "#message", "I cough.")
    finish(tab, "#send")
    gone(tab, "consult")
    add(tab, PNG, "b.png")
    says(tab, "#consult-about", STALE)
    for tab_name, name in (("Ask", "ask"), ("Report", "report"), ("Consult", "consult")):
        tab_named(tab, tab_name)
        tab.page.locator(f"#{name}-about").wait_for()
        assert text(tab, f"#{name}-about") == STALE
    tab_named(tab, "Differential")
    assert tab.page.locator("#differential-about").is_hidden(), "no answer is there"
    tab_named(tab, "Ask")
    tab.page.locator("#remove").click()
    gone(tab, "ask")
    tab.page.locator("#remove").click()
    says(tab, "#ask-about", STALE)
    add(tab, PNG, "a.png")
    says(tab, "#ask-about", STALE)
    ask(tab, "What is this?")
    gone(tab, "ask")
    tab_named(tab, "Report")
    tab.page.locator("#report-about").wait_for()
    tab_named(tab, "Consult")
    tab.page.locator("#anew").click()
    gone(tab, "consult")


def test_images_that_change_while_an_answer_is_written_are_said(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, "a.png")
    fill(tab, "#question", "long")
    tab.page.locator("#ask").click()
    says(tab, "#answer", "word")
    add(tab, PNG, "b.png")
    says(tab, "#ask-about", STALE)
    tab.page.locator("#ask-stop").click()
    says(tab, "#answer", "(stopped)")
    assert text(tab, "#ask-about") == STALE


def test_a_message_that_nothing_came_of_leaves_the_last_answer_marked(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, "a.png")
    tab_named(tab, "Consult")
    fill(tab, "#message", "I cough.")
    finish(tab, "#send")
    add(tab, PNG, "b.png")
    says(tab, "#consult-about", STALE)
    fill(tab, "#message", "silent")
    tab.page.locator("#send").click()
    gone(tab, "consult")
    tab.page.locator("#send-stop").click()
    tab.page.locator("#consult-about").wait_for()
    assert text(tab, "#consult-about") == STALE


def test_an_answer_without_an_image_says_so(open_tab: Any, site: Site):
    tab = open_tab()
    ask(tab, "Is an effusion visible?")
    tab.page.locator("#ask-about").wait_for()
    assert text(tab, "#ask-about") == NO_IMAGE
    content = saved(tab, "#ask-as-text")[1]
    assert "Images:\n  none\n" in content and NO_IMAGE in content
    assert json.loads(saved(tab, "#ask-as-json")[1])["asked"]["images"] == "none"
    tab_named(tab, "Differential")
    fill(tab, "#candidates", "Pneumonia\nEdema")
    fill(tab, "#history", "Cough.")
    finish(tab, "#rank")
    tab.page.locator("#differential-about").wait_for()
    assert text(tab, "#differential-about") == NO_IMAGE
    add(tab, PNG)
    says(tab, "#differential-about", CHANGED.format(images="no image"))
    finish(tab, "#rank")
    gone(tab, "differential")
    assert NO_IMAGE not in saved(tab, "#differential-as-text")[1]


def test_files_say_where_no_image_was_given():
    result = {
        "answer": "yes",
        "message": "yes",
        "confidence": None,
        "choices": [],
        "escalation": None,
    }
    for writer in (as_text, as_json, as_sr):
        assert NO_IMAGE in writer(Finished("t", "ask", {"images": "none"}, result))
        assert NO_IMAGE not in writer(Finished("t", "ask", {"images": "1. a.png"}, result))
        assert NO_IMAGE not in writer(Finished("t", "consult", {"images": "none"}, result))


def test_of_several_images_all_are_sent_and_the_page_says_so(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, "a.png")
    assert "are sent" not in tab.page.locator("#which").inner_text()
    assert tab.page.locator("#remove-all").is_hidden()
    add(tab, PNG, "b.png")
    said = "All 2 images are sent with the question; choose which to view"
    tab.page.locator("#which", has_text=said).wait_for()
    ask(tab, "What is this?")
    assert len(site.scripted.asked[-1].images) == 2
    tab.page.locator("#remove").click()
    tab.page.locator("#which", has_text="Image of this question").wait_for()
    assert "are sent" not in tab.page.locator("#which").inner_text()
    add(tab, PNG, "c.png")
    tab.page.locator("#remove-all").click()
    tab.page.locator("#which").wait_for(state="hidden")
    tab.page.locator("#remove-all").wait_for(state="hidden")
    ask(tab, "What is this?")
    assert not site.scripted.asked[-1].images
