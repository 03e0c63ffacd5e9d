"""One server with a page and one browser for a whole module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from infimed.serving.service import Service
from tests.browser import BROWSER, FLAGS
from tests.serving.web.scripted import Scripted, ScriptedEvidence
from tests.serving.world import running, service_of, settings_of


def page_service() -> Service:
    """A tiny model's server with scripted applications; images are decoded in real processes."""
    service = service_of(settings=settings_of(), processes=True)
    service.applications = Scripted()  # type: ignore[assignment]
    service.evidence = ScriptedEvidence()  # type: ignore[assignment]
    return service


@dataclass
class Site:
    """A running server."""

    service: Service
    url: str

    @property
    def scripted(self) -> Any:
        """What its applications were asked."""
        return self.service.applications


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    service = page_service()
    with running(service, page=True) as url:
        yield Site(service, url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        flags = [flag for flag in FLAGS if flag != "--headless"]
        opened = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=flags)
        yield opened
        opened.close()


@dataclass
class Tab:
    """An open page and everything that it did.

    Attributes:
        requests: addresses that it asked. dialogs: texts of windows that a script opened.
        errors: what its console said.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture
def open_tab(browser: Any, site: Site) -> Iterator[Any]:
    """Opens the page; afterwards nothing of it may have asked another machine or run a script of a user."""
    opened: list[tuple[Any, Tab]] = []

    def opens(width: int = 1440, height: int = 1000, url: str = "", **more: Any) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        context.set_default_timeout(30_000)
        page = context.new_page()
        tab = Tab(page)
        page.on("request", lambda request: tab.requests.append(request.url))
        page.on("dialog", lambda dialog: (tab.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: said.type == "error" and tab.errors.append(said.text))
        page.on("pageerror", lambda error: tab.errors.append(str(error)))
        page.goto(f"{url or site.url}/")
        opened.append((context, tab))
        return tab

    yield opens
    for context, tab in opened:
        context.close()
        assert not tab.dialogs
        assert [said for said in tab.errors if "Content Security Policy" in said] == []
        local = (f"{site.url}/", "data:", "blob:")
        assert [url for url in tab.requests if not url.startswith(local)] == []
