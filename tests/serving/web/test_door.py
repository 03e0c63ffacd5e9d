"""What the page's door lets in: its own addresses, its own files, its own visitors."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infimed.core.errors import UsageError
from infimed.serving.keys import Keys, read_keys
from infimed.serving.starting import page_wanted
from infimed.serving.web.door import rewritten
from tests.data.samples import encoded, noise
from tests.serving.web.conftest import Site, page_service
from tests.serving.web.driving import PNG, add, ask, saved, text
from tests.serving.world import code_of, running

pytest.importorskip("gradio", reason="the extra 'web' is not installed")

KEY, OTHER = "a-long-enough-key-1", "a-long-enough-key-2"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with two keys."""
    service = page_service()
    with running(
        service, keys_in(tmp_path_factory.mktemp("keys")), ("127.0.0.1",), page=True
    ) as url:
        yield Site(service, url)


def keys_in(folder: Path) -> Keys:
    (folder / "keys").write_text(f"{KEY}\n{OTHER}\n")
    return read_keys(folder / "keys")


@pytest.fixture
def visitor(site: Site) -> Iterator[httpx.Client]:
    with visiting(site, KEY) as client:
        yield client


@contextmanager
def visiting(site: Site, key: str) -> Iterator[httpx.Client]:
    """A browser that has shown a key."""
    with httpx.Client(base_url=site.url, trust_env=False, timeout=30) as client:
        answer = client.post("/page/login", data={"key": key})
        assert (answer.status_code, answer.headers["location"]) == (303, "/page/")
        yield client


def folder() -> Path:
    return Path(os.environ["GRADIO_TEMP_DIR"])


def upload(client: httpx.Client, data: bytes = b"x", name: str = "x.png") -> httpx.Response:
    return client.post("/page/gradio_api/upload", files={"files": (name, io.BytesIO(data))})


def uploaded(path: Path, name: str) -> dict[str, Any]:
    """What a browser says of a file that it has uploaded."""
    return {"path": str(path), "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def joined(
    client: httpx.Client, name: str, values: list[Any], session: str = "s1"
) -> dict[str, Any]:
    """The last message of an event of the page, by its handler's name."""
    config = json.loads(
        re.search(r"window\.gradio_config = (\{.*?\});</script>", client.get("/page/").text)[1]
    )  # type: ignore[index]
    number = next(d["id"] for d in config["dependencies"] if d.get("api_name", "").startswith(name))
    body = {"data": values, "fn_index": number, "session_hash": session, "trigger_id": None}
    answer = client.post("/page/gradio_api/queue/join", json=body)
    assert answer.status_code == 200, answer.text
    last: dict[str, Any] = {}
    with client.stream(
        "GET", "/page/gradio_api/queue/data", params={"session_hash": session}
    ) as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                last = message if message["msg"] == "process_completed" else last
    return last


def test_without_a_key_there_is_nothing_but_a_form(site: Site):
    with httpx.Client(base_url=site.url, trust_env=False) as client:
        answer = client.get("/page/")
        assert answer.status_code == 200 and 'name="key"' in answer.text
        assert "gradio" not in answer.text
        assert client.get("/").headers["location"] == "/page/"
        for path in ("/page/assets/x.js", "/page/theme.css", "/page/gradio_api/queue/data", "/page/result/a/text",
                     f"/page/gradio_api/file={folder()}/x", "/page/config"):  # fmt: skip
            answer = client.get(path)
            assert (answer.status_code, code_of(answer)) == (401, "unauthorized"), path
        for path in ("upload", "queue/join", "cancel"):
            answer = client.post(f"/page/gradio_api/{path}", json={})
            assert (answer.status_code, code_of(answer)) == (401, "unauthorized"), path


def test_a_wrong_key_gets_the_form_again_and_no_cookie(site: Site):
    for key in ("", "wrong", KEY[:-1], f"{KEY} {KEY}"):
        answer = httpx.post(f"{site.url}/page/login", data={"key": key}, trust_env=False)
        assert answer.status_code == 401 and "not known" in answer.text
        assert "set-cookie" not in answer.headers
    for content, kind, code in (
        (b"key=" + b"a" * 5000, "application/x-www-form-urlencoded", "body_too_large"),
        (b"{}", "application/json", "media_type"),
    ):
        answer = httpx.post(f"{site.url}/page/login", content=content, headers={"Content-Type": kind}, trust_env=False)  # fmt: skip
        assert code_of(answer) == code


