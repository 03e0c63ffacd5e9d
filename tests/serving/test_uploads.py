"""Uploads: sent once, shown often, each client's own, in memory, bounded, forgotten."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from infimed.serving.keys import read_keys
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service
from infimed.serving.uploads import Uploads, form_file
from tests.data.samples import dicom_bytes, encoded, noise
from tests.serving.test_media import grey16
from tests.serving.world import (
    body,
    code_of,
    data_url,
    image_part,
    post,
    running,
    service_of,
    settings_of,
    tiny_local,
    user,
)

LOCAL = tiny_local()
PNG = encoded(noise(24, 40, 1))
KEYS = ("a-long-enough-key-1", "a-long-enough-key-2")


@pytest.fixture(scope="module")
def service() -> Service:
    return service_of(LOCAL, settings_of(limits={"image_bytes": 2**20, "upload_bytes_per_client": 3 * 2**20}))  # fmt: skip


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address


def send(
    url: str, data: bytes, name: str = "a.png", kind: str = "image/png", **more: object
) -> httpx.Response:
    address = f"{url}/v1/infimed/files"
    return httpx.post(address, files={"file": (name, data, kind)}, trust_env=False, **more)


def answer_to(url: str, shown: str, **more: object) -> str:
    said = post(url, body("left mass?", image_part(shown, **more)))
    assert said.status_code == 200, said.text
    return said.json()["choices"][0]["message"]["content"]


def test_an_upload_is_shown_as_the_same_image_in_the_request(url):
    sent = send(url, PNG)
    assert sent.status_code == 200
    value = sent.json()
    assert value["id"] == f"file-{hashlib.sha256(PNG).hexdigest()}" and value["bytes"] == len(PNG)
    assert value["expires_at"] - value["created_at"] == 600
    assert answer_to(url, value["id"]) == answer_to(url, data_url(PNG))


def test_openais_client_can_send_it(url):
    with openai.OpenAI(base_url=f"{url}/v1/infimed", api_key="none", max_retries=0) as client:
        made = client.files.create(file=("a.png", PNG, "image/png"), purpose="vision")
    assert made.id.startswith("file-") and made.purpose == "vision"


def test_a_frame_of_an_upload_is_chosen_where_it_is_shown(url):
    import numpy as np

    frames = np.stack([grey16(), grey16()[::-1]])
    data = dicom_bytes(frames)
    name = send(url, data, "x.dcm", "application/dicom").json()["id"]
    for frame in (0, 1):
        assert answer_to(url, name, frame=frame) == answer_to(url, data_url(data, "application/dicom"), frame=frame)  # fmt: skip


def test_no_client_finds_what_another_sent(tmp_path: Path):
    (tmp_path / "keys").write_text("\n".join(KEYS))
    with running(service_of(LOCAL), read_keys(tmp_path / "keys")) as url:
        own, other = ({"Authorization": f"Bearer {key}"} for key in KEYS)
        assert code_of(send(url, PNG)) == "unauthorized"
        name = send(url, PNG, headers=own).json()["id"]
        assert post(url, body("a", image_part(name)), headers=own).status_code == 200
        refused = post(url, body("a", image_part(name)), headers=other)
        assert code_of(refused) == "image_upload" and name not in refused.text
        gone = httpx.delete(f"{url}/v1/infimed/files/{name}", headers=other, trust_env=False)
        assert code_of(gone) == "image_upload"
        assert post(url, body("a", image_part(name)), headers=own).status_code == 200


def test_an_upload_can_be_taken_back(url):
    name = send(url, encoded(noise(24, 40, 77))).json()["id"]
    gone = httpx.delete(f"{url}/v1/infimed/files/{name}", trust_env=False)
    assert gone.json() == {"id": name, "object": "file", "deleted": True}
    assert code_of(post(url, body("a", image_part(name)))) == "image_upload"


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (b"", "image/png", "image_empty"),
        (b"<svg onload=alert(1)>", "image/svg+xml", "invalid_value"),
        (b"<svg onload=alert(1)>", "image/png", "image_format"),
        (PNG, "image/jpeg", "image_type"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2**20), "image/png", "image_bytes"),
        (b"MZ" + bytes(100), "application/octet-stream", "image_format"),
    ],
)
def test_only_images_are_kept(url, service, data, kind, expected):
    before = service.uploads.held_bytes
    refused = send(url, data, "x", kind)
    expected = "image_format" if expected == "invalid_value" else expected
    assert code_of(refused) == expected and refused.status_code in (400, 413)
    assert service.uploads.held_bytes == before


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>.png", "../../etc/passwd", "a" * 3000, "\u202egnp.exe", "JANEROE19560401.png", 'a";filename="b', "a\r\nX: y"],
)  # fmt: skip
def test_a_file_name_is_never_read(url, name):
    sent = send(url, PNG, name)
    assert sent.status_code == 200 and "x" not in sent.headers
    for part in (name, name[:20]):
        assert part not in sent.text


FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(disposition: str, data: str = "x", *headers: str) -> str:
    lines = [f"Content-Disposition: {disposition}", *headers]
    return "--b\r\n" + "\r\n".join(lines) + f"\r\n\r\n{data}\r\n"


FILE = part('form-data; name="file"; filename="x"')


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "invalid_form"),
        ("--b", "invalid_form"),
        (FILE, "invalid_form"),
        (FILE + "--b--", "image_format"),
        (FILE + FILE + "--b--", "invalid_form"),
        (part('form-data; name="purpose"') + "--b--", "missing_field"),
        (part('form-data; name="model"') + FILE + "--b--", "unknown_field"),
        (part('form-data; name="purpose"') * 9 + FILE + "--b--", "invalid_form"),
        (part("attachment") + "--b--", "invalid_form"),
        (part('form-data; name="file"', "eA==", "Content-Transfer-Encoding: base64") + "--b--", "invalid_form"),
        ("--b\r\n" + "A: b\r\n" * 5000 + "\r\n\r\n--b--", "invalid_form"),
        ("--b\r\nA" + "a" * 70_000 + ": b\r\n\r\nx\r\n--b--", "invalid_form"),
        ("\0" * 1000, "invalid_form"),
    ],
)  # fmt: skip
def test_a_form_that_is_none_is_refused(url, content, expected):
    answer = httpx.post(f"{url}/v1/infimed/files", content=content.encode(), headers=FORM, trust_env=False)  # fmt: skip
    assert (answer.status_code, code_of(answer)) == (400, expected)


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/mixed; boundary=b", "multipart/form-data", "multipart/form-data; boundary=", ""]
)  # fmt: skip
def test_what_is_no_form_is_refused(url, kind):
    content = (FILE + "--b--").encode()
    headers = {"Content-Type": kind}
    answer = httpx.post(f"{url}/v1/infimed/files", content=content, headers=headers, trust_env=False)  # fmt: skip
    assert (answer.status_code, code_of(answer)) == (415, "form_expected")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.org"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_a_page_of_another_site_cannot_send_a_form(url, headers):
    answer = send(url, PNG, headers=headers)
    assert (answer.status_code, code_of(answer)) == (403, "origin_not_allowed")
    assert send(url, PNG, headers={"Origin": url, "Sec-Fetch-Site": "same-origin"}).status_code == 200  # fmt: skip


def test_what_does_not_fit_is_refused_and_nothing_is_lost(url, service):
    large = [encoded(noise(560, 560, seed)) for seed in range(5)]
    assert all(700_000 < len(data) < 2**20 for data in large)
    service.uploads._kept.clear()
    sent = [send(url, data) for data in large]
    assert [each.status_code for each in sent] == [200, 200, 200, 429, 429]
    assert code_of(sent[3]) == "too_many_uploads" and 0 < int(sent[3].headers["retry-after"]) <= 600
    assert service.uploads.held_bytes <= 3 * 2**20
    for each in sent[:3]:
        assert answer_to(url, each.json()["id"])
    service.uploads._kept.clear()


def with_clock(work: Callable[[Uploads, list[float]], Awaitable[None]], **limits: int) -> None:
    now = [0.0]
    uploads = Uploads(settings_of(limits=limits), clock=lambda: now[0])

    async def run() -> None:
        await work(uploads, now)

    asyncio.run(run())


def test_an_upload_is_forgotten_after_its_time():
    async def work(uploads: Uploads, now: list[float]) -> None:
        name = uploads.put("a", b"image", "image/png")
        now[0] = 599.0
        assert uploads.get("a", name, "p").data == b"image"
        now[0] = 600.0
        with pytest.raises(Refusal) as refused:
            uploads.get("a", name, "p")
        assert refused.value.code == "image_upload" and uploads.held_bytes == 0

    with_clock(work)


def test_an_upload_is_forgotten_also_where_nobody_comes_again():
    async def work() -> None:
        uploads = Uploads(settings_of(times={"upload": 0.01}))
        uploads.put("a", b"image", "image/png")
        while uploads.held_bytes:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(work(), 30))


def test_the_same_again_takes_no_more_room_and_begins_its_time_anew():
    async def work(uploads: Uploads, now: list[float]) -> None:
        name = uploads.put("a", b"image", "image/png")
        now[0] = 500.0
        assert uploads.put("a", b"image", "image/png") == name and uploads.held_bytes == 5
        now[0] = 900.0
        assert uploads.get("a", name, "p")

    with_clock(work, upload_bytes=8)


def test_all_together_are_bounded_and_nobody_is_pushed_out():
    async def work(uploads: Uploads, now: list[float]) -> None:
        first = uploads.put("a", b"12345", "image/png")
        now[0] = 100.0
        with pytest.raises(Refusal) as refused:
            uploads.put("b", b"6789", "image/png")
        assert (refused.value.code, refused.value.retry_after) == ("overloaded", 500)
        assert uploads.get("a", first, "p")

    with_clock(work, upload_bytes=8)


def test_nothing_touches_a_disk(url, tmp_path, monkeypatch):
    import tempfile

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a file was made")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, fail)
    assert send(url, encoded(noise(560, 560, 3))).status_code == 200


def test_a_type_that_is_not_said_is_found(url):
    content = json.dumps(0).encode()
    assert form_file(b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + content + b"\r\n--b--\r\n", FORM["Content-Type"]) == (content, "application/octet-stream")  # fmt: skip
    said = post(url, {"model": "tiny", "messages": [user("a", image_part("file-" + "0" * 64))]})
    assert (said.status_code, code_of(said)) == (400, "image_upload")
