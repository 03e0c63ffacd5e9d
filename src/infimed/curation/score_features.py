"""What the evaluator sees of many records at once: the features of `scoring`, read column by column.

Invariant: the same numbers as `scoring.features` gives record by record; a test compares them. Findings
of the score itself (`SCORE_RULES`) are left out, so that a ledger can be scored again. Cost: about 10
microseconds a record, and one part of the records in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infimed.curation import ledger
from infimed.curation.calibration import Floats
from infimed.curation.findings import DIMENSIONS, QUALITY, SCORE_RULES
from infimed.curation.grounding_table import GROUNDING_FILE
from infimed.curation.judge_scoring import NONE, Codes
from infimed.curation.judge_tables import JUDGEMENTS_FILE, level_codes
from infimed.curation.ledger_columns import RowRanges, rows_between
from infimed.curation.scoring import GATES, SIGNAL_FEATURES, rise

Flags = NDArray[np.bool_]

_TEXT: Final = (
    "text_chars", "ending", "words", "medical_terms", "everyday_words", "odd_words", "misspelt",
    "repeated_trigrams",
)  # fmt: skip
_IMAGE: Final = (
    "problem", "sharpness", "least_sharpness", "noise", "std", "blocking", "spread", "white_share",
    "flat", "entropy",
)  # fmt: skip
_COLUMNS: Final = [
    "row", "record_id", "source", "modality", *_TEXT,
    *(f"images.list.element.{name}" for name in _IMAGE),
]  # fmt: skip


@dataclass(frozen=True)
class PartFeatures:
    """Records in row order, as the evaluator sees them.

    Attributes:
        rows: [n]. record_ids: [n]. strata: "source / modality" [n].
        inputs: dimension -> features [n, f], columns as in `feature_names`.
        drops, gates: [n, 7], where a rule of severity drop objects, and where a hard gate does.
        codes: levels [n, 5] as `judge_scoring` takes them; -1 without a judgement.
        log_length: natural logarithm of 1 + the characters of text [n].
        gaps: without images and with foreign ones, nats per token [n, 2]; NaN where not measured.
    """

    rows: NDArray[np.int64]
    record_ids: list[str]
    strata: list[str]
    inputs: Mapping[str, Floats]
    drops: Flags
    gates: Flags
    codes: Codes
    log_length: Floats
    gaps: Floats

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class LedgerFeatures:
    """The features of a ledger, a range of rows at a time.

    Attributes:
        judged, grounded: whether to read what judge and grounding pass said.
    """

    folder: Path
    judged: bool
    grounded: bool
    signals: RowRanges

    @staticmethod
    def of(folder: Path, *, evidence: bool) -> LedgerFeatures:
        """Open a ledger; with `evidence` the tables of judge and grounding pass too, where they are."""
        return LedgerFeatures(
            folder,
            evidence and (folder / JUDGEMENTS_FILE).is_file(),
            evidence and (folder / GROUNDING_FILE).is_file(),
            RowRanges(ledger.path_of(folder, ledger.SIGNALS)),
        )

    def read(self, begin: int, end: int) -> PartFeatures:
        """The records of rows `begin` to `end` - 1."""
        table = self.signals.read(begin, end - begin, _COLUMNS)
        n = table.num_rows
        found = rows_between(
            self.folder, ledger.FINDINGS, begin, end, ["row", "rule", "dimension", "severity"]
        )
        found = found.filter(pc.invert(pc.starts_with(found["rule"], SCORE_RULES)))
        drops, notes, gates = _counts(found, begin, n)
        measured = signal_columns(table)
        inputs = {
            name: np.column_stack(
                [
                    np.minimum(2.0, drops[:, at]),
                    np.minimum(2.0, notes[:, at]),
                    *(measured[key] for key in SIGNAL_FEATURES.get(name, ())),
                ]
            )
            for at, name in enumerate(DIMENSIONS)
        }
        chars = table["text_chars"].to_numpy().astype(np.float64)
        return PartFeatures(
            rows=table["row"].to_numpy(),
            record_ids=table["record_id"].to_pylist(),
            strata=strata_of(table),
            inputs=inputs,
            drops=drops > 0,
            gates=gates,
            codes=self._codes(begin, end, n),
            # A record that could not be read has -1 characters.
            log_length=np.log1p(np.maximum(0.0, chars)),
            gaps=self._gaps(begin, end, n),
        )

    def _codes(self, begin: int, end: int, n: int) -> Codes:
        codes = np.full((n, len(QUALITY)), NONE, np.int8)
        if self.judged:
            table = rows_between(self.folder, "judgements", begin, end, ["row", *QUALITY])
            codes[table["row"].to_numpy() - begin] = level_codes(table.to_pylist())
        return codes

    def _gaps(self, begin: int, end: int, n: int) -> Floats:
        gaps = np.full((n, 2), np.nan)
        if self.grounded:
            names = ["gap_without", "gap_swapped"]
            table = rows_between(self.folder, "grounding", begin, end, ["row", *names])
            for at, name in enumerate(names):
                gaps[table["row"].to_numpy() - begin, at] = table[name].to_numpy()
        return gaps


def strata_of(table: pa.Table) -> list[str]:
    """ "source / modality" of each row of a table with these columns."""
    unknown = [pc.if_else(pc.equal(pc.fill_null(table[name], ""), ""), "?", table[name])
               for name in ("source", "modality")]  # fmt: skip
    joined: list[str] = pc.binary_join_element_wise(*unknown, " / ").to_pylist()
    return joined


def source_of(stratum: str) -> str:
    """The source in "source / modality"; a modality family never holds the separator."""
    return stratum.rpartition(" / ")[0]


def _counts(found: pa.Table, begin: int, n: int) -> tuple[Floats, Floats, Flags]:
    """(objections that drop, notes, hard gates) by record and dimension, each [n, 7]."""
    place = {name: at for at, name in enumerate(DIMENSIONS)}
    rows = found["row"].to_numpy() - begin
    at = np.array([place[name] for name in found["dimension"].to_pylist()], np.int64)
    dropping = np.array([name == "drop" for name in found["severity"].to_pylist()], bool)
    closed = dropping & np.array([name in GATES for name in found["rule"].to_pylist()], bool)
    drops, notes = np.zeros((n, len(DIMENSIONS))), np.zeros((n, len(DIMENSIONS)))
    gates = np.zeros((n, len(DIMENSIONS)), bool)
    np.add.at(drops, (rows[dropping], at[dropping]), 1)
    np.add.at(notes, (rows[~dropping], at[~dropping]), 1)
    gates[rows[closed], at[closed]] = True
    return drops, notes, gates


def signal_columns(table: pa.Table) -> dict[str, Floats]:
    """`scoring.signal_features` of every row of a signals table, name -> [n]."""
    n = table.num_rows
    text = {name: table[name].to_numpy() for name in _TEXT if name != "ending"}
    words = np.maximum(1, text["words"])
    images = pc.list_flatten(table["images"]).combine_chunks()
    owner = pc.list_parent_indices(table["images"].combine_chunks()).to_numpy()
    look: dict[str, Any] = {
        name: pc.struct_field(images, name).to_numpy(zero_copy_only=False) for name in _IMAGE
    }
    shown = np.asarray(look["problem"] == "", bool)

    def worst(values: Floats, where: Flags | None = None) -> Floats:
        use = shown if where is None else shown & where
        made = np.zeros(n)
        np.maximum.at(made, owner[use], values[use])
        return made

    varied = look["std"] >= 3
    return {
        "breaks_off": (table["ending"].to_numpy(zero_copy_only=False) != "").astype(np.float64),
        "lay": ((text["words"] >= 3) & (text["medical_terms"] == 0)).astype(np.float64),
        "everyday": rise(text["everyday_words"] / words, 0.0, 0.3),
        "odd_words": rise(text["odd_words"], 0.0, 0.15),
        "misspelt": rise(text["misspelt"] / words, 0.0, 0.15),
        "repeated": rise(text["repeated_trigrams"], 0.15, 0.6),
        "soft": worst(rise(-look["sharpness"], -2.1, -1.4), look["sharpness"] != 0),
        "one_direction": worst(
            rise(-look["least_sharpness"], -1.6, -1.1) * rise(-look["noise"], -0.8, -0.4),
            look["least_sharpness"] != 0,
        ),
        "no_grain": worst(rise(-look["noise"], -0.34, -0.22), varied),
        "blocks": worst(rise(look["blocking"], 1.45, 2.6)),
        "no_contrast": worst(rise(-look["spread"], -90.0, -20.0)),
        "white": worst(rise(look["white_share"], 0.4, 0.8)),
        "flat": worst(rise(look["flat"], 0.6, 0.9), varied),
        "few_greys": worst(rise(-look["entropy"], -2.2, -0.8)),
    }
