"""Why the score drops a record, in words: the dimension, its P(ok), and what speaks most against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from infimed.curation import ledger
from infimed.curation.evidence import GROUNDING, JUDGE, NOTING
from infimed.curation.findings import DIMENSIONS, SCORE_RULES, shorten
from infimed.curation.ledger_columns import rows_between
from infimed.curation.score_table import told
from infimed.data.privacy.identifiers import redact_text

CATCHES: Final[Mapping[str, str]] = {
    f"{SCORE_RULES}{name}": "P(ok) by the evaluator lies under the threshold of the record's source and "
    f"modality, and {name} is its weakest dimension."
    for name in DIMENSIONS
}
"""What a rule of the score catches, for pages that list rules."""

SIGNAL_WORDS: Final[Mapping[str, str]] = {
    "breaks_off": "the text breaks off",
    "lay": "no medical word",
    "everyday": "words of everyday pictures",
    "odd_words": "words that no language spells so",
    "misspelt": "misspelt words",
    "repeated": "repeated phrases",
    "soft": "a soft image",
    "one_direction": "an image soft in one direction",
    "no_grain": "an image without grain",
    "blocks": "JPEG blocks",
    "no_contrast": "an image of little contrast",
    "white": "an image mostly white",
    "flat": "an image of flat areas",
    "few_greys": "an image of few grey values",
}


def evidence_of(
    folder: Path, scores: pa.Table, findings: pa.Table, begin: int, end: int
) -> dict[int, str]:
    """Row -> evidence of the score's finding, as short as any finding's and without identifiers.

    Args:
        scores: rows of ``scores.parquet``. findings: of the rules, for rows `begin` to `end` - 1.
    """
    notes: dict[tuple[int, str], list[str]] = defaultdict(list)
    for line in findings.select(["row", "rule", "dimension"]).to_pylist():
        notes[line["row"], line["dimension"]].append(line["rule"])
    strongest = set(scores["strongest"].to_pylist())
    said = _rows(folder, "judgements", begin, end) if JUDGE in strongest else {}
    gaps = _rows(folder, "grounding", begin, end) if GROUNDING in strongest else {}
    made = {}
    for line in scores.to_pylist():
        row, name, kind = line["row"], line["weakest"], line["strongest"]
        if kind == JUDGE:
            quote = said[row][f"{name}_evidence"]
            why = f"the judge says {said[row][name]}" + (f": {quote}" if quote else "")
        elif kind == GROUNDING:
            gap = gaps[row]
            told_gaps = {"without images": gap["gap_without"], "foreign images": gap["gap_swapped"]}
            parts = [f"{n} {v:+.2f}" for n, v in told_gaps.items() if v is not None]
            why = f"grounding gap in nats per token: {', '.join(parts)}"
        elif kind == NOTING:
            why = f"noted by {', '.join(notes[row, name])}"
        else:
            why = SIGNAL_WORDS.get(kind, kind) or "nothing stands out beside how common defects are"
        text = f"{name} {told(line[name])}; most against it: {why}"
        made[row] = shorten(redact_text(text)[0])
    return made


def _rows(folder: Path, name: str, begin: int, end: int) -> dict[int, dict[str, Any]]:
    if not ledger.path_of(folder, name).is_file():
        return {}
    return {line["row"]: line for line in rows_between(folder, name, begin, end).to_pylist()}
