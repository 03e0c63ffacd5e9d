"""The images of the page in a real browser: what is looked at is what the model gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.data.samples import dicom_bytes, noise, real
from tests.serving.web.conftest import Site
from tests.serving.web.driving import (
    PNG,
    add,
    ask,
    changes,
    choose,
    finish,
    given,
    move,
    picture,
    says,
    shown,
    tab_named,
    text,
)

pytest.importorskip("gradio", reason="the extra 'web' is not installed")


@pytest.mark.real_data
def test_a_real_ct_is_seen_and_sent_through_its_window_and_others(open_tab: Any, site: Site):
    file = real("dicom_samples") / "693_UNCI.dcm"
    tab = open_tab()
    add(tab, file.read_bytes(), "693.dcm")
    assert text(tab, "#facts").startswith("693.dcm · CT · 512 × 512 pixels")
    first, place = shown(tab), picture(tab)
    ask(tab, "What is this?")
    sent = given(site.service, site.scripted.asked[-1].images[0])
    move(tab, "#center", -600)
    changes(tab, place)
    brighter = shown(tab)
    assert brighter.mean() > first.mean() + 20, "a lower centre makes everything brighter"
    assert np.all(brighter >= first)
    ask(tab, "What is this?")
    asked = site.scripted.asked[-1].images[0]
    assert asked.window is not None and asked.window[0] == -600
    sent_brighter = given(site.service, asked)
    assert sent_brighter.mean() > sent.mean() + 20, "the model gets what is seen"
    place = picture(tab)
    move(tab, "#width", 3000)
    changes(tab, place)
    tab.page.locator("#preset label", has_text="Lung").click()
    says(tab, "#facts", "-600/1500 HU")
    ask(tab, "What is this?")
    assert site.scripted.asked[-1].images[0].window == [-600.0, 1500.0]
    tab.page.locator("#preset label", has_text="As in the file").click()
    tab.page.wait_for_function("() => !document.querySelector('#facts textarea').value.includes('-600/1500')")  # fmt: skip
    assert np.array_equal(shown(tab), first)
    ask(tab, "What is this?")
    assert np.array_equal(given(site.service, site.scripted.asked[-1].images[0]), sent)


@pytest.mark.real_data
def test_the_picture_of_a_real_ct_is_that_of_the_standard(open_tab: Any, site: Site):
    """PS3.3 C.11.2.1.2.1 LINEAR, written out over the file's own pixels."""
    file = real("dicom_samples") / "693_UNCI.dcm"
    tab = open_tab()
    add(tab, file.read_bytes(), "693.dcm")
    tab.page.locator("#preset label", has_text="Bone").click()
    says(tab, "#facts", "400/1800 HU")
    dataset = dcmread(file)
    units = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    expected = (((units - 399.5) / 1799 + 0.5) * 255).clip(0, 255)
    assert np.abs(shown(tab)[:, :, 0] - expected).max() <= 1


def test_a_file_of_many_frames_is_scrolled(open_tab: Any, site: Site):
    from pydicom.data import get_testdata_file

    file = get_testdata_file("examples_ybr_color.dcm", download=False)
    assert file is not None, "pydicom ships this file"
    tab = open_tab()
    add(tab, Path(file).read_bytes(), "us.dcm")
    assert "image 1 of 30" in text(tab, "#facts")
    assert tab.page.locator("#preset").is_hidden(), "colour has no window"
    first, place = shown(tab), picture(tab)
    move(tab, "#frame", 12)
    place = changes(tab, place)
    assert "image 12 of 30" in text(tab, "#facts")
    assert not np.array_equal(shown(tab), first)
    tab.page.locator("#picture").focus()
    tab.page.keyboard.press("ArrowDown")
    place = changes(tab, place)
    says(tab, "#facts", "image 13 of 30")
    tab.page.locator("#picture").hover()
    tab.page.mouse.wheel(0, 100)
    changes(tab, place)
    says(tab, "#facts", "image 15 of 30")
    tab_named(tab, "Report")
    finish(tab, "#draft")
    asked = site.scripted.asked[-1].images[0]
    assert asked.frame == 14
    begun = given(site.service, asked.model_copy(update={"frame": 0}))
    assert not np.array_equal(given(site.service, asked), begun)


