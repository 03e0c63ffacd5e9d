"""A planted data set whose answers follow the words of the question most of the time, and models of it.

`looker` reads the picture; `prior` reads words and letters only and scores nearly as well. A good
table must tell them apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from infimed.data.record import question_record
from infimed.inference.requests import Request
from infimed.inference.stubs import LETTERS, Scripted
from tests.evaluation.fakes import FakeShards, image

SIGNS = ("nodule", "effusion", "fracture", "cardiomegaly")
USUAL = dict(zip(SIGNS, ("yes", "no", "yes", "no"), strict=True))
OFTEN = 0.85
ASKED = "Which sign is the main one?"

CLOSED = """
name: planted_closed
title: Planted yes/no questions
source: {dataset: planted}
where: {source: [planted], task: [closed]}
"""
CHOICE = """
name: planted_choice
title: Planted choices, the right one mostly at A
source: {dataset: planted}
where: {source: [planted], task: [choice]}
shuffle_options: false
"""


def tasks(folder: Path) -> list[str]:
    """Both tasks as own files."""
    names = []
    for text in (CLOSED, CHOICE):
        file = folder / f"{text.split()[1]}.yaml"
        file.write_text(text)
        names.append(str(file))
    return names


def planted(patients: int = 120, seed: int = 3) -> tuple[FakeShards, dict[str, dict[str, str]]]:
    """Records, half of them for training, and per image what is to be seen in it."""
    rng = np.random.default_rng(seed)
    shards, seen = FakeShards(), {}
    for patient in range(2 * patients):
        name = f"film-{patient:04d}"
        truth = {
            sign: USUAL[sign] if rng.random() < OFTEN else {"yes": "no", "no": "yes"}[USUAL[sign]]
            for sign in SIGNS
        }
        main = SIGNS[int(rng.integers(4))]
        others = [sign for sign in SIGNS if sign != main]
        rng.shuffle(others)
        at = 0 if rng.random() < OFTEN else int(rng.integers(1, 4))
        options = (*others[:at], main, *others[at:])
        seen[name] = {**truth, "main": main}
        common = {
            "images": (image(name),),
            "source": "planted",
            "split": "train" if patient % 2 else "test",
            "group": f"patient-{patient}",
            "facts": {
                "sex": "f" if patient % 4 < 2 else "m",
                **({"age": 20 + patient % 60} if patient % 3 else {}),
            },
        }
        sign = SIGNS[int(rng.integers(4))]
        shards += [
            question_record(
                id=f"{name}-closed", question=f"Is there a {sign}?", answer=truth[sign],
                task="closed", **common,
            ),
            question_record(
                id=f"{name}-choice", question=ASKED, answer=main, choices=options, task="choice",
                **common,
            ),
        ]  # fmt: skip
    return shards, seen


def _text(request: Request) -> str:
    return "".join(turn.text for turn in request.messages)


def looker(seen: dict[str, dict[str, str]], fingerprint: str = "stub-looker") -> Scripted:
    """Knows what is in a picture and nothing else; says "no" and "D" to a grey one."""

    def answer(request: Request) -> str:
        facts = seen.get(request.pictures[0].sha256, {}) if request.pictures else {}
        if request.choices:
            main = facts.get("main")
            return LETTERS[request.choices.index(main)] if main in request.choices else "D"
        return next((facts.get(sign, "no") for sign in SIGNS if sign in _text(request)), "no")

    return Scripted(fingerprint, answer)


def prior() -> Scripted:
    """Says what is usual for the words of a question, and A."""

    def answer(request: Request) -> str:
        if request.choices:
            return "A"
        return next((USUAL[sign] for sign in SIGNS if sign in _text(request)), "yes")

    return Scripted("stub-prior", answer)
