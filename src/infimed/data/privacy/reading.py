"""Reading the lines that the gate proposes, and which of them may stay in the picture.

Reading only ever releases: a line stays when every word of it is on the list below (side and view
markers, sequence names, technique values with their unit); everything else is masked, and so is
what could not be read. Needs the extra ``ocr`` (RapidOCR with its bundled ONNX models; nothing is
downloaded); without it every proposed line is masked.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import missing_extra
from infimed.data.privacy.identifiers import find_identifiers

SURE: Final = 0.8
"""Least confidence of a reading that may release a line."""

_LIST: Final = (
    "L R A P H F S I AP PA LAT LATERAL LEFT RIGHT LT RT ANT POST SUP INF LPO RPO LAO RAO LL RL SUPINE "
    "PRONE ERECT UPRIGHT STANDING SITTING SEMI PORTABLE DECUB DECUBITUS INSP EXP CC MLO ML LM OBL "
    "OBLIQUE AXIAL CORONAL SAGITTAL AX COR SAG T1 T2 T1W T2W PD FLAIR DWI ADC SWI STIR FSE TSE SE GRE "
    "CHEST ABDOMEN PELVIS HEAD BRAIN NECK SPINE KNEE HAND FOOT ANKLE WRIST CT MR MRI US XR WW WL W C "
    "ZOOM MAG KV KVP MA MAS TR TE TI ET FA NEX SL ST THK LOC FOV DFOV TILT MM CM MS MHZ DB HZ FR FPS "
    "TIS TIB LEVEL WINDOW DEPTH GAIN CONTRAST HU X OF THE"
)
_WORDS: Final = frozenset(_LIST.split())
"""Words that say how an image was made, never of whom."""
_NUMBER: Final = re.compile(
    r"[-+]?\d{1,3}(?:[.,]\d{1,2})?(?:MM|CM|MS|KV|KVP|MA|MAS|MHZ|DB|HZ|X|S|%|°)?"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a line, for a decision in memory; the text is never stored or printed."""

    text: str
    confidence: float

    def __repr__(self) -> str:
        return f"Reading({len(self.text)} characters, {self.confidence:.2f})"


class TextReader(Protocol):
    """Reads cropped lines, uint8 [h, w, 3] RGB each."""

    name: str

    def read(self, lines: Sequence[NDArray[np.uint8]]) -> list[Reading]: ...


def harmless(reading: Reading) -> bool:
    """Whether a line may stay: read with confidence, and every word on the list."""
    words = [w for w in re.split(r"[\s:;,|()\[\]/=#_]+", reading.text.upper()) if w]
    if reading.confidence < SURE or not words or find_identifiers(reading.text):
        return False
    return all(word.strip(".") in _WORDS or _NUMBER.fullmatch(word.strip(".")) for word in words)


def reading_kind(reading: Reading) -> str:
    """What a masked line held, as a word for the finding: never the text."""
    found = find_identifiers(reading.text)
    if found:
        return found[0].kind
    if reading.confidence < SURE or not re.search(r"\w{2}", reading.text):
        return "unreadable"
    return "number" if re.fullmatch(r"[\W\d_]+", reading.text) else "words"


def reader_available() -> bool:
    """Whether the extra ``ocr`` is installed."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr_onnxruntime", "onnxruntime"))


class RapidReader:
    """RapidOCR's recogniser on cropped lines; one at a time, so that the result is always the same."""

    name = "rapidocr"

    def __init__(self) -> None:
        if not reader_available():
            raise missing_extra("ocr", "rapidocr-onnxruntime")
        self._lock = threading.Lock()
        self._recogniser: Any = None

    def read(self, lines: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        """One reading a line, in order."""
        with self._lock:
            if self._recogniser is None:
                self._recogniser = _recogniser()
            read = []
            for line in lines:
                result, _ = self._recogniser([np.ascontiguousarray(line[..., ::-1])])
                text, confidence = result[0][0], float(result[0][1])
                read.append(Reading(str(text), confidence))
            return read


@functools.cache
def _recogniser() -> Any:
    from rapidocr_onnxruntime import RapidOCR

    for name in ("RapidOCR", "rapidocr_onnxruntime"):  # its lines could quote what was read
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1).text_rec
