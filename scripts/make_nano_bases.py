"""Make the two small pretrained bases of the `nano` preset: a vision tower and a language model.

    python scripts/make_nano_bases.py --text-root ../shared/data

writes src/infimed/model/bases/{nano-vision,nano-language}/ (config.json, model.safetensors in
bfloat16, tokenizer files), manifest.json and README.md with the measured figures. The tower needs no
data but the phantom clinic; the language model also reads the medical texts under --text-root that
are there. The two trainings run side by side, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parents[1]
BASES = ROOT / "src" / "infimed" / "model" / "bases"
SEED = 20250
MAX_BYTES = 8_000_000
TOWER = {
    "images": 18000,
    "held_out": 1200,
    "steps": 5500,
    "minutes": 60.0,
    "batch_size": 32,
    "learning_rate": 2e-3,
}
LANGUAGE = {"patients": 2500, "steps": 2000, "tokens": 2048, "minutes": 50.0, "learning_rate": 3e-3}
SOURCES = {
    "medquad": "MedQuAD (Ben Abacha and Demner-Fushman 2019), CC BY 4.0",
    "mts_dialog": "MTS-Dialog training set (Ben Abacha et al. 2023), CC BY 4.0",
    "slake": "SLAKE training questions, English and open, no images (Liu et al. 2021), CC BY 4.0",
    "rocov2": "ROCOv2 captions, CC BY subset (Rückert et al. 2024), CC BY",
    "pubmedqa": "PubMedQA labelled set without its 500 test questions (Jin et al. 2019), MIT",
}


def make_vision(folder: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Train and write the tower; returns its figures and cost."""
    import torch

    torch.set_num_threads(1)
    from nano_tower import save_tower, train_tower

    tower, figures, cost = train_tower(seed, workers=1, **options)
    save_tower(tower, folder)
    return {"figures": figures, "cost": cost, "options": options}


def make_language(
    folder: Path, seed: int, text_root: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Train and write the language model and its tokenizer; returns its figures and cost."""
    import torch

    torch.set_num_threads(1)
    from nano_language import medical_texts, save_language, train_language

    model, processor, figures, cost = train_language(seed, text_root, **options)
    save_language(model, processor, folder)
    return {
        "figures": figures,
        "cost": cost,
        "options": options,
        "texts": {name: len(rows) for name, rows in medical_texts(text_root).items()},
    }


def _minutes(part: dict[str, Any]) -> str:
    return f"{(part['cost']['seconds'] + part['cost'].get('drawing_seconds', 0)) / 60:.0f} minutes"


def _vision_table(figures: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "| read at single tokens | 96 px, 144 tokens | 96 px pooled to 36 | 48 px, 36 tokens |",
        "|---|---|---|---|",
    ]
    groups = [
        "modality",
        "presence large",
        "side large",
        "presence small",
        "side small",
        "size",
        "count",
        "level",
    ]
    others = sorted(name for name in figures["full"] if name not in groups)
    for name in [*groups, *others]:
        cells = " | ".join(
            f"{100 * figures[mode][name]:.1f} %" for mode in ("full", "pooled", "low")
        )
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    return lines


def readme(manifest: dict[str, Any]) -> str:
    """The README of the bases: where they come from and what they can do."""
    vision, language = manifest["vision"], manifest["language"]
    lines = [
        "# The two pretrained bases of the `nano` preset",
        "",
        "Made by `python scripts/make_nano_bases.py --text-root DATA` "
        f"(seed {manifest['seed']}), one CPU thread each: the tower in {_minutes(vision)}, the language model in "
        f"{_minutes(language)}, on {manifest['machine']} that was doing other work beside. Licence: Apache-2.0, as the project.",
        "The clinics they learned from have seeds of their own, so no phantom of a demo or a test is among them.",
        "",
        "## nano-vision",
        "SigLIP-shaped encoder, 1.23 M parameters, patch 8, 96 pixels (position table 12 x 12; interpolated at 48). "
        f"Trained on {vision['options']['images']} phantom images over {vision['cost']['steps']} steps of "
        f"{vision['options']['batch_size']} ({vision['cost']['samples']} samples) with dense supervision on the last "
        "encoder layer's output, the features that the model reads: per token the findings in its cell, and at every "
        "token the modality, each finding's presence by side, size, number and level.",
        "",
        f"Held-out accuracy of the linear heads on {vision['options']['held_out']} images of another clinic, from the "
        "stored weights. Presence and side have a chance level of 50 %, size and count 33 %. "
        "Small findings are under 4 % of the image width.",
        "",
        *_vision_table(vision["figures"]),
        "",
        "## nano-language",
        f"Qwen3-shaped decoder, 2.2 M parameters, byte-level BPE of 2,048 tokens (`<|endoftext|>` 0, `<|im_start|>` 1, "
        f"`<|im_end|>` 2, `<image>` 3), trained for {language['cost']['steps']} steps "
        f"({language['cost']['tokens'] / 1e6:.1f} M tokens) on chats about phantom patients, most of them with a "
        'written description where the image will be ("shown"), the rest with nothing ("blind", answers even), and on:',
        "",
        *[f"- {SOURCES[name]}: {count} texts" for name, count in language["texts"].items()],
        "",
        "Exact answers on held-out chats, greedy:",
        "",
        "| | |",
        "|---|---|",
        *[f"| {name} | {100 * value:.1f} % |" for name, value in language["figures"].items()],
        "",
    ]
    return "\n".join(lines)


def finish(out: Path, manifest: dict[str, Any]) -> None:
    """Write manifest and README, and refuse bases that are too large to commit."""
    (out / "manifest.json").write_text(
        json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    (out / "README.md").write_text(readme(manifest), encoding="utf-8")
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{total / 1e6:.2f} MB in {out}")
    if total > MAX_BYTES:
        raise SystemExit(f"the bases take {total} bytes; at most {MAX_BYTES} are wanted")


def main() -> None:
    """Train what is asked for and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BASES)
    parser.add_argument(
        "--text-root", type=Path, required=True, help="folder with the medical texts"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--only", choices=["vision", "language"], help="remake one and keep the other"
    )
    parser.add_argument("--quick", action="store_true", help="a minute of each, to try the script")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tower, language = dict(TOWER), dict(LANGUAGE)
    if given.quick:
        tower |= {"images": 1200, "held_out": 240, "steps": 60}
        language |= {"patients": 100, "steps": 60}
    work = given.out.with_name(f".{given.out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    if given.out.exists():
        shutil.copytree(given.out, work)
    work.mkdir(parents=True, exist_ok=True)
    about = work / "manifest.json"
    manifest: dict[str, Any] = (
        json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    )
    manifest |= {
        "format": 1,
        "seed": given.seed,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        jobs = {}
        if given.only != "language":
            jobs["vision"] = executor.submit(make_vision, work / "nano-vision", given.seed, tower)
        if given.only != "vision":
            jobs["language"] = executor.submit(
                make_language, work / "nano-language", given.seed, given.text_root, language
            )
        for name, job in jobs.items():
            manifest[name] = job.result()
    finish(work, manifest)
    shutil.rmtree(given.out, ignore_errors=True)
    work.replace(given.out)


if __name__ == "__main__":
    main()
