"""The four tabs in a real browser: what a clinician does, and what an attacker tries."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from infimed.serving.web.results import NO_REPORT
from tests.data.samples import dicom_bytes, encoded
from tests.serving.web.conftest import Site
from tests.serving.web.driving import (
    PNG,
    add,
    ask,
    changes,
    fill,
    finish,
    grows,
    move,
    picture,
    saved,
    says,
    shown,
    tab_named,
    text,
)
from tests.serving.web.scripted import SCRIPT
from tests.serving.world import until

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

NAME = "<img src=x onerror=alert(3)>.png"


def test_a_question_about_a_png_is_answered_word_by_word(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    assert "300 × 200" in text(tab, "#facts")
    fill(tab, "#question", "Is an effusion visible?")
    tab.page.locator("#question textarea").press("Enter")
    grows(tab, "#answer", "No effusion is visible.")
    tab.page.locator("#ask-as-text").wait_for()
    assert "not known" in text(tab, "#sure")
    asked = site.scripted.asked[-1]
    assert asked.question == "Is an effusion visible?" and len(asked.images) == 1
    name, content = saved(tab, "#ask-as-text")
    assert name == "infimed-ask.txt"
    assert "No effusion is visible." in content and "chest.png" in content
    name, content = saved(tab, "#ask-as-json")
    assert name == "infimed-ask.json" and json.loads(content)["asked"]["question"] == asked.question
    name, content = saved(tab, "#ask-as-sr")
    assert name == "infimed-ask.sr.json" and "not a DICOM object" in content


def test_the_evidence_is_laid_over_the_very_pixels_of_the_picture(open_tab: Any, site: Site):
    tab = open_tab()
    pixels = np.full((160, 320), 40, np.uint8)
    pixels[100:, 200:] = 90
    add(tab, encoded(pixels))
    ask(tab, "What is this?")
    tab.page.locator("#look").click()
    tab.page.locator("#overlay img").wait_for()
    over, under = shown(tab, "#overlay"), shown(tab)
    assert over.shape == under.shape == (160, 320, 3)
    hot = np.abs(over.astype(int) - under).sum(axis=2) > 60
    assert hot[:60, :120].all(), "the upper left quarter is what matters"
    assert np.array_equal(over[100:, 200:], under[100:, 200:]), "the rest is the picture itself"
    assert SCRIPT in text(tab, "#near") and "licence CC-BY-4.0" in text(tab, "#near")
    asked = site.service.evidence.asked[-1]  # type: ignore[attr-defined]
    assert (asked.question, asked.answer) == ("What is this?", "No effusion is visible.")
    tab.page.locator("#method label", has_text="gradient").click()
    tab.page.locator("#look").click()
    says(tab, "#note", "The answer hardly depends on the image.")
    tab.page.locator("#overlay").wait_for(state="hidden")


def test_the_evidence_is_of_the_image_as_it_was_asked_about(open_tab: Any, site: Site):
    ramp = (np.arange(40 * 60).reshape(40, 60) - 1000).astype(np.int16)
    tab = open_tab()
    add(tab, dicom_bytes(ramp, Modality="CT", RescaleIntercept=0, RescaleSlope=1, WindowCenter=0, WindowWidth=2000), "ct.dcm")  # fmt: skip
    move(tab, "#center", 300)
    says(tab, "#facts", "window 300/2000")
    ask(tab, "What is this?")
    then, place = shown(tab), picture(tab)
    move(tab, "#center", -800)
    changes(tab, place)
    tab.page.locator("#look").click()
    tab.page.locator("#overlay img").wait_for()
    assert site.service.evidence.asked[-1].image.window == [300.0, 2000.0]  # type: ignore[attr-defined]
    assert np.array_equal(shown(tab, "#overlay")[30:, 45:], then[30:, 45:])
    assert "as it was when the question was asked" in text(tab, "#note")
    add(tab, PNG, "later.png")
    tab.page.locator("#look").click()
    says(tab, "#answer-problem", "This image was added after the question.")


def test_looking_says_how_long_it_takes_and_that_it_can_be_long(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    ask(tab, "slow")
    names = tab.page.locator("#method label").all_inner_texts()
    assert [name.strip() for name in names] == ["By hiding parts (slower, more direct)", "By gradient (quicker, rougher)"]  # fmt: skip
    tab.page.locator("#look").click()
    for seconds in ("0", "[1-9]"):
        waiting = re.compile(rf"Looking … {seconds} s \(this can take a minute on a CPU\)")
        tab.page.locator("#look", has_text=waiting).wait_for()
        assert tab.page.locator("#look").is_disabled()
    tab.page.locator("#overlay img").wait_for()
    tab.page.locator("#look:enabled", has_text="Show it on the image").wait_for()
    for box, name in (
        ("#sure", "How sure this answer is"),
        ("#note", "About where the model looked"),
    ):
        field = tab.page.locator(box).get_by_role("textbox", name=name, exact=True)
        assert field.count() == 1, box


def test_an_answer_below_the_threshold_is_behind_a_click(open_tab: Any, site: Site):
    site.scripted.calibration = object()
    try:
        tab = open_tab()
        fill(tab, "#question", "unsure")
        tab.page.locator("#ask").click()
        tab.page.locator("#unsure").wait_for()
        tab.page.locator("#answer").wait_for(state="hidden")  # the text is behind a click
        assert "30 %" in text(tab, "#sure")
        tab.page.locator("#reveal").click()
        tab.page.locator("#answer").wait_for()
        assert text(tab, "#answer") == "No effusion is visible."
        fill(tab, "#question", "sure")
        tab.page.locator("#ask").click()
        tab.page.locator("#bars meter[aria-valuenow='82']").wait_for()
        tab.page.locator("#unsure").wait_for(state="hidden")
    finally:
        site.scripted.calibration = None


def test_choices_have_a_bar_each(open_tab: Any, site: Site):
    tab = open_tab()
    fill(tab, "#question", "Which?")
    tab.page.get_by_role("button", name="Choose among given answers").click()
    fill(tab, "#choices", "left\n\n right \nboth\n")
    tab.page.locator("#ask").click()
    tab.page.locator("#bars meter").nth(2).wait_for()
    assert site.scripted.asked[-1].choices == ["left", "right", "both"]
    names = [t.strip() for t in tab.page.locator("#bars dt").all_inner_texts()]
    assert names == ["left: 33 %", "right: 33 %", "both: 33 %"]
    assert "not probabilities" in tab.page.locator("#bars").inner_text()


def test_a_report_is_drafted_compared_edited_and_saved(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    tab_named(tab, "Report")
    fill(tab, "#indication", "Cough.")
    with tab.page.expect_file_chooser() as waiting:
        tab.page.locator("#prior").click()
    waiting.value.set_files({"name": "old.png", "mimeType": "image/png", "buffer": PNG})
    tab.page.locator("#prior-name").wait_for()
    tab.page.locator("#draft").click()
    grows(tab, "#findings", "The heart is of normal size. No effusion.")
    says(tab, "#impression", "Normal chest.")
    says(tab, "#comparison", "Unchanged.")
    tab.page.locator("#report-as-text").wait_for()
    assert text(tab, "#rest") == "Chest, two views."
    asked = site.scripted.asked[-1]
    assert asked.indication == "Cough." and asked.language == "en" and asked.prior is not None
    fill(tab, "#impression", "Normal chest, by me.")
    tab.page.locator("#findings textarea").press("Control+End")
    for _ in " No effusion.":
        tab.page.keyboard.press("Backspace")
    until(
        lambda: (
            "changed by hand after the model wrote it: findings, impression"
            in saved(tab, "#report-as-text")[1].lower()
        )
    )
    name, content = saved(tab, "#report-as-text")
    assert name == "infimed-report.txt"
    for word in ("Normal chest, by me.", "old.png", "Chest, two views."):
        assert word in content
    assert "  The heart is of normal size.\n" in content, "what was deleted is not saved"


def test_a_report_without_findings_and_impression_is_said_to_be_empty(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    tab_named(tab, "Report")
    fill(tab, "#indication", "empty")
    finish(tab, "#draft")
    tab.page.locator("#report-empty").wait_for()
    assert text(tab, "#report-empty") == NO_REPORT
    assert NO_REPORT in saved(tab, "#report-as-text")[1]
    fill(tab, "#indication", "Cough.")
    tab.page.locator("#draft").click()
    tab.page.locator("#report-empty").wait_for(state="hidden")
    says(tab, "#impression", "Normal chest.")
    tab.page.locator("#draft").wait_for()
    assert tab.page.locator("#report-empty").is_hidden()


def test_candidates_are_ranked_with_cannot_tell(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    tab_named(tab, "Differential")
    fill(tab, "#candidates", f"Pneumonia\n{SCRIPT}")
    tab.page.locator("#rank").click()
    tab.page.locator("#rank-bars meter").nth(2).wait_for()
    names = [t.strip() for t in tab.page.locator("#rank-bars dt").all_inner_texts()]
    short = SCRIPT[:119] + "…" if len(SCRIPT) > 120 else SCRIPT
    assert sorted(names) == sorted(["Pneumonia: 40 %", f"{short}: 40 %", "Cannot tell: 20 %"])
    assert tab.page.locator("#rank-bars").inner_text().count("20") == 1, "one number a bar"
    assert "For: opacity in the left base" in text(tab, "#reasons")
    said = "Model's scores, not probabilities: this model was not calibrated"
    assert said in tab.page.locator("#rank-bars").inner_text()
    assert "How likely" not in tab.page.locator("#rank-bars").inner_text()
    assert text(tab, "#reasons").startswith(said)
    assert said in saved(tab, "#differential-as-text")[1]
    site.scripted.calibration = object()
    try:
        finish(tab, "#rank")
        assert "How likely" in tab.page.locator("#rank-bars").inner_text()
        assert said not in tab.page.locator("#rank-bars").inner_text() + text(tab, "#reasons")
    finally:
        site.scripted.calibration = None
    assert site.scripted.asked[-1].candidates == ["Pneumonia", SCRIPT]


def test_a_conversation_goes_on_and_names_what_is_urgent(open_tab: Any, site: Site):
    tab = open_tab()
    tab_named(tab, "Consult")
    fill(tab, "#message", "I cough.")
    tab.page.locator("#message textarea").press("Enter")
    tab.page.locator("#consult-as-text").wait_for()
    assert tab.page.locator("#urgent textarea").is_hidden()
    fill(tab, "#message", "Now I have chest pain.")
    tab.page.locator("#send").click()
    tab.page.locator("#urgent").wait_for()
    assert text(tab, "#urgent") == "Call the emergency number now."
    tab.page.locator("#consult-as-text").wait_for()
    said = [(turn.role, turn.text) for turn in site.scripted.asked[-1].messages]
    assert said == [
        ("user", "I cough."),
        ("assistant", "Since when do you have it?"),
        ("user", "Now I have chest pain."),
    ]
    tab.page.locator("#send").wait_for()
    fill(tab, "#message", "Since an hour.")
    finish(tab, "#send")
    assert text(tab, "#urgent") == "Call the emergency number now.", "it stays"
    sent = [turn.text for turn in site.scripted.asked[-1].messages]
    assert sent[3] == "Call the emergency number now.\n\nSince when do you have it?"
    back = "Model: Since when do you have it?"
    assert text(tab, "#talk").split("\n\n") == [
        "You: I cough.", back,
        "You: Now I have chest pain.", "Safety rule: urgent signs. See “Urgent”.", back,
        "You: Since an hour.", back,
    ]  # fmt: skip
    content = saved(tab, "#consult-as-text")[1]
    assert content.count("Call the emergency number now.") == 1
    assert "  Safety rule: Call the emergency number now." in content
    fill(tab, "#message", "vague")
    finish(tab, "#send")
    assert text(tab, "#talk").endswith(
        "You: vague\n\nAutomatic question: Since when do you have it?"
    )
    assert "Automatic question: Since when" in saved(tab, "#consult-as-text")[1]
    tab.page.locator("#anew").click()
    tab.page.locator("#urgent").wait_for(state="hidden")
    tab.page.wait_for_function("() => document.querySelector('#talk textarea').value === ''")


def test_script_in_question_answer_and_file_name_is_text(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, NAME)
    assert NAME in tab.page.locator("#which label").inner_text()
    assert NAME in text(tab, "#facts")
    ask(tab, "script")
    assert text(tab, "#answer") == SCRIPT
    ask(tab, SCRIPT)
    assert site.scripted.asked[-1].question == SCRIPT
    tab_named(tab, "Consult")
    fill(tab, "#message", SCRIPT)
    finish(tab, "#send")
    said = text(tab, "#talk")
    assert said.count("<script>alert(1)</script>") == 2, "once from the user, once from the model"
    assert "**b**" in said and "$$x$$" in said
    assert tab.page.locator("img[src=x], #talk script, a[href^='javascript']").count() == 0
    assert tab.page.title() != "owned"
    for kind in ("text", "json", "sr"):
        _, content = saved(tab, f"#consult-as-{kind}")
        assert "alert(1)" in content


def test_what_is_missing_is_asked_for_and_nothing_is_sent(open_tab: Any, site: Site):
    tab = open_tab()
    before = len(site.scripted.asked)
    for name, box, value, button, said in (
        ("Ask", "#question", " ", "#ask", "Write a question first."),
        ("Report", "#indication", "Cough.", "#draft", "Add an image first."),
        ("Differential", "#candidates", "Edema", "#rank", "Give at least two possible diagnoses"),
        ("Differential", "#candidates", "Edema\nedema", "#rank", "A diagnosis is there twice."),
        ("Differential", "#candidates", "Edema\nB", "#rank", "Add an image, a history or a question"),
        ("Consult", "#message", " ", "#send", "Write a message first."),
    ):  # fmt: skip
        tab_named(tab, name)
        fill(tab, box, value)
        tab.page.locator(button).click()
        says(tab, "#answer-problem", said)
    assert len(site.scripted.asked) == before


def test_errors_are_words_without_internals(open_tab: Any, site: Site):
    tab = open_tab()
    for question, expected in (
        ("full", "The server is full. Try again in a moment."),
        ("defect", "Something went wrong here."),
    ):
        fill(tab, "#question", question)
        tab.page.locator("#ask").click()
        says(tab, "#answer-problem", expected)
        assert "secret" not in tab.page.content()
        tab.page.locator("#ask").wait_for()
        assert tab.page.locator("#answer textarea").get_attribute("placeholder") in ("", None)


def test_a_running_answer_can_be_stopped_and_does_not_pass_for_a_whole_one(
    open_tab: Any, site: Site
):
    tab = open_tab()
    fill(tab, "#question", "long")
    before = site.scripted.stopped
    tab.page.locator("#ask").click()
    tab.page.wait_for_function("() => document.querySelector('#answer textarea').value.length > 5")
    tab.page.locator("#ask-stop").click()
    tab.page.locator("#ask").wait_for()
    says(tab, "#answer", "… (stopped)")
    until(lambda: site.scripted.stopped == before + 1 and site.service.gate.requests == 0)
    assert text(tab, "#answer").endswith("word … (stopped)")


def test_a_stopped_message_is_kept_as_far_as_it_was_answered(open_tab: Any, site: Site):
    tab = open_tab()
    tab_named(tab, "Consult")
    fill(tab, "#message", "long")
    tab.page.locator("#send").click()
    says(tab, "#talk", "Model: word")
    tab.page.locator("#send-stop").click()
    says(tab, "#talk", "… (stopped)")
    tab.page.locator("#send").wait_for()
    fill(tab, "#message", "And now?")
    finish(tab, "#send")
    said = [(turn.role, turn.text) for turn in site.scripted.asked[-1].messages]
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert said[1][1].startswith("word") and said[1][1].endswith("… (stopped)")
    fill(tab, "#message", "silent")
    tab.page.locator("#send").click()
    says(tab, "#talk", "You: silent")
    tab.page.locator("#send-stop").click()
    says(tab, "#message", "silent")
    assert "silent" not in text(tab, "#talk"), "what was not answered comes back to be changed"
