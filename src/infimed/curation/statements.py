"""What a record states about its one image, in a form in which records can be compared.

Questions, captions and reports about one image must agree: who has the cyst on the left in four
records and on the right in the fifth has an error in the fifth. A claim is a short string
``subject=value``: ``cyst=+``, ``cyst:side=L``, ``cyst:mm=45``, ``modality=CT``, ``group=<hash>``.
Only plain statements count; a question that is answered "no", a hedge or a comparison claims
nothing beyond what it denies. Cost: about 30 microseconds a record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Set
from typing import Final

from infimed.curation import lexicon
from infimed.curation.shortcuts import remembered
from infimed.data.record import Record

_IRREGULAR: Final = {
    "metastases": "metastasis", "calculi": "calculus", "pneumothoraces": "pneumothorax", "masses": "mass",
    "abscesses": "abscess", "atelectases": "atelectasis", "infarction": "infarct", "edema": "oedema",
    "tumor": "tumour", "hemorrhage": "haemorrhage", "hemangioma": "haemangioma", "hematoma": "haematoma",
    "subdural hematoma": "subdural haematoma", "lymphocytic infiltrate": "lymphocytic infiltrate",
    "thrombosis": "thrombus",
}  # fmt: skip
_CLAUSE = re.compile(r"[.;\n。；]+|\bbut\b|\bexcept\b", re.IGNORECASE)
_LENGTH = re.compile(r"(?<![\d.])(?P<v>\d{1,6}(?:\.\d+)?)\s?(?P<u>[µμ]m|mm|cm)\b")
_TO_MM: Final = {"µm": 0.001, "μm": 0.001, "mm": 1.0, "cm": 10.0}
_DENIED_BEFORE = re.compile(
    r"\b(?:no|without|not|negative for|free of|absen(?:t|ce of)|denies|never)\b[^,:]*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^[\w\s]{0,25}\b(?:(?:is|are|was|were) not|not (?:seen|visible|present)|(?:is|are) absent)\b",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:possib\w+|probab\w+|likely|suspect\w*|suspicious|question\w*|exclude\w*|rule out|cannot"
    r"|previous\w*|prior|history|compar\w*|than|if|may|might|could|should|or|recommend\w*|both"
    r"|bilateral\w*|shift\w*|deviat\w*|unchanged|resolved|post)\b",
    re.IGNORECASE,
)
_PLAIN_QUESTION = re.compile(
    r"(?:.*[.] )?(?:is|are) (?:there )?(?:an? |any |the )?(?:evidence of )?(?P<what>[\w -]+?)"
    r"(?: (?:visible|present|seen|shown))?(?: in (?:this|the) (?:image|scan|picture|film))? ?\?"
    r"|(?:.*[.] )?(?:does|do) (?:this|the) (?:image|scan|film|radiograph|x-ray) show (?:an? |any )?(?P<shown>[\w -]+?) ?\?"
    r"|(?:.*[.] )?can you see (?:an? |any )?(?P<see>[\w -]+?) ?\?",
    re.IGNORECASE,
)
_ASKS_SIDE = re.compile(
    r"\b(?:which|what)\b.{0,30}\b(?:side|half|region|quarter|lung|hemisphere)|\bwhere\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"\b(?:not|no|without|normal)\b", re.IGNORECASE)


def statements(record: Record, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """The claims of a record about its image, sorted; () unless it has exactly one image.

    `modalities` are the families its text claims the image to be.
    """
    if len(record.images) != 1:
        return ()
    claims = {f"modality={name}" for name in modalities}
    claims |= _from_facts(record)
    if record.task in ("caption", "report", "dialogue"):
        answers = [turn.text for turn in record.messages if turn.role == "assistant"]
        for text in answers:
            claims |= _from_prose(text)
    elif record.task in ("closed", "open", "choice"):
        claims |= _from_answer(record)
    return tuple(sorted(claims))


def canonical(term: str) -> str:
    """One spelling of a finding: lower case, singular, British."""
    word = " ".join(term.casefold().split())
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("s") and not word.endswith(("ss", "is", "us", "hydronephrosis")):
        word = word[:-1]
    return _IRREGULAR.get(word, word)


def _from_facts(record: Record) -> set[str]:
    facts = record.facts
    claims: set[str] = set()
    family = lexicon.modality_family(facts.get("modality"))
    if family:
        claims.add(f"record modality={family}")
    region = facts.get("anatomy")
    if isinstance(region, str) and region:
        claims.add(f"record anatomy={region.casefold()}")
    if record.group:
        digest = hashlib.blake2b(record.group.encode("utf-8", "replace"), digest_size=4)
        claims.add(f"record group={digest.hexdigest()}")
    name, present = facts.get("finding"), facts.get("finding_present")
    if not isinstance(name, str) or not isinstance(present, bool):
        return claims
    if match := lexicon.FINDING_TERMS.search(name):
        term = canonical(match.group(0))
        claims.add(f"{term}={'+' if present else '-'}")
        side = {"left": "L", "right": "R"}.get(str(facts.get("side") or "").casefold())
        if present and side:
            claims |= {f"{term}:side={side}", f"{term} {side}=+"}
    return claims


@remembered
def _terms(text: str) -> frozenset[str]:
    """The findings that a text names, in one spelling."""
    return frozenset(canonical(m.group(0)) for m in lexicon.FINDING_TERMS.finditer(text))


@remembered
def _plainly_asked(question: str) -> str | None:
    """What a question of the form "is there a ..." asks about; None for any other."""
    match = _PLAIN_QUESTION.fullmatch(question.strip())
    return match["what"] or match["shown"] or match["see"] if match else None


@remembered
def _from_prose(text: str) -> frozenset[str]:
    """Claims of a caption, report or answer in sentences."""
    claims: set[str] = set()
    for clause in _CLAUSE.split(text):
        terms = list(lexicon.FINDING_TERMS.finditer(clause))
        if not terms or _UNSURE.search(clause):
            continue
        for number, match in enumerate(terms):
            name = canonical(match.group(0))
            before, after = clause[: match.start()], clause[match.end() :]
            if _DENIED_BEFORE.search(before) or _DENIED_AFTER.search(after):
                # "no effusion in the left lung" denies less than "no effusion".
                where = lexicon.sides(clause)
                claims.add(f"{name} {where}=-" if where in ("L", "R") else f"{name}=-")
                continue
            claims.add(f"{name}=+")
            start = terms[number - 1].end() if number else 0
            end = terms[number + 1].start() if number + 1 < len(terms) else len(clause)
            side = lexicon.sides(clause[match.end() : end])
            if not side:
                side = lexicon.sides(clause[start : match.start()])
            if side in ("L", "R"):
                claims |= {f"{name}:side={side}", f"{name} {side}=+"}
            lengths = list(_LENGTH.finditer(clause[match.end() : end]))
            if len(lengths) == 1:
                claims.add(f"{name}:mm={_millimetres(lengths[0]):g}")
    return frozenset(claims)


def _from_answer(record: Record) -> Set[str]:
    """Claims of a question with its answer."""
    question, gold = record.question, record.answer or record.response
    terms = _terms(question)
    polarity = lexicon.polarity(gold)
    if record.task == "closed":
        if len(terms) != 1 or not polarity:
            return set()
        name = next(iter(terms))
        claims = set()
        asked = _plainly_asked(question)
        if asked is not None:
            # "Is there a mass in the liver?" answered no denies less than "Is there a mass?".
            plain = polarity == "yes" or len(asked.split()) <= 2 + len(name.split())
            if plain and not lexicon.sides(asked) and not _NEGATIVE.search(asked):
                claims.add(f"{name}={'+' if polarity == 'yes' else '-'}")
        said, asked_side = lexicon.sides(record.response), lexicon.sides(question)
        if _UNSURE.search(question) or _NEGATIVE.search(question):
            return claims
        if said in ("L", "R") and not _NEGATIVE.search(record.response.rsplit("so ", 1)[0]):
            claims.add(f"{name}:side={said}")
        elif asked_side in ("L", "R") and polarity == "yes":
            claims.add(f"{name}:side={asked_side}")
        return claims
    if _NEGATIVE.search(question):
        return set()
    if len(terms) == 1:
        name = next(iter(terms))
        side = lexicon.sides(gold)
        claims = set()
        if side in ("L", "R") and _ASKS_SIDE.search(question):
            claims.add(f"{name}:side={side}")
        lengths = list(_LENGTH.finditer(gold))
        if (
            record.task == "open"
            and len(lengths) == 1
            and re.search(r"\b(?:large|big|size)\b", question)
        ):
            claims.add(f"{name}:mm={_millimetres(lengths[0]):g}")
        return claims
    return _from_prose(gold) if record.task == "choice" and not terms else set()


def _millimetres(match: re.Match[str]) -> float:
    return round(float(match["v"]) * _TO_MM[match["u"]], 4)
