"""S9: addresses that are not data. What an allow-list lets through has its own file, `test_remote`."""

from __future__ import annotations

import pytest

from tests.serving.attacks.common import refused
from tests.serving.world import body, image_part, post


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/", "https://127.0.0.1/", "http://[::ffff:127.0.0.1]/", "http://2130706433/",
        "http://0177.0.0.1/", "http://169.254.169.254/latest", "http://ok\\@evil/", "file:///etc/passwd",
        "/etc/passwd", "\\\\host\\share", "ftp://a/", "data:text/html;base64,PGI+", "javascript:alert(1)", "a" * 5000,
    ],
)  # fmt: skip
def test_s9_nothing_is_fetched(url, address, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr("infimed.serving.remote.resolve", lambda *a: asked.append(a))
    answer = post(url, body("a", image_part(address)))
    refused(answer, "image_url", "image_format")
    assert address[:40] not in answer.text and not asked
