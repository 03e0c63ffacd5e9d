"""What reviewers get: one offline page, the same items as CSV and JSON lines, and the images.

Blinded: no verdict, finding, score or reason for drawing is in any of these files. Nothing from records
can run: the page's data is JSON with every ``<``, ``>`` and ``&`` escaped, shown as text only; its
Content-Security-Policy allows the one script written here, by its hash; CSV cells that a spreadsheet would
take for a formula are quoted.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from infimed.core.errors import DataError
from infimed.core.escaping import script_digest, script_safe, spreadsheet_text
from infimed.core.files import atomic_folder, write_text
from infimed.core.page import clean, template
from infimed.curation import ledger
from infimed.curation.engine import read_summary
from infimed.curation.findings import QUALITY, Finding
from infimed.curation.hiding import HIDDEN, hidden_image, masked
from infimed.curation.label_files import FORMAT
from infimed.curation.labels import ASKED, Drawn, draw_sample, sample_id, write_sample
from infimed.curation.ledger_columns import rows_where
from infimed.curation.report_examples import Source
from infimed.curation.rules.base import turns
from infimed.data.record import Record
from infimed.data.thumbnails import MOST_IMAGES, alternative, thumbnail

SIDE: Final = 640
QUALITY_JPEG: Final = 85
PAGE, ITEMS_CSV, ITEMS_JSONL, IMAGES = "review.html", "items.csv", "items.jsonl", "images"
_FACTS: Final = (
    "modality",
    "anatomy",
    "side",
    "view",
    "plane",
    "sex",
    "age_band",
    "pixel_spacing_mm",
)


@dataclass(frozen=True)
class Exported:
    """What was written: records a pool, distinct images, and the sample's name."""

    records: int
    images: int
    pools: dict[str, int]
    sample: str


def export_labels(folder: Path, shards: Source, out: Path, n: int, seed: int = 0) -> Exported:
    """Draw a sample and write the files for reviewers into the new folder `out`.

    Raises:
        DataError: no finished ledger, `out` holds something, or it cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("there is something already", where=str(out), fix="give --out a new folder")
    drawn = draw_sample(folder, n, seed)
    name = sample_id(read_summary(folder).data_hash, drawn)
    findings = rows_where(folder, ledger.FINDINGS, [one.row for one in drawn])
    images: dict[str, str] = {}
    items = []
    for one in drawn:
        ours = [ledger.finding_of(line) for line in findings[one.row]]
        items.append(_item(shards, shards.record(one.row), ours, images))
    with atomic_folder(out) as partial:
        (partial / IMAGES).mkdir()
        for key, uri in images.items():
            data = base64.b64decode(uri.partition(",")[2])
            (partial / IMAGES / f"{key}.jpg").write_bytes(data)
        write_text(partial / PAGE, page(items, images, name))
        write_text(partial / ITEMS_JSONL, "".join(_line(item, images) for item in items))
        write_text(partial / ITEMS_CSV, _csv(items))
    write_sample(folder, drawn)
    return Exported(len(items), len(images), _pools(drawn), name)


def _pools(drawn: Sequence[Drawn]) -> dict[str, int]:
    pools: dict[str, int] = {}
    for one in drawn:
        pools[one.pool] = pools.get(one.pool, 0) + 1
    return dict(sorted(pools.items()))


def _item(
    shards: Source, record: Record, findings: Sequence[Finding], images: dict[str, str]
) -> dict[str, Any]:
    shown = []
    for number, ref in enumerate(record.images[:MOST_IMAGES]):
        alt = alternative(ref, record.id, number + 1, len(record.images))
        key = (ref.sha256 or ref.locator)[:24]
        if hidden_image(number, findings):
            shown.append({"key": "", "alt": alt, "problem": HIDDEN})
            continue
        problem = ""
        if key not in images:
            made = thumbnail(shards, ref, alt, SIDE, QUALITY_JPEG)
            problem = made.problem
            if made.uri:
                images[key] = made.uri
        shown.append({"key": key, "alt": alt, "problem": problem})
    texts = [
        {"name": name, "text": masked(text, name, findings)} for name, text in turns(record) if text
    ]
    if record.choices:
        lines = [masked(c, f"choice {i}", findings) for i, c in enumerate(record.choices)]
        texts.insert(1, {"name": "choices", "text": "\n".join(f"· {line}" for line in lines)})
    if record.answer is not None and record.answer != record.response:
        texts.append({"name": "answer", "text": masked(record.answer, "answer", findings)})
    facts = {**(record.images[0].facts if record.images else {}), **record.facts}
    known = [f"{name}: {facts[name]}" for name in _FACTS if facts.get(name) not in (None, "")]
    return {
        "record_id": record.id,
        "task": record.task,
        "images": shown,
        "texts": [{"name": t["name"], "text": clean(t["text"])} for t in texts],
        "facts": clean(", ".join(known)),
    }


def page(items: Sequence[dict[str, Any]], images: dict[str, str], sample: str) -> str:
    """The review page as text."""
    script = "\n" + resources.files("infimed.curation").joinpath("label_page.js.j2").read_text(
        "utf-8"
    )
    data = {
        "format": FORMAT,
        "sample": sample,
        "dimensions": [
            {"name": name, "question": ASKED[name][0], "levels": list(ASKED[name][1:])}
            for name in QUALITY
        ],
        "items": list(items),
        "images": images,
    }
    return str(
        template("infimed.curation", "label_page.html.j2").render(
            count=len(items),
            data=script_safe(data),
            script=script,
            script_hash=script_digest(script),
        )
    )


def _line(item: dict[str, Any], images: dict[str, str]) -> str:
    files = [f"{IMAGES}/{i['key']}.jpg" for i in item["images"] if i["key"] in images]
    return json.dumps({**item, "images": files}, ensure_ascii=True) + "\n"


def _csv(items: Sequence[dict[str, Any]]) -> str:
    """The template to fill in with a spreadsheet: label columns first, then what is judged."""
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow(["record_id", "rater", *QUALITY, "comment", "task", "text", "images", "facts"])
    for item in items:
        text = "\n".join(f"{t['name']}: {t['text']}" for t in item["texts"])
        files = " ".join(f"{IMAGES}/{i['key']}.jpg" for i in item["images"] if i["key"])
        cells = [
            item["record_id"],
            "",
            *[""] * len(QUALITY),
            "",
            item["task"],
            text,
            files,
            item["facts"],
        ]
        writer.writerow([spreadsheet_text(cell) for cell in cells])
    return made.getvalue().encode("utf-8", "replace").decode("utf-8")
