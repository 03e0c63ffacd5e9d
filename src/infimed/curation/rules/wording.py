"""Rules on how a text is written: broken off, misspelt, foreign, everyday, or about other panels."""

from __future__ import annotations

import re
from typing import Final

from infimed.curation import lexicon, vocabulary
from infimed.curation.findings import Hit
from infimed.curation.rules.base import (
    Example,
    Limits,
    Rule,
    Threshold,
    caption,
    sample,
    span,
    turns,
)
from infimed.curation.signals import Signals
from infimed.curation.text_signals import medical_word, words_of
from infimed.data.record import Record

_PANEL = re.compile(
    r"(?:^|(?<=[\s(（]))[(（]?(?P<label>[A-Ha-h])(?:[)）]|[.:,](?=\s))\s*(?=\S)", re.MULTILINE
)
_PANEL_WORDS = re.compile(
    r"\b(?:panels?|upper row|lower row|left panel|right panel|respectively)\b", re.IGNORECASE
)
_LAST_WORD = re.compile(r"(?<![\w-])(?P<word>[A-Za-z]{1,14})$")
_STOPS = re.compile(r"(?<=[a-z0-9)])[.!?](?=\s)|[。！？]")


def _panel_labels(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("caption", "report") or len(record.images) != 1:
        return None
    text = record.response
    found = list(_PANEL.finditer(text))
    for lower in (True, False):
        labels = [m for m in found if m["label"].islower() is lower]
        # Panels are announced in order, each with words behind it; "(a)" alone may be an arrow.
        wanted, first = 0, labels[0] if labels else None
        long = True
        for number, match in enumerate(labels):
            if ord(match["label"].lower()) - ord("a") != wanted:
                break
            end = labels[number + 1].start() if number + 1 < len(labels) else len(text)
            long = long and len(text[match.end() : end].split()) >= limits["min_words"]
            wanted += 1
        starts = first is not None and first.start() < 60
        if first is not None and wanted >= limits["min_panels"] and long and starts:
            return Hit("response", text[first.start() :], wanted, 1, first.start(), len(text))
    return None


def _cut_word(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    text = record.response.rstrip()
    if signals.text.stopped or signals.text.response_words < limits["min_words"]:
        return None
    if record.task == "choice":
        return None
    match = _LAST_WORD.search(text)
    if match is None or match["word"].isupper():
        return None
    word = match["word"].lower()
    if vocabulary.known_word(word) or lexicon.MEDICAL.fullmatch(word):
        return None
    if not vocabulary.begins_common_word(word):
        return None
    return span("response", match)


def _unstopped(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task == "choice" or signals.text.stopped:
        return None
    text = record.response.rstrip()
    sentences = len(_STOPS.findall(text))
    if sentences < limits["min_sentences"] or not text or text[-1] in ":%0123456789":
        return None
    start = max(0, len(text) - 40)
    return Hit("response", f"…{text[start:]}", 0.0, limits["min_sentences"], start, len(text))


def _misspelt(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    count = signals.text.misspelt
    if count < limits["min_words"] or count < limits["min_share"] * signals.text.words:
        return None
    return _first_misspelt(record, count, limits["min_words"])


def _misspelt_word(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if not signals.text.misspelt:
        return None
    return _first_misspelt(record, signals.text.misspelt, 0)


def _first_misspelt(record: Record, count: int, limit: float) -> Hit:
    for where, text in turns(record):
        words = [word for word in text.split() if vocabulary.misspelt(word)]
        if words:
            at = text.index(words[0])
            return Hit(where, " ".join(words[:6]), count, limit, at, at + len(words[0]))
    return Hit("record", "characters that are hardly ever written", count, limit)


_LANGUAGES: Final = {
    "fr": "French", "de": "German", "es": "Spanish", "it": "Italian", "pt": "Portuguese", "ja": "Japanese",
    "en": "English", "zh": "Chinese",
}  # fmt: skip


def _other_language(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if not signals.text.foreign:
        return None
    name = _LANGUAGES[signals.text.foreign]
    return Hit("response", f"the response is {name}: {record.response}")


def _loop(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if signals.text.loops < limits["max_loops"]:
        return None
    text = max((turn for _, turn in turns(record)), key=len)
    return Hit("record", f"…{text[-80:]}", signals.text.loops, limits["max_loops"])


def _everyday_text(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    text = signals.text
    if text.language == "zh":
        match = lexicon.EVERYDAY_ZH.search(record.question + record.response)
        return None if match is None or text.medical_terms else Hit("record", match.group(0))
    if text.everyday_words < limits["min_words"] or not record.response:
        return None
    medical, everyday, words = text.medical_terms, text.everyday_words, text.words
    if record.task in ("caption", "report"):
        # The request may speak of patients and findings; what counts is what is described.
        said = words_of(record.response)
        everyday = vocabulary.everyday_words(said.folded)
        medical, words = sum(map(medical_word, said.said)), len(said.said)
    least = max(limits["min_words"], limits["min_share"] * words)
    if medical > limits["max_medical"] or everyday < least:
        return None
    return Hit("record", record.response, everyday, limits["min_words"])


_GOOD = "Axial CT of the abdomen showing a simple cyst in the left kidney."

RULES: Final = (
    Rule(
        "completeness.panel_labels", 1, "completeness", "drop",
        "The caption describes panels (A), (B), ... and the record has one image.",
        _panel_labels,
        Example(caption(_GOOD + " (a: cyst).")),
        Example(caption("(A) Axial CT showing a cyst of the kidney. (B) Coronal MRI showing the same cyst.")),
        {
            "min_panels": Threshold(2, "panels announced in order"),
            "min_words": Threshold(3, "words on each panel"),
        },
    ),
    Rule(
        "completeness.cut_word", 1, "completeness", "drop",
        "The text ends in the middle of a word.",
        _cut_word,
        Example(caption(_GOOD)),
        Example(caption("Axial CT of the abdomen showing a simple cyst in the left kidn")),
        {"min_words": Threshold(4, "words below which a text may be a label")},
    ),
    Rule(
        "completeness.unstopped", 1, "completeness", "drop",
        "Sentences that end with a stop, and a last one that does not.",
        _unstopped,
        Example(caption(_GOOD)),
        Example(caption(_GOOD + " The liver is normal. The right kidney shows two stones and")),
        {"min_sentences": Threshold(1, "sentences that end with a stop")},
    ),
    Rule(
        "readability.misspelt", 1, "readability", "drop",
        "Several words are one scanner's error away from common words.",
        _misspelt,
        Example(caption(_GOOD)),
        Example(caption("Axial CT of the abdornen showing a simp1e cyst in the left kidney.")),
        {
            "min_words": Threshold(2, "misspelt words"),
            "min_share": Threshold(0.04, "share of all words"),
        },
    ),
    Rule(
        "readability.misspelt_word", 1, "readability", "note",
        "A word is one small error away from a common word.",
        _misspelt_word,
        Example(caption(_GOOD)),
        Example(caption(_GOOD.replace("kidney", "kidncy"))),
    ),
    Rule(
        "readability.other_language", 1, "readability", "drop",
        "The response is in another language than the question.",
        _other_language,
        Example(caption(_GOOD)),
        Example(caption("Die Lunge ist frei und das Herz ist nicht vergrößert, ein Erguss ist nicht zu sehen.")),
    ),
    Rule(
        "readability.loop", 1, "readability", "drop",
        "The text ends in the same words over and over, like a generator that got stuck.",
        _loop,
        Example(caption("No pleural effusion, no pneumothorax, no fracture of the ribs.")),
        Example(caption("There is a cyst in the left kidney in the left kidney in the left kidney")),
        {"max_loops": Threshold(2, "immediate repetitions of the last words")},
    ),
    Rule(
        "relevance.everyday_text", 1, "relevance", "drop",
        "The text speaks of everyday things and has no medical word.",
        _everyday_text,
        Example(sample("What is seen at the window level shown?", "A cyst", "open")),
        Example(sample("What animal is on the beach?", "A brown dog", "open")),
        {
            "max_medical": Threshold(0, "medical words"),
            "min_words": Threshold(1, "everyday words"),
            "min_share": Threshold(0.1, "share of everyday words"),
        },
    ),
)  # fmt: skip
