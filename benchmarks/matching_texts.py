"""Near texts, measured: time, copies found, pairs wrongly called, and the MinHash of two peers beside them.

A part of `matching.py` and of `curation.py`.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from infimed.matching.text import critical_words, jaccard, near_text_groups, shingles

PARTS: dict[str, list[str]] = {
    "view": ["Axial", "Coronal", "Sagittal", "PA", "Lateral", "Frontal", "Oblique"],
    "modality": ["CT", "MRI", "radiograph", "ultrasound"],
    "organ": ["lung", "liver", "kidney", "brain", "spleen", "heart", "pancreas", "thyroid", "prostate", "femur", "colon"],
    "sign": ["mass", "nodule", "effusion", "fracture", "consolidation", "cyst", "haemorrhage", "abscess", "stenosis"],
    "look": ["spiculated", "lobulated", "heterogeneous", "well-defined", "enhancing", "hypodense", "cavitary", "diffuse", "focal"],
    "side": ["left", "right"],
    "level": ["upper", "lower", "middle"],
    "end": [
        "There is also mild perihilar thickening", "No adenopathy is identified",
        "The remaining structures are unremarkable", "Follow up is recommended in 6 weeks",
        "Surrounding oedema extends to the adjacent tissue", "Findings were confirmed at surgery",
        "The patient presented with fever and cough", "Post-contrast images show rim enhancement",
    ],
}  # fmt: skip


def captions(count: int, edited: float = 0.1) -> tuple[list[str], int]:
    """Captions of about 250 characters from one grammar, the last share with one word reversed."""
    lots = random.Random(9182)

    def pick(name: str) -> str:
        return lots.choice(PARTS[name])

    def one() -> str:
        return (
            f"{pick('view')} {pick('modality')} of the {pick('organ')} showing a {pick('look')} {pick('look')} "
            f"{pick('sign')} measuring {lots.randint(3, 99) / 10} cm in the {pick('side')} {pick('level')} part "
            f"with {pick('look')} margins and {pick('look')} {pick('sign')}. {pick('end')}. {pick('end')}, "
            f"case {lots.randint(1, 10**6)}."
        )

    originals = [one() for _ in range(round(count * (1 - edited)))]
    made = list(originals)
    while len(made) < count:
        words = lots.choice(originals).split()
        place = lots.randrange(len(words))
        words[place] = words[place][::-1]
        made.append(" ".join(words))
    return made, len(originals)


def texts_part(count: int, peers: str | Path, row: Callable[..., None]) -> None:
    print(f"\nNear texts: {count} captions, a tenth of them with one word changed\n")
    texts, originals = captions(count)
    wall, cpu = [], []
    for _ in range(5):
        began, busy = time.perf_counter(), time.process_time()
        groups = near_text_groups(texts)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - busy)
    seconds, busy_seconds = float(np.median(wall)), float(np.median(cpu))
    print(f"InfiMed: {seconds:.2f} s wall, {busy_seconds:.2f} s processor (median of 5), "
          f"{sum(g == i for i, g in enumerate(groups))} kept")  # fmt: skip
    exact = _truly_near(texts, originals)
    row("edits that are duplicates by definition, found",
        sum(groups[i] != i for i in exact), len(exact), ">= 95 %")  # fmt: skip
    row("of all one-word edits, called duplicates",
        sum(groups[i] != i for i in range(originals, count)), count - originals)  # fmt: skip
    wrong = [i for i in range(count) if groups[i] != i and not _same(texts, groups[i], i)]
    row("pairs called duplicates against the definition", len(wrong), count)
    short, few = captions(4000, 0.5)
    short = [" ".join(text.split()[:10]) for text in short]
    found = near_text_groups(short)
    row("one-word edits of 10-word captions, called duplicates",
        sum(found[i] != i for i in range(few, len(short))), len(short) - few)  # fmt: skip
    if not peers:
        print("data-juicer, datatrove: not measured (name an interpreter that has them)")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.json"
        file.write_text(json.dumps(texts))
        script = Path(__file__).with_name("matching_peers.py")
        for tool in ("data-juicer", "datatrove"):
            run = subprocess.run(
                [peers, str(script), tool, str(file)], capture_output=True, text=True, check=False
            )
            lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
            said = json.loads(lines[-1]) if lines else {"error": "failed"}
            if "error" in said:
                print(f"{tool}: {said['error']}")
                continue
            print(
                f"{tool} {said['version']}: {said['seconds']:.1f} s wall, {said['cpu_seconds']:.1f} s processor, "
                f"{said['kept']} kept; InfiMed is {said['seconds'] / seconds:.0f} times as fast, "
                f"{said['cpu_seconds'] / busy_seconds:.0f} times in processor time"
            )


def _same(texts: list[str], a: int, b: int) -> bool:
    alike = jaccard(shingles(texts[a]), shingles(texts[b])) >= 0.8
    return alike and critical_words(texts[a]) == critical_words(texts[b])


def _truly_near(texts: list[str], originals: int) -> list[int]:
    """Edited captions that agree with their original in similarity and critical words."""
    by_case = {text.rsplit("case ", 1)[-1]: i for i, text in enumerate(texts[:originals])}
    near = []
    for index in range(originals, len(texts)):
        source = by_case.get(texts[index].rsplit("case ", 1)[-1])
        if source is not None and _same(texts, source, index):
            near.append(index)
    return near
