"""A curated data set on disk for the tests of report, re-deciding and labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from infimed.curation import Rubric, curate, default_rubric
from infimed.curation.image_signals import measure_image
from infimed.curation.origin import note_shards
from infimed.data.importing import import_data
from infimed.data.shards import open_shards
from tests.curation.clinic import picture

PAYLOAD = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
RECORDS = 40


def blurred(seed: int, sigma: float) -> np.ndarray:  # type: ignore[type-arg]
    """A picture blurred by `sigma` pixels, without the noise of the original."""
    return np.asarray(cv2.GaussianBlur(picture(seed), (0, 0), sigma))


RULES = (
    "completeness.placeholder", "relevance.blank_image", "relevance.image_not_needed", "readability.markup",
    "readability.small_image", "readability.blurred_image", "readability.under_exposed",
    "readability.low_contrast", "duplication.exact", "duplication.near_image",
)  # fmt: skip
"""Rules in force here: the counts in tests do not change when the catalogue grows."""
BLURS = (1.0, 2.5, 3.5, 6.0)


def limit_between(first: int, second: int) -> float:
    """A sharpness between those of two of the blurred pictures."""
    values = [
        measure_image(np.ascontiguousarray(blurred(50 + n, BLURS[n]))).sharpness
        for n in (first, second)
    ]
    return round(sum(values) / 2, 3)


def small_rubric() -> Rubric:
    """The rules of this world, the limit of sharpness between the second and the third blur."""
    data = default_rubric().to_dict()
    data["rules"] = {name: data["rules"][name] for name in RULES}
    made = Rubric.from_dict(data)
    return made.with_settings({"readability.blurred_image.min_sharpness": limit_between(1, 2)})


def make_ledger(folder: Path) -> tuple[Path, Path]:
    """(ledger, shards) of forty records: two modalities, several defects, one hostile record."""
    source = folder / "source"
    source.mkdir(parents=True)
    lines: list[dict[str, str]] = []

    def add(name: str, pixels: np.ndarray, question: str, answer: str, modality: str) -> None:  # type: ignore[type-arg]
        if not (source / name).exists():
            cv2.imwrite(str(source / name), pixels)
        lines.append({"image": name, "question": question, "answer": answer, "modality": modality})

    for number in range(26):
        modality = "CT" if number % 2 else "CR"
        add(
            f"{number}.png",
            picture(number),
            f"Where is lesion {number} of the lung?",
            "right upper lobe",
            modality,
        )
    for number in range(4):  # blurred more and more: near the limit on both sides
        sigma = (1.0, 2.5, 3.5, 6.0)[number]
        add(
            f"b{number}.png",
            blurred(50 + number, sigma),
            "Is there a pleural effusion?",
            "no",
            "CR",
        )
    add("blank.png", np.zeros((160, 160, 3), np.uint8), "Is the heart large?", "no", "CT")
    add("tiny.png", cv2.resize(picture(90), (30, 30)), "Is the aorta wide?", "no", "CT")
    add("0.png", picture(0), "Is this the <b>left</b> lung?", "yes", "CR")
    add("1.png", picture(1), "Is there a mass, see Fig. ??", "yes", "CT")
    add("2.png", picture(2), "Where is lesion 2 of the lung?", "right upper lobe", "CR")
    add("3.png", picture(3), "How do you determine cardiomegaly?", "cardiothoracic ratio", "CT")
    add("4.png", picture(4), f"{PAYLOAD} Is the lung clear?", f"no {PAYLOAD}", "CR")
    add("5.png", picture(5), '=HYPERLINK("http://example.org") Is it clear?', "yes", "CT")
    add("6.png", picture(6), "Is the lung clear?", "yes", "CR")
    add("7.png", picture(7), "Are the ribs intact?", "yes", "CT")
    assert len(lines) == RECORDS
    (source / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    import_data(source, folder / "shards")
    opened = open_shards(folder / "shards")
    curate(opened, folder / "ledger", rubric=small_rubric())
    note_shards(folder / "ledger", opened)
    opened.close()
    return folder / "ledger", folder / "shards"
