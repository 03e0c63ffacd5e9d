"""A shard set in memory, with records like those of the phantom clinic and of VQA-RAD."""

from __future__ import annotations

import numpy as np

from infimed.core.errors import DataError
from infimed.data.record import ImageRef, Record, question_record

FINDINGS = ("pleural effusion", "pneumothorax", "calcified granuloma")
OPTIONS = ("consolidation", "pleural effusion", "pneumothorax", "calcified granuloma")


class FakeShards(list[Record]):
    """Records with made-up pixels; image "broken" cannot be decoded."""

    def pixels(self, ref: ImageRef) -> np.ndarray:
        if ref.sha256 == "broken":
            raise DataError("the image data is damaged", where=ref.sha256)
        seed = int.from_bytes(ref.sha256.encode()[-4:], "big")
        return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def image(name: str) -> ImageRef:
    return ImageRef(f"images/{name}.png", sha256=name, width=32, height=24)


def clinic(patients: int = 30, seed: int = 0) -> FakeShards:
    """Four records a patient; every fifth patient is in training only to teach the controls."""
    rng = np.random.default_rng(seed)
    out = FakeShards()
    for patient in range(patients):
        split = "train" if patient % 2 else "test"
        finding = FINDINGS[int(rng.integers(3))]
        small = finding == "calcified granuloma"
        side = ("left", "right")[int(rng.integers(2))]
        common = {
            "images": (image(f"p{patient}"),),
            "source": "phantom",
            "split": split,
            "group": f"patient-{patient}",
        }
        facts = {
            "finding": finding,
            "small": small,
            "finding_size_fraction": 0.03 if small else 0.15,
        }
        asked, yes = FINDINGS[int(rng.integers(3))], "yes" if rng.random() < 0.5 else "no"
        out += [
            question_record(
                id=f"p{patient}-presence",
                question=f"Is there a {asked}?",
                answer=yes,
                task="closed",
                facts={"question_type": "presence", **facts},
                **common,
            ),
            question_record(
                id=f"p{patient}-side",
                question=f"Is the {finding} on the patient's {side} side?",
                answer="yes" if rng.random() < 0.5 else "no",
                task="closed",
                facts={"question_type": "laterality", **facts},
                **common,
            ),
            question_record(
                id=f"p{patient}-finding",
                question="Which finding does this image show?",
                answer=finding,
                choices=OPTIONS,
                task="choice",
                facts={"question_type": "finding", **facts},
                **common,
            ),
            question_record(
                id=f"p{patient}-report",
                question="Write the report with Findings and Impression.",
                answer=f"Findings: {finding.capitalize()}, {side} lower zone, 45 mm. No consolidation.\n"
                f"Impression: {side.capitalize()} {finding}.",
                task="report",
                facts={"question_type": "report", "anatomy": "chest"},
                **common,
            ),
        ]
    return out


def radiology(images: int = 24, seed: int = 0) -> FakeShards:
    """Closed and open questions in the layout of the VQA-RAD reader."""
    rng = np.random.default_rng(seed)
    out = FakeShards()
    for number in range(images):
        common = {
            "images": (image(f"i{number}"),),
            "source": "vqa_rad",
            "split": "train" if number % 2 else "test",
            "group": f"case-{number // 2 * 2}",
        }
        rows = [
            ("PRES", "CLOSED", "Is there a mass?", "yes" if rng.random() < 0.4 else "no"),
            (
                "PLANE",
                "OPEN",
                "In what plane is this image?",
                str(rng.choice(["axial", "PA", "coronal"])),
            ),
            ("MODALITY", "CLOSED", "Is this a CT?", "yes" if rng.random() < 0.4 else "no"),
            ("ABN", "CLOSED", "Is it CT or MRI?", str(rng.choice(["CT", "MRI"]))),
        ]
        out += [
            question_record(
                id=f"i{number}-{index}",
                question=question,
                answer=answer,
                task="closed" if kind == "CLOSED" else "open",
                facts={"question_type": name, "question_types": [name], "answer_type": kind},
                **common,
            )
            for index, (name, kind, question, answer) in enumerate(rows)
        ]
    return out
