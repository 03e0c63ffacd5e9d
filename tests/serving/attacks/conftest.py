"""One server for all attacks of a file; after every attack it answers an honest question."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from infimed.serving.service import Service
from tests.serving.attacks.common import LOCAL
from tests.serving.world import body, image_part, png_url, post, running, service_of, settings_of


@pytest.fixture(scope="module")
def service() -> Service:
    small = {
        "limits": {"body_bytes": 2**21, "image_bytes": 2**20},
        "times": {"body": 1, "header": 1},
        "decoder": {"workers": 1, "memory_bytes": 2**29},
    }
    return service_of(LOCAL, settings_of(**small), processes=True)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with running(service) as address:
        yield address


@pytest.fixture(autouse=True)
def alive(url: str) -> Iterator[None]:
    """After every attack the server answers an honest question."""
    yield
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    assert post(url, body("a", image_part(png_url(1)))).status_code == 200
