"""What a hand and an eye do with the page in a browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from infimed.serving.decoder import decoded
from infimed.serving.media import from_url
from infimed.serving.protocol import ImageUrl
from infimed.serving.service import Service
from tests.data.samples import encoded, noise
from tests.serving.web.conftest import Tab

PNG = encoded(noise(200, 300))


def add(tab: Tab, data: bytes, name: str = "chest.png") -> None:
    """Upload an image and wait until it is shown."""
    page = tab.page
    before = page.locator("#which label").count()
    choose(tab, data, name)
    page.locator("#which label").nth(before).wait_for()
    page.locator("#picture img").wait_for()
    page.wait_for_function("() => document.querySelector('#picture img').complete")


def choose(tab: Tab, data: bytes, name: str) -> None:
    """Upload a file."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    tab.page.locator("#drop input[type=file]").set_input_files(file)


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


def shown(tab: Tab, place: str = "#picture") -> np.ndarray:
    """The pixels of a picture on the page, uint8 [H, W, 3], at its own resolution."""
    height, width, packed = tab.page.evaluate(
        """async place => {
          const image = document.querySelector(`${place} img`), canvas = document.createElement("canvas");
          await image.decode();
          canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
          let packed = "";
          for (let at = 0; at < data.length; at += 8192) packed += String.fromCharCode(...data.subarray(at, at + 8192));
          return [canvas.height, canvas.width, btoa(packed)];
        }""",
        place,
    )
    flat = np.frombuffer(base64.b64decode(packed), np.uint8)
    return flat.reshape(height, width, 4)[:, :, :3]


def given(service: Service, image: ImageUrl) -> np.ndarray:
    """What the model gets of an image of a request, uint8 [views, S, S, 3]."""
    source = from_url(image.url, image.frame, "image", service.settings, image.window)
    order = service.decoders.order(source, 10**8)
    header, payload = decoded(order, source.data)
    return service.decoders._shown(source, header, payload).pixels


def move(tab: Tab, slider: str, value: float) -> None:
    """Put a slider somewhere, as a hand does: its input says so."""
    tab.page.locator(f"{slider} input[type=range]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})) }",
        str(value),
    )


def text(tab: Tab, box: str) -> str:
    """What a text box says."""
    return str(tab.page.locator(f"{box} textarea").input_value())


def says(tab: Tab, box: str, word: str) -> None:
    """Wait until a text box says something."""
    tab.page.wait_for_function(
        "([box, word]) => document.querySelector(`${box} textarea`)?.value.includes(word)", arg=[box, word]
    )  # fmt: skip


def fill(tab: Tab, box: str, value: str) -> None:
    """Type into a text box."""
    tab.page.locator(f"{box} textarea").fill(value)


def tab_named(tab: Tab, name: str) -> None:
    """Go to a tab."""
    tab.page.get_by_role("tab", name=name).click()


def ask(tab: Tab, question: str) -> None:
    """Ask, and wait for the whole answer."""
    fill(tab, "#question", question)
    finish(tab, "#ask")


def finish(tab: Tab, button: str) -> None:
    """Click, and wait for the whole result: there is a new one to be saved."""
    link = {"#ask": "#ask-as-text", "#draft": "#report-as-text", "#rank": "#differential-as-text", "#send": "#consult-as-text"}[button]  # fmt: skip
    before = tab.page.locator(link).get_attribute("href")
    tab.page.locator(button).click()
    tab.page.wait_for_function(
        "([link, before]) => { const a = document.querySelector(link); return a.getAttribute('href') !== before && a.getClientRects().length > 0 }",
        arg=[link, before],
    )
    tab.page.locator(button).wait_for()


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
    done: Any = waiting.value
    return done.suggested_filename, Path(done.path()).read_text("utf-8")
