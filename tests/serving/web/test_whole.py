"""The page with a real model behind it: the browser shows what the API answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.data.samples import encoded, noise
from tests.serving.web.conftest import Site
from tests.serving.web.driving import add, ask, fill, finish, shown, tab_named, text
from tests.serving.world import data_url, running, service_of

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

IMAGE = encoded(noise(60, 90, 3))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    service = service_of(processes=True)
    with running(service, page=True) as url:
        yield Site(service, url)


def api(site: Site, name: str, **body: Any) -> dict[str, Any]:
    """What a program is answered."""
    value = {"model": "tiny", **body}
    answer = httpx.post(f"{site.url}/v1/infimed/{name}", json=value, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_the_page_says_what_the_api_answers(open_tab: Any, site: Site):
    images = [{"url": data_url(IMAGE)}]
    tab = open_tab()
    add(tab, IMAGE)
    ask(tab, "Is a lung visible?")
    expected = api(site, "ask", question="Is a lung visible?", images=images)
    assert text(tab, "#answer") == expected["answer"].replace("\r", "\n")
    tab_named(tab, "Report")
    finish(tab, "#draft")
    report = api(site, "report", images=images)
    for name in ("findings", "impression"):
        assert text(tab, f"#{name}") == (report[name] or "")
    tab_named(tab, "Differential")
    fill(tab, "#candidates", "Pneumonia\nEdema")
    finish(tab, "#rank")
    ranked = api(site, "differential", images=images, candidates=["Pneumonia", "Edema"])
    said = [t.strip() for t in tab.page.locator("#rank-bars dt").all_inner_texts()]
    names = [each.rpartition(":")[0] for each in said]
    assert all(each in text(tab, "#reasons") for each in said), "bars and text agree"
    assert set(names) == {"Pneumonia", "Edema", "Cannot tell"}
    order = [each["name"] for each in ranked["candidates"]]
    assert [name for name in names if name != "Cannot tell"] == order
    tab_named(tab, "Consult")
    fill(tab, "#message", "My left knee has hurt for two weeks, worse on stairs, no fall.")
    finish(tab, "#send")
    said = api(site, "consult", images=images, messages=[{"role": "user", "text": "My left knee has hurt for two weeks, worse on stairs, no fall."}])  # fmt: skip
    assert text(tab, "#talk").endswith(f"Model: {said['message'] or '…'}".replace("\r", "\n"))


def test_the_map_on_the_page_is_that_of_the_api(open_tab: Any, site: Site):
    tab = open_tab()
    add(tab, IMAGE)
    ask(tab, "Is a lung visible?")
    answer = text(tab, "#answer")
    found = api(site, "evidence", image={"url": data_url(IMAGE)}, question="Is a lung visible?", answer=answer)  # fmt: skip
    tab.page.locator("#look").click()
    if not found["depends"]:
        tab.page.locator("#note").wait_for()
        assert "hardly depends" in text(tab, "#note")
        return
    tab.page.locator("#overlay img").wait_for()
    over, under, heat = shown(tab, "#overlay"), shown(tab), np.array(found["heat"])
    assert over.shape == under.shape == (60, 90, 3)
    changed = np.abs(over.astype(int) - under).sum(axis=2)
    rows, columns = heat.shape
    at = (np.arange(60) * rows // 60)[:, None], (np.arange(90) * columns // 90)[None, :]
    cold = np.ones((60, 90), bool)
    for row in range(rows):
        for column in range(columns):
            around = heat[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if around.max() > 0:
                cold[(at[0] == row) & (at[1] == column)] = False
    assert changed[cold].sum() == 0, "where nothing matters the picture is as it is"
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    inside = (at[0] == hottest[0]) & (at[1] == hottest[1])
    assert changed[inside].mean() > changed.mean()