def test_grey_frames_have_slider_and_window_together(open_tab: Any, site: Site):
    volume = np.random.default_rng(0).integers(0, 2000, (6, 40, 50)).astype(np.uint16)
    tab = open_tab()
    add(tab, dicom_bytes(volume, Modality="MR"), "mr.dcm")
    assert "image 1 of 6" in text(tab, "#facts")
    place = picture(tab)
    move(tab, "#frame", 4)
    place = changes(tab, place)
    says(tab, "#facts", "image 4 of 6")
    move(tab, "#width", 200)
    changes(tab, place)
    says(tab, "#facts", "/200")
    ask(tab, "What is this?")
    asked = site.scripted.asked[-1].images[0]
    assert asked.frame == 3 and asked.window is not None and asked.window[1] == 200


def test_a_wrong_file_is_refused_in_words(open_tab: Any, site: Site):
    tab = open_tab()
    for number, data in enumerate((b"<svg onload=alert(1)>", b"", dicom_bytes(noise())[:300])):
        choose(tab, data, f"x{number}.png")
        says(tab, "#problem", f"“x{number}.png”: ")
        assert tab.page.locator("#which label").count() == 0
    choose(tab, b"%PDF-1.7 a letter", "letter <b>.pdf")
    says(tab, "#problem", "“letter <b>.pdf”: ")
    limit = site.service.settings.limits.image_bytes / 2**20
    assert f"Accepted are PNG, JPEG, WebP, TIFF, BMP, DICOM or NIfTI, up to {limit:g} MiB each." in text(tab, "#problem")  # fmt: skip
    add(tab, PNG)
    assert tab.page.locator("#problem textarea").is_hidden()


def test_more_images_than_the_limit_are_refused(open_tab: Any, site: Site):
    tab = open_tab()
    for number in range(4):
        add(tab, PNG, f"{number}.png")
    choose(tab, PNG, "5.png")
    tab.page.locator("#problem").wait_for()
    assert "More images than the limit" in text(tab, "#problem")
    tab.page.locator("#remove").click()
    tab.page.wait_for_function("() => document.querySelectorAll('#which label').length === 3")


def test_of_an_image_that_was_removed_nothing_is_asked(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, PNG)
    tab.page.locator("#remove").click()
    tab.page.locator("#picture").wait_for(state="hidden")
    ask(tab, "Is it normal?")
    assert site.scripted.asked[-1].images == []


def test_an_image_that_was_forgotten_is_not_asked_about_as_if_it_were_there(
    open_tab: Any, site: Site, monkeypatch: pytest.MonkeyPatch
):
    """Else the model would answer without the image that the page still shows."""
    tab = open_tab()
    add(tab, PNG)
    before = len(site.scripted.asked)
    monkeypatch.setattr("infimed.serving.web.holding.IDLE_SECONDS", -1.0)
    tab.page.locator("#question textarea").fill("Is it normal?")
    tab.page.locator("#ask").click()
    says(tab, "#answer-problem", "The image is no longer there")
    assert len(site.scripted.asked) == before
    for name, button in (("Report", "#draft"), ("Consult", "#send")):
        tab_named(tab, name)
        if name == "Consult":
            tab.page.locator("#message textarea").fill("I cough.")
        tab.page.locator(button).click()
        says(tab, "#answer-problem", "The image is no longer there")
    monkeypatch.undo()
    choose(tab, PNG, "again.png")
    tab.page.locator("#which label", has_text="again.png").wait_for()
    tab_named(tab, "Ask")
    ask(tab, "Is it normal?")
    assert len(site.scripted.asked) == before + 1
    assert len(site.scripted.asked[-1].images) == 1