def test_the_cookie_opens_the_page_and_never_the_api(visitor: httpx.Client):
    assert "<gradio-app" in visitor.get("/page/").text
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert visitor.get(path).status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    assert visitor.get("/v1/models", headers=key).status_code == 200
    assert visitor.get("/page/logout").status_code == 303
    assert 'name="key"' in visitor.get("/page/").text


def test_the_page_has_a_policy_of_its_own_and_the_api_keeps_its(visitor: httpx.Client):
    answer = visitor.get("/page/")
    policy = answer.headers.get_list("content-security-policy")
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'; script-src 'self' 'nonce-")
    for word in ("unsafe-eval", "http:", "https:", "*", "script-src 'unsafe-inline'"):
        assert word not in policy[0]
    nonce = re.search(r"nonce-([\w-]+)'", policy[0])[1]  # type: ignore[index]
    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert scripts and all(f'nonce="{nonce}"' in script for script in scripts)
    assert nonce not in visitor.get("/page/").text
    assert 'property="og:' not in answer.text
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", answer.text, flags=re.DOTALL)
    assert "<gradio-app" in markup and "https://" not in markup
    outside = r"<(?:link|script|img|iframe|meta|base)[^>]*[\"'](?:https?:)?//[^>]*>"
    assert re.findall(outside, answer.text) == [], "not even a name is looked up elsewhere"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "Not a medical device" in answer.text
    api = visitor.get("/health")
    assert api.headers.get_list("content-security-policy") == ["default-src 'none'"]


@pytest.mark.parametrize(
    "path",
    ["config", "login_check", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/proxy=https://x.hf.space/a", "gradio_api/deep_link",
     "gradio_api/dev/reload", "gradio_api/runs", "gradio_api/run-history/buckets", "monitoring", "manifest.json", "pwa_icon", "gradio_api/user",
     "gradio_api/token", "gradio_api/app_id", "gradio_api/vibe-code", "gradio_api/custom_component/a/client/b/c.js", "assets/../routes.py",
     "assets/..%2f..%2froutes.py", "static/%2e%2e/x", "gradio_api/call/ask/1", "gradio_api/queue/status", "?deep_link=abc"],
)  # fmt: skip
def test_other_addresses_of_the_framework_do_not_exist(visitor: httpx.Client, path: str):
    answer = visitor.get(f"/page/{path}")
    assert answer.status_code == 404, answer.text[:200]


@pytest.mark.parametrize(
    "path", ["gradio_api/run/ask", "gradio_api/api/ask", "gradio_api/call/ask", "gradio_api/call/v2/ask", "gradio_api/component_server",
             "gradio_api/stream/1", "gradio_api/process_recording", "gradio_api/vibe-edit", "gradio_api/run-history/connect", ""],
)  # fmt: skip
def test_nothing_else_can_be_sent_to(visitor: httpx.Client, path: str):
    assert visitor.post(f"/page/{path}", json={}).status_code == 404
    assert visitor.request("DELETE", f"/page/{path}").status_code == 405


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "//etc/passwd", "etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x", "https://example.org/x",
             "{folder}/../../etc/passwd", "{folder}", "{folder}/none", "/proc/self/environ", "%00", "{package}"],
)  # fmt: skip
def test_no_file_but_the_page_s_own_is_served(visitor: httpx.Client, path: str):
    import gradio

    path = path.format(folder=folder(), package=gradio.__file__)
    for form in (
        f"/page/gradio_api/file={path}",
        f"/page/file={path}",
        f"/page/gradio_api/file/{path}",
    ):
        answer = visitor.get(form)
        assert answer.status_code in (401, 404), answer.text[:200]
        assert "root:" not in answer.text


def test_a_link_in_the_folder_leads_nowhere(visitor: httpx.Client):
    link = folder() / "link.txt"
    link.symlink_to("/etc/hostname")
    try:
        assert visitor.get(f"/page/gradio_api/file={link}").status_code == 404
    finally:
        link.unlink()


