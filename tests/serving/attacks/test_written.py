"""S16: nothing of a patient is written down or sent away."""

from __future__ import annotations

import io
import json
import logging

import httpx
import numpy as np
from PIL import Image, ImageDraw

from infimed.serving import logs
from infimed.serving.audit import Audit
from infimed.serving.keys import read_keys
from tests.data.samples import dicom_bytes
from tests.serving.attacks.common import CANARY, LOCAL
from tests.serving.world import body, data_url, image_part, post, running, service_of


def test_s16_no_log_line_and_no_file_holds_a_patient(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text("0123456789abcdef" + CANARY + "\n")
    written = io.StringIO()
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    try:
        logs.set_up(written)
        service = service_of(LOCAL, processes=True)
        service.answerer.audit = Audit(tmp_path / "audit.jsonl", b"k" * 64)
        drawn = Image.new("I;16", (200, 40))
        ImageDraw.Draw(drawn).text((4, 4), CANARY, fill=4000)
        burned = np.asarray(drawn)
        named = dicom_bytes(burned, PatientName=CANARY, PatientID=CANARY, StudyDescription=CANARY)
        key = {"Authorization": f"Bearer 0123456789abcdef{CANARY}"}
        with running(service, read_keys(tmp_path / "keys")) as url:
            shown = image_part(data_url(named, "application/dicom"))
            post(url, body(f"{CANARY} lung?", shown, user=CANARY), headers=key)
            post(url, body(CANARY, stream=True, stop=[CANARY]), headers=key)
            sent = httpx.post(
                f"{url}/v1/infimed/files",
                files={"file": (f"{CANARY}.dcm", named, "application/dicom")},
                headers=key,
                trust_env=False,
            )
            assert (
                post(url, body(CANARY, image_part(sent.json()["id"])), headers=key).status_code
                == 200
            )
            post(url, body(CANARY, image_part(f"file-{CANARY}")), headers=key)
            post(url, body(CANARY, image_part(CANARY)), headers=key)
            post(url, body(CANARY, **{CANARY.lower(): 1}), headers=key)
            post(url, json.dumps(body(CANARY)).encode()[:-1], headers=key)
            post(url, body(CANARY), headers={"Authorization": f"Bearer {CANARY}"})
            httpx.get(
                f"{url}/{CANARY}?q={CANARY}", headers={"User-Agent": CANARY, **key}, trust_env=False
            )

            def fail(*_: object) -> None:
                raise ValueError(CANARY)

            with monkeypatch.context() as broken:
                broken.setattr("infimed.serving.engine.choose_next", fail)
                assert post(url, body(CANARY), headers=key).status_code == 500
            with monkeypatch.context() as broken:
                broken.setattr("infimed.serving.service.conversation", fail)
                assert post(url, body(CANARY), headers=key).status_code == 500
            logging.getLogger("some.library").error("%s " + CANARY, CANARY)
            page = httpx.get(f"{url}/metrics", headers=key, trust_env=False).text
    finally:
        root.handlers[:], root.level = before[0], before[1]
        logging.getLogger("uvicorn.access").disabled = False
    lines = written.getvalue()
    assert len(lines.splitlines()) >= 8 and all(map(json.loads, lines.splitlines()))
    for text in (lines, page, *capfd.readouterr()):
        assert CANARY not in text and CANARY.lower() not in text
    written_files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written_files == {"keys", "audit.jsonl"}
    assert CANARY not in (tmp_path / "audit.jsonl").read_text()


def test_s16_the_framework_sends_nothing_away(monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    from infimed.serving.app import make_app

    inner = make_app(service_of(LOCAL)).app
    told = getattr(inner, "_telemetry", {})
    assert not any(value for name, value in told.items() if not name.endswith("provider"))
