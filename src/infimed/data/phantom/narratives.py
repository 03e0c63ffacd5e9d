"""Longer texts: caption, Findings/Impression report, prior/current comparison, consultation.

Invariant: a text states what is in the image and nothing else; every absent finding of the modality
is denied in the report, in the catalogue's order.
"""

from __future__ import annotations

from infimed.data.phantom.drawing_lots import CHANGES, Change
from infimed.data.phantom.questions import Questioner
from infimed.data.phantom.truth import Finding, ImageTruth
from infimed.data.phantom.wording import (
    article_for,
    be,
    length,
    on_side,
    picture,
    several,
    spot,
    subject,
)
from infimed.data.record import Message, Record

CAPTION_PROMPTS = (
    "Describe this image.",
    "Write a caption for this image.",
    "What does this image show?",
)
REPORT_PROMPT = "Write the report with Findings and Impression."
ADVICE = {
    "mild": "This is mild; a routine follow-up is usually enough.",
    "moderate": "It should be discussed with the treating physician soon.",
    "severe": "Please have it assessed by a specialist promptly.",
}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _listed(items: list[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def caption_text(truth: ImageTruth) -> str:
    """One sentence: the image and what it shows."""
    modality = truth.kind
    items = [
        f"{several(modality.kind(f.key), f.count)} {on_side(modality, modality.side_of(f.half))}"
        for f in truth.findings
    ]
    head = _capital(f"{article_for(picture(truth))} {picture(truth)}")
    return f"{head} showing {_listed(items)}." if items else f"{head} without abnormality."


def finding_sentence(truth: ImageTruth, finding: Finding) -> str:
    """One sentence of the Findings section."""
    modality = truth.kind
    kind = modality.kind(finding.key)
    head = _capital(kind.name) if finding.count == 1 else f"{finding.count} {kind.plural}"
    place = spot(modality, finding)
    where = f"{place} half" if not modality.radiological and not kind.free_level else place
    return f"{head}, {where}, {length(modality, finding.size_fraction)}."


def report_text(truth: ImageTruth) -> str:
    """Findings and Impression."""
    modality = truth.kind
    lines = []
    impression = []
    for kind in modality.findings:
        finding = truth.finding(kind.key)
        if finding is None:
            lines.append(f"No {kind.name}.")
            continue
        lines.append(finding_sentence(truth, finding))
        impression.append(f"{_capital(modality.side_of(finding.half))} {kind.impression}")
    verdict = "; ".join(impression) if impression else "No abnormality"
    return f"Findings: {' '.join(lines)}\nImpression: {verdict}."


def caption(asker: Questioner) -> Record:
    """The caption record."""
    return asker.ask(
        "caption",
        "caption",
        asker.pick(CAPTION_PROMPTS),
        caption_text(asker.truth),
        asker.facts("caption"),
    )


def report(asker: Questioner) -> Record:
    """The report record; age and sex are given, as on a request form."""
    question = f"Patient: {subject(asker.truth)}. {REPORT_PROMPT}"
    return asker.ask("report", "report", question, report_text(asker.truth), asker.facts("report"))


def comparison(
    asker: Questioner, prior: ImageTruth, changes: tuple[tuple[str, Change], ...]
) -> Record | None:
    """What became of one finding between the prior (first) and the current (second) image.

    Only findings that can change in all five ways are asked about, so no answer is more likely; the
    three wrong options are drawn from the other four changes.
    """
    modality = asker.truth.kind
    asked = [(key, change) for key, change in changes if not modality.kind(key).small]
    if not asked:
        return None
    key, change = asked[int(asker.rng.integers(len(asked)))]
    kind = modality.kind(key)
    finding = asker.truth.finding(key) or prior.finding(key)
    others = [other for other in CHANGES if other != change]
    drawn = [others[int(index)] for index in asker.rng.permutation(len(others))[:3]]
    question = f"The first image is the prior, the second the current one. How has the {kind.name} changed?"
    options = tuple(sorted([change, *drawn]))
    return asker.ask(
        "comparison", "choice", question, change, asker.facts("comparison", kind, finding), options
    )


def dialogue(asker: Questioner) -> Record:
    """A short consultation: what it is, whether something is there, where, and what follows."""
    truth, modality = asker.truth, asker.truth.kind
    kind = modality.findings[int(asker.rng.integers(len(modality.findings)))]
    finding = truth.finding(kind.key)
    turns = [
        ("user", (*range(len(asker.images)), "Doctor, what kind of image is this?")),
        ("assistant", (f"This is {article_for(picture(truth))} {picture(truth)}.",)),
        ("user", (f"Can you see {kind.with_article}?",)),
    ]
    if finding is None:
        turns += [
            ("assistant", (f"No, there is no {kind.name} in this image.",)),
            ("user", ("So nothing has to be done about it?",)),
            (
                "assistant",
                ("Not on the basis of this image. If symptoms persist, see your physician.",),
            ),
        ]
    else:
        turns += [
            (
                "assistant",
                (
                    f"Yes, there {be(finding.count)} {several(kind, finding.count)} {on_side(modality, modality.side_of(finding.half))}.",
                ),
            ),
            ("user", ("How large is it, and what should I do?",)),
            (
                "assistant",
                (
                    f"It measures about {length(modality, finding.size_fraction)}. {ADVICE[finding.severity]}",
                ),
            ),
        ]
    messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
    return Record(
        messages=messages,
        task="dialogue",
        facts=asker.facts("dialogue", kind, finding),
        **asker.common("dialogue"),
    )