def test_an_upload_that_names_a_file_of_this_machine_is_refused(visitor: httpx.Client):
    before = sorted(folder().rglob("*"))
    for path in (
        "/etc/hostname",
        str(folder()),
        f"{folder()}/../x",
        "http://127.0.0.1:1/x",
        "https://images.example.org/x.png",
        "",
        None,
    ):
        file = {**uploaded(Path("x"), "x.png"), "path": path}
        message = joined(visitor, "uploaded", [[file]])
        assert not message["success"] or "file is missing" in json.dumps(message["output"]["data"])
        assert "passwd" not in json.dumps(message) and "hostname" not in json.dumps(message)
    for values in ([[{}]], [["x"]], [None], [[None]], ["x"], [7]):
        assert joined(visitor, "uploaded", values)["msg"] == "process_completed"
    assert sorted(folder().rglob("*")) == before


def test_nothing_that_a_browser_names_is_fetched(
    visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    async def fetched(url: str, **_: Any) -> Any:
        asked.append(url)
        raise OSError

    monkeypatch.setattr("safehttpx.get", fetched)
    for name in ("uploaded", "prior_added"):
        for path in ("https://images.example.org/x.png", "http://127.0.0.1:1/x"):
            file = {**uploaded(Path("x"), "x.png"), "path": path, "url": path}
            assert not joined(visitor, name, [[file] if name == "uploaded" else file])["success"]
    assert asked == []


def test_uploads_lie_in_a_private_folder_and_only_until_they_are_read(visitor: httpx.Client):
    data = encoded(noise(40, 50))
    path = Path(upload(visitor, data, "chest.png").json()[0])
    assert path.is_relative_to(folder()) and path.read_bytes() == data
    assert folder().stat().st_mode & 0o077 == 0
    message = joined(visitor, "uploaded", [[uploaded(path, "chest.png")]])
    assert "chest.png · PNG · 50 × 40 pixels" in json.dumps(
        message["output"]["data"], ensure_ascii=False
    )
    assert not path.exists()
    shown = re.search(r'"(/\S*?image\.png)"', json.dumps(message["output"]["data"]))[1]  # type: ignore[index]
    assert visitor.get(f"/page/gradio_api/file={shown}").headers["content-type"] == "image/png"
    with httpx.Client(base_url=str(visitor.base_url), trust_env=False) as stranger:
        assert stranger.get(f"/page/gradio_api/file={shown}").status_code == 401


def test_uploads_are_bounded(visitor: httpx.Client, site: Site):
    limits = site.service.settings.limits
    assert (
        code_of(upload(visitor, bytes(limits.images * limits.image_bytes + 70_000)))
        == "body_too_large"
    )
    answer = upload(visitor, bytes(limits.image_bytes + 1))
    assert answer.status_code == 413
    answer = visitor.post("/page/gradio_api/queue/join", content=bytes(2**20 + 1))
    assert code_of(answer) == "body_too_large"

    def chunks() -> Iterator[bytes]:
        yield b"{}"

    answer = visitor.post("/page/gradio_api/queue/join", content=chunks())
    assert code_of(answer) == "missing_field"


def test_a_page_is_its_client_s(visitor: httpx.Client, site: Site):
    assert joined(visitor, "removed", [0], "mine")["success"]
    with visiting(site, OTHER) as other:
        answer = other.get("/page/gradio_api/queue/data", params={"session_hash": "mine"})
        assert answer.status_code == 404
        assert other.get("/page/gradio_api/heartbeat/mine").status_code == 404
        body = {"data": [0], "fn_index": 2, "session_hash": "mine"}
        assert other.post("/page/gradio_api/queue/join", json=body).status_code in (200, 404)


def test_another_site_s_page_cannot_send_anything(visitor: httpx.Client):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        answer = visitor.post("/page/gradio_api/upload", files={"files": b"x"}, headers=headers)
        assert (answer.status_code, code_of(answer)) == (403, "host_not_allowed")
    answer = visitor.get("/page/theme.css", headers={"Origin": "http://127.0.0.1:1"})
    assert "access-control-allow-origin" not in answer.headers
    assert visitor.get("/page/", headers={"Host": "evil.example"}).status_code == 403
    forged = visitor.get("/page/", headers={"X-Forwarded-Host": "evil.example"})
    assert forged.status_code == 200 and "evil.example" not in forged.text


def test_results_are_files_of_their_client(visitor: httpx.Client, site: Site):
    done = joined(visitor, "asked", ["Is it?", "", None], "asking")
    link = re.search(r"/page/result/[\w-]+/text", json.dumps(site_data(done)))
    holding = page_holding(site)
    token = next(d.token for kept in holding._pages.values() for d in kept.finished.values())
    assert link is None or token in link[0]
    answer = visitor.get(f"/page/result/{token}/text")
    assert answer.headers["content-disposition"] == 'attachment; filename="infimed-ask.txt"'
    assert "Is it?" in answer.text
    with visiting(site, OTHER) as other:
        assert other.get(f"/page/result/{token}/text").status_code == 404
    assert visitor.get(f"/page/result/{token}/exe").status_code == 404


def site_data(message: dict[str, Any]) -> Any:
    return message.get("output", {})


def page_holding(site: Site) -> Any:
    """What the server's page holds."""
    import gc

    from infimed.serving.web.holding import Holding

    return next(each for each in gc.get_objects() if isinstance(each, Holding) and each._pages)


def test_nothing_that_a_visitor_sent_is_printed(
    visitor: httpx.Client, capfd: pytest.CaptureFixture[str]
):
    canary = "SMITH^JOHN-1970"
    joined(visitor, "uploaded", [[uploaded(Path(f"/{canary}"), canary)]])
    joined(visitor, "asked", [canary, canary, None], "canary")
    joined(visitor, "windowed", [canary, canary, canary])
    printed = capfd.readouterr()
    assert canary not in printed.out + printed.err


def test_a_page_that_is_open_does_not_keep_the_server_from_stopping(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder()))  # the other server's, afterwards
    service = page_service()
    with (
        running(service, page=True) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=20) as client,
    ):
        with client.stream("GET", "/page/gradio_api/heartbeat/open") as beating:
            lines = beating.iter_lines()
            assert next(lines) == "data: ALIVE"
            service.gate.draining = True
            with pytest.raises((httpx.RemoteProtocolError, StopIteration)):
                while True:
                    next(lines)
        place = folder()
        assert place.exists()
    assert not place.exists(), "the folder is emptied at the end"


