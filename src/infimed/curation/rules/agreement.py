"""Rules on what must agree within a record: conclusion and answer, pronouns and sex, words and header."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from infimed.curation import lexicon
from infimed.curation.findings import Hit
from infimed.curation.rules.base import (
    Example,
    Limits,
    Rule,
    Threshold,
    caption,
    sample,
    turns,
)
from infimed.curation.shortcuts import Cued
from infimed.curation.signals import Signals
from infimed.data.record import Message, Record
from infimed.matching.text import normalise_answer

_CONCLUSION = Cued(
    r"(?:\b(?:therefore|thus|hence|so|consequently|in conclusion|in summary|overall|we conclude that)\b[,:]?\s*"
    r"(?:the )?(?:(?:correct|right|best|final) )?(?:answer|choice|option|diagnosis)?\s*(?:is|would be|must be|:)?\s*"
    r"|\b(?:the )?(?:(?:correct|right|best|final) )?answer is:?\s*"
    r"|(?:因此|所以|综上|故|可见)[，,]?(?:正确)?(?:答案)?(?:是|为|：)?\s*|答案(?:是|为)\s*)"
    r"(?P<said>[^.;。；\n]{1,80})[.;。；]?\s*$",
    "therefore", "thus", "hence", "so", "consequently", "conclu", "summary", "overall", "answer",
)  # fmt: skip
_LETTER_PREFIX = re.compile(r"^\(?(?P<letter>[A-H])(?:[).:]|$)\s*", re.IGNORECASE)
_SEQUENCES: Final = {
    "T1": re.compile(
        r"\bT1(?![\d.])(?![- ]?(?:weighted)? (?:vertebra|level|nerve|root|N\d))|T1加权"
    ),
    "T2": re.compile(
        r"\bT2(?![\d.])(?!\*)(?![- ]?(?:weighted)? (?:vertebra|level|nerve|root|N\d))|T2加权"
    ),
    "FLAIR": re.compile(r"\bFLAIR\b"),
    "DWI": re.compile(r"\bDWI\b|\bdiffusion[- ]weighted\b", re.IGNORECASE),
}
_STAINS: Final = {
    "H&E": re.compile(r"\bH ?& ?E\b|\bha?ematoxylin\b", re.IGNORECASE),
    "PAS": re.compile(r"\bPAS\b|\bperiodic acid", re.IGNORECASE),
    "trichrome": re.compile(r"\btrichrome\b", re.IGNORECASE),
    "Giemsa": re.compile(r"\bGiemsa\b", re.IGNORECASE),
    "Congo red": re.compile(r"\bCongo red\b", re.IGNORECASE),
}
_CODE = Cued(
    r"T1|T2|FLAIR|DWI|H ?& ?E|PAS|trichrome|Giemsa|Congo",
    "t1", "t2", "flair", "dwi", "&", "pas", "trichrome", "giemsa", "congo",
)  # fmt: skip
_ASKED = re.compile(r"\b(?:which|what) (?:\w+ ){0,2}(?:sequence|stain|weighting)\b", re.IGNORECASE)
_SHE = re.compile(r"\b(?:she|her|hers|herself)\b", re.IGNORECASE)
_HE = re.compile(r"\b(?:he|his|him|himself)\b", re.IGNORECASE)
_FIRST_SEX = Cued(
    r"\b\d{1,3}[- ](?:year|month|week|day)s?[- ]old (?:[\w-]+ ){0,3}?(?P<sex>female|woman|girl|lady|male|man|boy|gentleman)\b",
    "old",
)
_RELATIVES = re.compile(
    r"\b(?:maternal|birth|born|prenatal|in utero|gestation|obstetric\w*|mother|father|wife|husband|son|daughter|parents?|brother|sister|boyfriend|girlfriend|grand\w+|partner|aunt|uncle)\b",
    re.IGNORECASE,
)
_PREGNANT = re.compile(
    r"\b(?:pregnan(?:t|cy)|gravida|menstrua\w+|menarche|menopaus\w+|postpartum|lactating|G\d P\d)\b",
    re.IGNORECASE,
)


def _conclusion(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("closed", "open", "choice") or not record.answer:
        return None
    response = record.response.strip()
    match = _CONCLUSION.search(response)
    if match is None or not match.start():
        return None
    said_text = match["said"].strip()
    gold = record.answer
    if record.task == "choice" and (letter := _LETTER_PREFIX.match(said_text)):
        index = ord(letter["letter"].upper()) - ord("A")
        rest = said_text[letter.end() :].strip()
        if not rest and index < len(record.choices):
            said_text = record.choices[index]
        elif rest:
            said_text = rest
    said, meant = normalise_answer(said_text), normalise_answer(gold)
    if said == meant or not said:
        return None
    gold_polarity, said_polarity = lexicon.polarity(gold), lexicon.polarity(said_text)
    if gold_polarity or said_polarity:
        if gold_polarity and said_polarity and gold_polarity != said_polarity:
            return _against(match, said_text, gold)
        return None
    if record.task == "choice":
        others = {normalise_answer(c) for c in record.choices} - {meant}
        return _against(match, said_text, gold) if said in others else None
    # An open answer may be reworded; it is another one when not a word is shared.
    if set(said.split()) & set(meant.split()) or _alike(said, meant) or len(said.split()) > 8:
        return None
    return _against(match, said_text, gold)


def _alike(a: str, b: str) -> bool:
    """Whether two unspaced (Chinese) answers share half of their characters."""
    if a.isascii() or b.isascii():
        return a in b or b in a
    return len(set(a) & set(b)) * 2 >= min(len(set(a)), len(set(b)))


def _against(match: re.Match[str], said: str, gold: str) -> Hit:
    return Hit(
        "response",
        f"concludes {said!r}, the gold answer is {gold!r}",
        start=match.start(),
        end=match.end(),
    )


def _leading_answer(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    """The reply as a whole is one of the other options, or another yes or no, than the gold answer."""
    if record.task != "open" or not record.answer:
        return None
    said, gold = signals.text.response_sides, lexicon.sides(record.answer)
    if {said, gold} == {"L", "R"}:
        return Hit(
            "response", f"says {record.response[:60]!r}, the gold answer is {record.answer!r}"
        )
    return None


def _pronouns(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for where, text in turns(record):
        match = _FIRST_SEX.search(text)
        if match is None or len(_FIRST_SEX.pattern.findall(text)) != 1:
            continue
        sex = lexicon.sex_of(match["sex"])
        if sex == "male" and (pregnant := _PREGNANT.search(text)) and not _RELATIVES.search(text):
            return Hit(
                where,
                f"{match.group(0)!r}, and {pregnant.group(0)!r}",
                start=match.start(),
                end=match.end(),
            )
        she, he = len(_SHE.findall(text)), len(_HE.findall(text))
        own, other = (she, he) if sex == "female" else (he, she)
        if other < limits["min_pronouns"] or own * 3 > other or (_RELATIVES.search(text) and own):
            continue
        word = (_HE if sex == "female" else _SHE).search(text)
        assert word is not None
        evidence = f"{match.group(0)!r}, and then {word.group(0)!r} {other} times"
        return Hit(where, evidence, other, own, match.start(), match.end())
    return None


def _technique(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if len(record.images) != 1:
        return None
    stated = " ".join(
        str(facts.get(key) or "")
        for facts in (record.facts, record.images[0].facts)
        for key in ("view", "sequence", "stain")
    )
    if not _CODE.search(stated):
        return None
    for table in (_SEQUENCES, _STAINS):
        known = {name for name, pattern in table.items() if pattern.search(stated)}
        if not known:
            continue
        for where, text in turns(record):
            if where == "question" and (record.task in ("closed", "choice") or _ASKED.search(text)):
                continue
            if record.task == "closed" or lexicon.HEDGES.search(text):
                continue
            for name, pattern in table.items():
                match = pattern.search(text)
                if match and name not in known and not any(table[k].search(text) for k in known):
                    fact = "/".join(sorted(known))
                    return Hit(
                        where, f"text says {match.group(0)!r}, the facts say {fact}",
                        start=match.start(), end=match.end(),
                    )  # fmt: skip
    return None


def _reply(question: str, answer: str, reply: str) -> Record:
    """An open record whose turn says more than its gold answer."""
    record = sample(question, answer, "open")
    return replace(record, messages=(record.messages[0], Message("assistant", (reply,))))


def _explained(end: str) -> Record:
    """A closed record answered yes, whose explanation ends in `end`."""
    reply = f"Yes. The costophrenic angle is blunted. Therefore, the answer is {end}."
    record = sample(answer="yes")
    return replace(record, messages=(record.messages[0], Message("assistant", (reply,))))


_MRI = {"modality": "MR", "view": "T2"}

RULES: Final = (
    Rule(
        "consistency.conclusion", 1, "consistency", "drop",
        "An explanation ends in another answer than the gold one.",
        _conclusion,
        Example(_explained("yes")),
        Example(_explained("no")),
    ),
    Rule(
        "consistency.reply_side", 1, "consistency", "drop",
        "The reply names one side, the gold answer the other.",
        _leading_answer,
        Example(sample("On which side is the effusion?", "Left", "open")),
        Example(_reply("On which side is the effusion?", "Left", "It is on the right side.")),
    ),
    Rule(
        "accuracy.sex_words", 1, "accuracy", "drop",
        "The patient's sex does not fit the pronouns, or a pregnancy.",
        _pronouns,
        Example(sample("A 40-year-old woman has a cough. She smokes and her pulse is fast. Next step?", "Radiograph", "text", images=0)),
        Example(sample("A 40-year-old man has a cough. She smokes and her pulse is fast. Next step?", "Radiograph", "text", images=0)),
        {"min_pronouns": Threshold(2, "pronouns of the other sex, three times as many as of the own")},
    ),
    Rule(
        "accuracy.technique", 1, "accuracy", "drop",
        "The text names another MR sequence or stain than the facts.",
        _technique,
        Example(caption("Axial T2-weighted MRI of the brain showing an infarct.", image_facts=_MRI)),
        Example(caption("Axial T1-weighted MRI of the brain showing an infarct.", image_facts=_MRI)),
    ),
)  # fmt: skip
