"""Consistency: do question, choices, answer and turns agree with one another?"""

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
    caption,
    choice_key,
    sample,
    span,
    with_turns,
)
from infimed.curation.signals import Signals
from infimed.data.record import Message, Record
from infimed.matching.text import normalise_answer

_LETTER = re.compile(
    r"^\s*(?:the answer is |answer:? )?\(?(?P<letter>[A-H])"
    r"(?:[).:]\s*|\s+[-–]\s+)(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
_MOVED = re.compile(
    r"\b(?:shift\w*|deviat\w*|displac\w*|toward\w*|compar\w*|than|opposite"
    r"|contralateral|other|versus|vs|or|mirror\w*|which side|statements?|decussat\w*)\b",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"\b(?:or|vs\.?|versus)\b|还是", re.IGNORECASE)
_YES_NO_START = re.compile(
    r"\s*(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should)\b", re.IGNORECASE
)
_DENIED = re.compile(
    r"\b(?:there (?:is|are|was|were) no|no (?:evidence|sign|signs) of"
    r"|is not (?:seen|present|visible)|are not (?:seen|present|visible)|is absent|are absent)\b|未见|没有",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"\b(?:there (?:is|are) (?:an?|evidence|definite|clear|marked)|(?:is|are) (?:clearly )?(?:present|visible|seen))\b|可见",
    re.IGNORECASE,
)
_OF_PICTURE = re.compile(
    r"\b(?:of|in|on) (?:the|this) (?:image|picture|figure|photo|film)\b|图|画面", re.IGNORECASE
)
_CONCLUDED = re.compile(r"^\s*(?:yes|no)\b|\bso (?:yes|no)\b", re.IGNORECASE)
_PLACED = re.compile(
    r"\b(?:on|in|at|is|are|to) (?:the )?(?:patient's )?(?:left|right)\b", re.IGNORECASE
)
_NEGATIVE_QUESTION = re.compile(
    r"\b(?:no|not|n't|free of|absent|absence|normal|without|clear|exclude\w*|lack\w*|unremarkable)\b|n't\b|正常|没有",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.;\n。；]+")
_DOUBT = re.compile(
    r"\b(?:possible|possibly|probable|likely|suspect\w*|suspicious|question\w*"
    r"|exclude|rule out|cannot|previous\w*|prior|history"
    r"|residual|other|additional|further|new|change|larger|definite|significant)\b",
    re.IGNORECASE,
)


def _duplicate_choices(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    seen: dict[str, int] = {}
    for index, choice in enumerate(record.choices):
        key = choice_key(choice)
        if key in seen:
            return Hit(
                f"choice {index}",
                f"choices {seen[key]} and {index} are both {choice!r}",
                float(index),
            )
        seen[key] = index
    return None


def _letter_text(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task != "choice" or not record.choices:
        return None
    texts = [normalise_answer(choice) for choice in record.choices]
    response = record.response
    plain = normalise_answer(response)
    if plain in texts:
        return (
            None
            if plain == normalise_answer(record.answer or response)
            else Hit(
                "response", f"the turn says {response!r}, the gold answer is {record.answer!r}"
            )
        )
    match = _LETTER.match(response)
    if match is None:
        return None
    letter = ord(match["letter"].upper()) - ord("A")
    text = normalise_answer(match["text"])
    named = texts.index(text) if text in texts else None
    gold = normalise_answer(record.answer or "")
    if letter >= len(texts):
        return span("response", match, value=letter + 1, threshold=len(texts))
    if (named is not None and named != letter) or (gold in texts and texts[letter] != gold):
        return Hit(
            "response",
            f"{match['letter']} is {record.choices[letter]!r}, the text says {match['text'] or record.answer!r}",
        )
    return None


def _polarity(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    gold, said = signals.text.answer_polarity, signals.text.response_polarity
    if gold and said and gold != said:
        return Hit(
            "response",
            f"the gold answer is {record.answer!r}, the turn says {record.response[:60]!r}",
        )
    said = said or gold
    if record.task != "closed" or not said or _NEGATIVE_QUESTION.search(record.question):
        return None
    rest = record.response.strip()
    body = rest.split(None, 1)[1] if len(rest.split(None, 1)) > 1 else ""
    first = _SENTENCE.split(body, maxsplit=1)[0]
    against = _DENIED if said == "yes" else _AFFIRMED
    other = _AFFIRMED if said == "yes" else _DENIED
    match = against.search(first)
    if match is None:
        return None
    asked = {m.group(0).casefold() for m in lexicon.FINDING_TERMS.finditer(record.question)}
    told = {m.group(0).casefold() for m in lexicon.FINDING_TERMS.finditer(first)}
    if (
        other.search(first)
        or (asked and not asked & told)
        or re.search(r"\b(?:but|although|however|only)\b", first, re.I)
    ):
        return None
    return Hit("response", f"answered {said!r}, explained with {match.group(0)!r}")


def _side_contradiction(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    asked, said = signals.text.question_sides, signals.text.response_sides
    if record.task not in ("open", "choice", "closed") or {asked, said} != {"L", "R"}:
        return None
    # The left of the picture is the right of the patient; signs and their lesions lie across.
    if not record.images or _OF_PICTURE.search(record.question):
        return None
    if lexicon.NEGATION.search(record.response) or signals.text.answer_polarity == "no":
        return None
    if _MOVED.search(record.question) or _MOVED.search(record.response):
        return None
    match = (lexicon.LEFT if said == "L" else lexicon.RIGHT).search(record.response)
    name = {"L": "left", "R": "right"}
    evidence = f"asked about the {name[asked]}, answered {record.response[:60]!r}"
    return Hit(
        "response", evidence, start=match.start() if match else -1, end=match.end() if match else -1
    )


def _side_answer(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    asked, said = signals.text.question_sides, signals.text.response_sides
    if record.task != "closed" or asked not in ("L", "R") or said != asked:
        return None
    if signals.text.answer_polarity != "no" or _MOVED.search(record.question):
        return None
    body = _CONCLUDED.sub("", record.response)
    if lexicon.NEGATION.search(body) or lexicon.NEGATION.search(record.question):
        return None
    if len(record.response.split()) < 3 or not _PLACED.search(body):
        return None
    name = {"L": "left", "R": "right"}[asked]
    return Hit("response", f"asked about the {name}, says {record.response[:60]!r} and answers no")


def _role_order(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    roles = [turn.role for turn in record.messages]
    talk = roles[1:] if roles and roles[0] == "system" else roles
    wanted = ["user", "assistant"] * ((len(talk) + 1) // 2)
    # A bare caption is one assistant turn; that is a legitimate form.
    if talk == ["assistant"] or (talk and talk == wanted[: len(talk)] and talk[-1] == "assistant"):
        return None
    wrong = next(
        (i for i, (a, b) in enumerate(zip(talk, wanted, strict=False)) if a != b), len(talk) - 1
    )
    return Hit(f"message {wrong}", " ".join(roles) or "no turns")


def _closed_form(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task != "closed" or not _YES_NO_START.match(record.question):
        return None
    if (
        signals.text.answer_polarity
        or signals.text.response_polarity
        or _ALTERNATIVE.search(record.question)
    ):
        return None
    return Hit("response", f"a yes/no question is answered {record.response[:60]!r}")


def _self_contradiction(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("caption", "report"):
        return None
    affirmed: dict[tuple[str, str], str] = {}
    denied: dict[tuple[str, str], str] = {}
    for sentence in _SENTENCE.split(record.response):
        if _DOUBT.search(sentence):
            continue
        for match in lexicon.FINDING_TERMS.finditer(sentence):
            term = match.group(0).casefold().rstrip("s")
            before = sentence[: match.start()]
            negated = re.search(
                r"\b(?:no|without|negative for|free of|absent)\b[^,:]*$", before, re.I
            )
            absent = re.match(
                r"[\w\s]{0,20}\b(?:is|are) (?:not (?:seen|present|visible)|absent)",
                sentence[match.end() :],
                re.I,
            )
            side = lexicon.sides(sentence)
            (denied if negated or absent else affirmed).setdefault((term, side), sentence.strip())
    both = [key for key in affirmed if key in denied or (key[0], "") in denied]
    if not both:
        return None
    yes, no = affirmed[both[0]], denied.get(both[0]) or denied[(both[0][0], "")]
    return Hit("response", f"{yes[:70]!r} against {no[:70]!r}")


_CHOICES = ("liver", "spleen", "kidney")


def _answered(response: str) -> Record:
    """A choice record whose gold answer is "liver" and whose turn says `response`."""
    record = sample("Which organ is shown?", "liver", "choice", choices=_CHOICES)
    return replace(record, messages=(record.messages[0], Message("assistant", (response,))))


def _replied(question: str, answer: str, reply: str) -> Record:
    """A closed record whose turn says more than its gold answer."""
    record = sample(question, answer)
    return replace(record, messages=(record.messages[0], Message("assistant", (reply,))))


RULES: Final = (
    Rule(
        "consistency.duplicate_choices", 1, "consistency", "drop",
        "Two choices are the same, so that two letters are right or wrong together.",
        _duplicate_choices,
        Example(sample("Which organ is shown?", "liver", "choice", choices=_CHOICES)),
        Example(sample("Which organ is shown?", "liver", "choice", choices=("liver", "spleen", "Spleen."))),
    ),
    Rule(
        "consistency.letter_text", 1, "consistency", "drop",
        "The letter, the text behind it and the gold answer do not agree.",
        _letter_text,
        Example(_answered("A. liver")),
        Example(_answered("B. liver")),
    ),
    Rule(
        "consistency.polarity", 1, "consistency", "drop",
        "A yes/no answer is explained by its opposite, or differs from the gold answer.",
        _polarity,
        Example(sample("Is there a pleural effusion?", "No, there is no pleural effusion.")),
        Example(sample("Is there a pleural effusion?", "Yes, there is no pleural effusion.")),
    ),
    Rule(
        "consistency.side_contradiction", 1, "consistency", "drop",
        "Asked about one side, the answer speaks of the other.",
        _side_contradiction,
        Example(sample("What is seen in the left lung?", "A left lower lobe mass", "open")),
        Example(sample("What is seen in the left lung?", "A right lower lobe mass", "open")),
    ),
    Rule(
        "consistency.side_answer", 1, "consistency", "drop",
        "Asked whether it is on one side, the reply places it there and still answers no.",
        _side_answer,
        Example(_replied("Is the cyst on the left side?", "no", "On the right, so no.")),
        Example(_replied("Is the cyst on the left side?", "no", "On the left, so no.")),
    ),
    Rule(
        "consistency.role_order", 1, "consistency", "drop",
        "Turns do not alternate between user and assistant, or nobody answers.",
        _role_order,
        Example(with_turns(("user", "What is this?"), ("assistant", "A lung."))),
        Example(with_turns(("user", "What is this?"), ("user", "And this?"), ("assistant", "A lung."))),
    ),
    Rule(
        "consistency.closed_form", 1, "consistency", "note",
        "A yes/no question has an answer that is neither.",
        _closed_form,
        Example(sample("Is the lesion solid or cystic?", "solid")),
        Example(sample("Is there a pleural effusion?", "the left lung")),
    ),
    Rule(
        "consistency.self_contradiction", 1, "consistency", "drop",
        "A caption or report affirms and denies the same finding on the same side.",
        _self_contradiction,
        Example(caption("There is a right pleural effusion. No left pleural effusion.")),
        Example(caption("There is a right pleural effusion. The right lung has no pleural effusion.")),
    ),
)  # fmt: skip