def test_without_the_page_there_are_no_addresses_of_it():
    service = page_service()
    with running(service) as url:
        for path in ("/", "/page/", "/page/gradio_api/file=/etc/passwd"):
            assert httpx.get(url + path, trust_env=False).status_code == 404


def test_data_in_the_page_cannot_end_a_script():
    template = '<html><head><script>window.x = {"a":"\\u003c/script>"}</script></head><body style="a"><p></body></html>'
    made = rewritten(template, "NONCE", "<header></header>")
    assert made.count('<script nonce="NONCE"') == 2
    assert '<body style="a"><header></header>' in made


def test_the_page_is_put_up_where_the_extra_is_installed_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
):
    assert page_wanted(True) and not page_wanted(False)
    assert page_wanted(None), "the extra is installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not page_wanted(None)
    with pytest.raises(UsageError, match=r"infimed\[web\]") as refused:
        page_wanted(True)
    assert "gradio" in str(refused.value)


def test_a_key_is_asked_for_in_the_browser_and_opens_the_page_until_one_leaves(
    open_tab: Any, site: Site
):
    tab = open_tab()
    assert tab.page.locator("gradio-app").count() == 0
    assert "Not a medical device" in tab.page.locator("header.infimed").inner_text()
    tab.page.locator("#key").fill("a-long-enough-key-of-nobody")
    tab.page.get_by_role("button", name="Continue").click()
    assert "not known" in tab.page.locator("[role=alert]").inner_text()
    tab.page.locator("#key").fill(KEY)
    tab.page.get_by_role("button", name="Continue").click()
    add(tab, PNG)
    ask(tab, "Is it normal?")
    assert text(tab, "#answer") == "No effusion is visible."
    name, content = saved(tab, "#ask-as-text")
    assert name == "infimed-ask.txt" and "Is it normal?" in content
    (cookie,) = tab.page.context.cookies()
    assert cookie["httpOnly"] and cookie["path"] == "/page" and KEY not in cookie["value"]
    assert "infimed-page" not in tab.page.evaluate("document.cookie")
    tab.page.get_by_role("link", name="Sign out").click()
    tab.page.locator("#key").wait_for()
    assert tab.page.context.cookies() == []
