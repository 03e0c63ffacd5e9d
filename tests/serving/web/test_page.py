"""The page in a real browser: what a clinician does, and what an attacker tries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.samples import dicom_bytes, encoded, noise, real
from tests.serving.web.conftest import Site, Tab
from tests.serving.web.scripted import SCRIPT

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

PNG = encoded(noise(200, 300))
NAME = "a<img src=x onerror=alert(3)>b.png"


def add(tab: Tab, data: bytes, name: str = "chest.png") -> None:
    """Upload an image and wait until it is shown."""
    page = tab.page
    before = page.locator("#which label").count()
    page.locator("#drop input[type=file]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )
    page.locator("#which label").nth(before).wait_for()
    page.locator("#picture img").wait_for()


def picture(tab: Tab, place: str = "#picture") -> str:
    """Where the shown picture is."""
    return str(tab.page.locator(f"{place} img").get_attribute("src"))


def changes(tab: Tab, before: str) -> str:
    """Wait until another picture is shown."""
    tab.page.wait_for_function(
        "before => { const i = document.querySelector('#picture img'); return i && i.getAttribute('src') !== before && i.complete }",
        arg=before,
    )
    return picture(tab)


def mean(tab: Tab, place: str = "#picture", area: str = "0,0,1,1") -> float:
    """Mean grey value of the shown picture in an area of it (left, top, right, bottom in 0..1)."""
    return float(tab.page.evaluate(
        """([place, area]) => {
          const image = document.querySelector(`${place} img`), canvas = document.createElement("canvas");
          const [l, t, r, b] = area.split(",").map(Number), w = image.naturalWidth, h = image.naturalHeight;
          canvas.width = w; canvas.height = h;
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const data = context.getImageData(l * w, t * h, (r - l) * w, (b - t) * h).data;
          let sum = 0;
          for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i + 1] + data[i + 2];
          return sum / (data.length / 4) / 3;
        }""",
        [place, area],
    ))  # fmt: skip


def move(tab: Tab, slider: str, value: float) -> None:
    """Put a slider somewhere, as a hand does: its input says so."""
    tab.page.locator(f"{slider} input[type=range]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})) }",
        str(value),
    )


def text(tab: Tab, box: str) -> str:
    return str(tab.page.locator(f"{box} textarea").input_value())


def fill(tab: Tab, box: str, value: str) -> None:
    tab.page.locator(f"{box} textarea").fill(value)


def tab_named(tab: Tab, name: str) -> None:
    tab.page.get_by_role("tab", name=name).click()


def grows(tab: Tab, box: str, whole: str) -> None:
    """Wait for the whole text, and see that a part of it was there before."""
    tab.page.wait_for_function(
        "([box, whole]) => { const t = document.querySelector(`${box} textarea`).value; return t && t.length < whole.length && whole.startsWith(t) }",
        arg=[box, whole],
    )
    tab.page.wait_for_function(
        "([box, whole]) => document.querySelector(`${box} textarea`).value === whole", arg=[box, whole]
    )  # fmt: skip


def saved(tab: Tab, button: str) -> tuple[str, str]:
    """Name and content of a download."""
    with tab.page.expect_download() as waiting:
        tab.page.locator(button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text("utf-8")


def test_a_question_about_a_png_is_answered_word_by_word(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    assert "300 × 200" in text(tab, "#facts")
    fill(tab, "#question", "Is an effusion visible?")
    tab.page.locator("#question textarea").press("Enter")
    grows(tab, "#answer", "No effusion is visible.")
    tab.page.locator("#ask-downloads").wait_for()
    assert "not known" in text(tab, "#sure")
    asked = site.scripted.asked[-1]
    assert asked.question == "Is an effusion visible?" and len(asked.images) == 1
    name, content = saved(tab, "#ask-as-text")
    assert (
        name == "infimed-ask.txt"
        and "No effusion is visible." in content
        and "chest.png" in content
    )
    name, content = saved(tab, "#ask-as-json")
    assert name == "infimed-ask.json" and json.loads(content)["asked"]["question"] == asked.question
    name, content = saved(tab, "#ask-as-sr")
    assert name == "infimed-ask.sr.json" and "not a DICOM object" in content


def test_the_evidence_is_laid_over_the_image_with_the_nearest_records(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, encoded(np.full((160, 160), 40, np.uint8)))
    fill(tab, "#question", "What is this?")
    tab.page.locator("#ask").click()
    tab.page.locator("#look").click()
    tab.page.locator("#overlay img").wait_for()
    tab.page.wait_for_function("document.querySelector('#overlay img').complete")
    assert mean(tab, "#overlay", "0,0,0.4,0.4") > mean(tab, "#overlay", "0.6,0.6,1,1") + 30
    assert SCRIPT in text(tab, "#near") and "licence CC-BY-4.0" in text(tab, "#near")
    asked = site.service.evidence.asked[-1]  # type: ignore[attr-defined]
    assert (asked.question, asked.answer) == ("What is this?", "No effusion is visible.")
    tab.page.locator("#method label", has_text="gradient").click()
    tab.page.locator("#look").click()
    tab.page.locator("#note").wait_for()
    assert text(tab, "#note") == "The answer hardly depends on the image."
    assert tab.page.locator("#overlay img").count() == 0


def test_an_answer_below_the_threshold_is_behind_a_click(open_tab: Any, site: Site):
    site.scripted.calibration = object()
    try:
        tab = open_tab()
        fill(tab, "#question", "unsure")
        tab.page.locator("#ask").click()
        tab.page.locator("#unsure").wait_for()
        assert tab.page.locator("#answer textarea").count() == 0, "the text is behind a click"
        assert "30 %" in text(tab, "#sure")
        tab.page.locator("#reveal").click()
        tab.page.locator("#answer").wait_for()
        assert text(tab, "#answer") == "No effusion is visible."
        fill(tab, "#question", "sure")
        tab.page.locator("#ask").click()
        tab.page.locator("#bars meter").wait_for()
        assert tab.page.locator("#bars meter").get_attribute("aria-valuenow") == "82"
        assert tab.page.locator("#unsure").count() == 0
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
    assert [t.strip() for t in tab.page.locator("#bars dt").all_inner_texts()] == [
        "left",
        "right",
        "both",
    ]


def test_a_real_ct_is_seen_through_its_window_and_others(open_tab: Any, site: Site):
    file = real("dicom_samples") / "693_UNCI.dcm"
    tab = open_tab()
    add(tab, file.read_bytes(), "693.dcm")
    assert text(tab, "#facts").startswith("693.dcm · CT · 512 × 512 pixels")
    first, before = picture(tab), mean(tab)
    move(tab, "#center", -600)
    second = changes(tab, first)
    assert mean(tab) > before + 20, "a lower centre makes everything brighter"
    move(tab, "#width", 3000)
    changes(tab, second)
    tab.page.locator("#preset label", has_text="Lung").click()
    tab.page.wait_for_function(
        "document.querySelector('#facts textarea').value.includes('-600/1500 HU')"
    )
    fill(tab, "#question", "What is this?")
    tab.page.locator("#ask").click()
    tab.page.locator("#ask-downloads").wait_for()
    assert site.scripted.asked[-1].images[0].window == [-600.0, 1500.0], (
        "the model gets what is seen"
    )
    tab.page.locator("#preset label", has_text="As in the file").click()
    tab.page.wait_for_function(
        "!document.querySelector('#facts textarea').value.includes('-600/1500')"
    )
    assert abs(mean(tab) - before) < 1


def test_a_file_of_many_frames_is_scrolled(open_tab: Any, site: Site):
    from pydicom.data import get_testdata_file

    file = get_testdata_file("examples_ybr_color.dcm", download=False)
    if file is None:
        pytest.skip("this pydicom does not bundle examples_ybr_color.dcm")
    tab = open_tab()
    add(tab, Path(file).read_bytes(), "us.dcm")
    assert "image 1 of 30" in text(tab, "#facts")
    assert tab.page.locator("#windows").count() == 0, "colour has no window"
    first = picture(tab)
    move(tab, "#frame", 12)
    second = changes(tab, first)
    assert "image 12 of 30" in text(tab, "#facts")
    tab.page.locator("#picture").focus()
    tab.page.keyboard.press("ArrowDown")
    third = changes(tab, second)
    tab.page.wait_for_function(
        "document.querySelector('#facts textarea').value.includes('image 13 of 30')"
    )
    tab.page.locator("#picture").hover()
    tab.page.mouse.wheel(0, 100)
    changes(tab, third)
    tab_named(tab, "Report")
    tab.page.locator("#draft").click()
    tab.page.locator("#report-downloads").wait_for()
    assert site.scripted.asked[-1].images[0].frame == 14


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
    tab.page.wait_for_function(
        "document.querySelector('#impression textarea').value === 'Normal chest.'"
    )
    tab.page.wait_for_function(
        "document.querySelector('#comparison textarea').value === 'Unchanged.'"
    )
    asked = site.scripted.asked[-1]
    assert asked.indication == "Cough." and asked.language == "en" and asked.prior is not None
    fill(tab, "#impression", "Normal chest, by me.")
    tab.page.wait_for_timeout(600)
    name, content = saved(tab, "#report-as-text")
    assert name == "infimed-report.txt"
    assert (
        "Normal chest, by me." in content and "Changed by hand" in content and "old.png" in content
    )


def test_candidates_are_ranked_with_cannot_tell(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    tab_named(tab, "Differential")
    fill(tab, "#candidates", f"Pneumonia\n{SCRIPT}")
    tab.page.locator("#rank").click()
    tab.page.locator("#rank-bars meter").nth(2).wait_for()
    names = [t.strip() for t in tab.page.locator("#rank-bars dt").all_inner_texts()]
    assert sorted(names) == sorted(["Pneumonia", SCRIPT[:119] + "…" if len(SCRIPT) > 120 else SCRIPT, "Cannot tell"])  # fmt: skip
    assert "For: opacity in the left base" in text(tab, "#reasons")
    assert site.scripted.asked[-1].candidates == ["Pneumonia", SCRIPT]


def test_a_conversation_goes_on_and_names_what_is_urgent(open_tab: Any, site: Site):
    tab = open_tab()
    tab_named(tab, "Consult")
    fill(tab, "#message", "I cough.")
    tab.page.locator("#message textarea").press("Enter")
    tab.page.locator("#consult-downloads").wait_for()
    assert tab.page.locator("#urgent textarea").count() == 0
    fill(tab, "#message", "Now I have chest pain.")
    tab.page.locator("#send").click()
    tab.page.locator("#urgent").wait_for()
    assert text(tab, "#urgent") == "Call the emergency number now."
    tab.page.locator("#consult-downloads").wait_for()
    said = [(turn.role, turn.text) for turn in site.scripted.asked[-1].messages]
    assert said == [
        ("user", "I cough."),
        ("assistant", "Since when do you have it?"),
        ("user", "Now I have chest pain."),
    ]
    tab.page.locator("#anew").click()
    tab.page.wait_for_function(
        "!document.querySelector('#talk textarea').value.includes('chest pain')"
    )


def test_script_in_question_answer_and_file_name_is_text(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG, NAME)
    assert NAME in tab.page.locator("#which label").inner_text()
    assert NAME in text(tab, "#facts")
    fill(tab, "#question", "script")
    tab.page.locator("#ask").click()
    tab.page.locator("#ask-downloads").wait_for()
    assert text(tab, "#answer") == SCRIPT
    fill(tab, "#question", SCRIPT)
    tab.page.locator("#ask").click()
    tab.page.locator("#ask-downloads").wait_for()
    assert site.scripted.asked[-1].question == SCRIPT
    tab_named(tab, "Consult")
    fill(tab, "#message", SCRIPT)
    tab.page.locator("#send").click()
    tab.page.locator("#consult-downloads").wait_for()
    shown = text(tab, "#talk")
    assert shown.count("<script>alert(1)</script>") == 2, "once from the user, once from the model"
    assert "**b**" in shown and "$$x$$" in shown
    assert tab.page.locator("img[src=x], #talk script, a[href^='javascript']").count() == 0
    assert tab.page.title() != "owned"
    for kind in ("text", "json", "sr"):
        _, content = saved(tab, f"#consult-as-{kind}")
        assert "alert(1)" in content


def test_a_wrong_file_is_refused_in_words(open_tab: Any, site: Site):
    tab = open_tab()
    for data in (b"<svg onload=alert(1)>", b"", dicom_bytes(noise())[:300]):
        tab.page.locator("#drop input[type=file]").set_input_files(
            {"name": "x.png", "mimeType": "image/png", "buffer": data}
        )
        tab.page.wait_for_function("document.querySelector('#problem textarea')?.value.length > 10")
        assert tab.page.locator("#which label").count() == 0
    add(tab, PNG)
    assert tab.page.locator("#problem textarea").count() == 0


def test_more_images_than_the_limit_are_refused(open_tab: Any, site: Site):
    tab = open_tab()
    for number in range(4):
        add(tab, PNG, f"{number}.png")
    tab.page.locator("#drop input[type=file]").set_input_files(
        {"name": "5.png", "mimeType": "image/png", "buffer": PNG}
    )
    tab.page.locator("#problem").wait_for()
    assert "More images than the limit" in text(tab, "#problem")
    tab.page.locator("#remove").click()
    tab.page.wait_for_function("document.querySelectorAll('#which label').length === 3")


def test_errors_are_words_without_internals(open_tab: Any, site: Site):
    tab = open_tab()
    for question, expected in (
        ("full", "The server is full. Try again in a moment."),
        ("defect", "Something went wrong here."),
        ("", "This value is not accepted"),
    ):
        fill(tab, "#question", question)
        tab.page.locator("#ask").click()
        tab.page.wait_for_function(
            "word => document.querySelector('#answer-problem textarea')?.value.startsWith(word)", arg=expected
        )  # fmt: skip
        assert "secret" not in tab.page.content()
        tab.page.locator("#ask").wait_for()


def test_a_running_answer_can_be_stopped(open_tab: Any, site: Site):
    tab = open_tab()
    fill(tab, "#question", "long")
    before = site.scripted.stopped
    tab.page.locator("#ask").click()
    tab.page.wait_for_function("document.querySelector('#answer textarea').value.length > 5")
    tab.page.locator("#ask-stop").click()
    tab.page.locator("#ask").wait_for()
    tab.page.wait_for_timeout(800)
    assert site.scripted.stopped == before + 1
    assert site.service.gate.requests == 0


def test_everything_can_be_done_with_the_keyboard(open_tab: Any, site: Site):
    tab = open_tab()
    tab.page.locator("#question textarea").focus()
    tab.page.keyboard.type("Is it normal?")
    tab.page.keyboard.press("Control+Enter")
    tab.page.locator("#ask-downloads").wait_for()
    reached = set()
    tab.page.locator("body").evaluate("() => document.activeElement.blur()")
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        reached.add(tab.page.evaluate("() => { const e = document.activeElement; return e.closest('[id]')?.id + '/' + e.tagName }"))  # fmt: skip
    seen = " ".join(sorted(map(str, reached)))
    for part in ("drop", "question", "answer", "ask-as-text"):
        assert part in seen, seen


@pytest.mark.parametrize("name", ["Ask", "Report", "Differential", "Consult"])
def test_a_phone_has_room_for_everything(open_tab: Any, site: Site, name: str):
    tab = open_tab(390, 844, has_touch=True, is_mobile=True)
    add(tab, PNG, "a-rather-long-file-name-of-a-radiograph-from-the-archive-2026-01-01.png")
    tab.page.get_by_role("tab", name=name).click()
    wide = tab.page.evaluate("() => [document.scrollingElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], wide
    note = tab.page.locator("header.infimed [role=note]")
    tab.page.mouse.wheel(0, 3000)
    box = note.bounding_box()
    assert box is not None and box["y"] >= 0 and box["y"] + box["height"] < 300, "always in sight"


def test_text_has_enough_contrast(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    fill(tab, "#question", "Is it normal?")
    tab.page.locator("#ask").click()
    tab.page.locator("#ask-downloads").wait_for()
    poor = tab.page.evaluate(CONTRAST)
    assert poor == []


CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const light = ([r, g, b]) => [r, g, b].map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 })
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > .9) return c } return [255, 255, 255, 1] };
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || (e.matches("textarea, input") && e.value);
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
    add(tab, PNG)
    fill(tab, "#question", "Is it normal?")
    tab.page.locator("#ask").click()
    tab.page.locator("#ask-downloads").wait_for()
    for name in ("Report", "Differential", "Consult"):
        tab_named(tab, name)
    assert tab.errors == []
