"""Results as text: what the page shows beside the answer, and what is downloaded. Pure functions.

Invariant: nothing that was typed or written can look like a line of ours: line breaks and control characters of names
are taken out, and texts are indented below their headings.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.applications.sections import read_sections
from infimed.serving.web.holding import About, Finished, Held
from infimed.serving.web.structured import structured

CANNOT_TELL: Final = "Cannot tell"
UNCALIBRATED: Final = "Model's scores, not probabilities: this model was not calibrated"
"""In the place of "How likely" and "How sure"."""
NO_IMAGE: Final = "No image was given: this answer is not about any image."
CHANGED: Final = "This answer was about: {images}. The images have changed since."
NONE: Final = "none"
"""In the place of the images, where there were none."""
NO_REPORT: Final = (
    "This model wrote no findings and no impression: it may not have been trained on reports."
)
NO_REASON: Final = "the model gave no reason"
BARE: Final = frozenset(["yes", "no", "是", "否", "有", "无", "没有", "不是"])
"""Words that are no reason for or against anything."""
RULE, AUTOMATIC = "Safety rule", "Automatic question"
"""Before texts that a rule wrote and no model."""
TITLES: Final = {
    "ask": "Answer to a question",
    "report": "Draft of a report",
    "differential": "Possible diagnoses, ranked",
    "consult": "Consultation",
}
KINDS: Final = {
    "text": ("txt", "text/plain; charset=utf-8"),
    "json": ("json", "application/json"),
    "sr": ("sr.json", "application/json"),
}
"""How a result can be downloaded: the end of the file's name, and its type."""


def plain(name: str, most: int = 120) -> str:
    """A name on one line, without characters that control a terminal or turn the direction of writing."""
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in name)
    short = " ".join(kept.split())
    return short if len(short) <= most else f"{short[: most - 1]}…"


def percent(probability: float) -> str:
    """A probability for people; never 0 or 100 where it is neither."""
    if 0 < probability < 0.01:
        return "under 1 %"
    if 0.99 < probability < 1:
        return "over 99 %"
    return f"{100 * probability:.0f} %"


def bar(name: str, probability: float) -> str:
    """The name of a bar with its number, as it stands in texts too."""
    return f"{plain(name)}: {percent(probability)}"


def bars(result: Mapping[str, Any]) -> dict[str, float] | None:
    """What the bars of *ask* show: every choice, or how sure the one answer is; None where neither is known."""
    choices = result.get("choices") or []
    if choices:
        shares = [(str(each["text"]), float(each["probability"])) for each in choices]
        return {bar(text, share): share for text, share in shares}
    confidence = result.get("confidence")
    if confidence is None:
        return None
    return {bar("This answer is right", float(confidence)): float(confidence)}


def sureness(result: Mapping[str, Any]) -> str:
    """What is to be said of an answer's confidence."""
    confidence, threshold = result.get("confidence"), result.get("threshold")
    if confidence is None:
        return "How sure this is, is not known: this model was not calibrated."
    said = f"In tests, answers like this one were right in {percent(confidence)} of cases."
    if threshold is not None:
        said += f" Below {percent(threshold)} the page says that it is not sure enough."
    return said


def only_scores(name: str, result: Mapping[str, Any]) -> bool:
    """Whether a result's numbers are no probabilities, because no calibration made them so.

    Args:
        name: of the application.
    """
    if name == "differential":
        return not result.get("calibrated")
    return name == "ask" and bool(result.get("choices")) and result.get("confidence") is None


def notes(done: Finished) -> list[str]:
    """What has to be known before a result is read: on the page and in every file."""
    made = [f"{UNCALIBRATED}."] if only_scores(done.name, done.result) else []
    if done.asked.get("images") == NONE and done.name != "consult":
        made.append(NO_IMAGE)
    if done.name == "report" and no_report(done.result):
        made.append(NO_REPORT)
    return made


def no_report(result: Mapping[str, Any]) -> bool:
    """Whether a report has neither findings nor an impression."""
    return not any(str(result.get(name) or "").strip() for name in ("findings", "impression"))


def ranked(result: Mapping[str, Any]) -> dict[str, float]:
    """What the bars of *differential* show: every candidate, and how much speaks for none."""
    shares = [(str(c["name"]), float(c["probability"])) for c in result["candidates"]]
    shares.append((CANNOT_TELL, float(result["cannot_tell"])))
    return {bar(name, share): share for name, share in shares}


def reasons(result: Mapping[str, Any]) -> str:
    """What speaks for and against every candidate."""
    lines = [f"{UNCALIBRATED}."] if only_scores("differential", result) else []
    for number, each in enumerate(result["candidates"], 1):
        lines.append(f"{number}. {bar(str(each['name']), float(each['probability']))}")
        said = {side: " ".join(str(each.get(side) or "").split()) for side in ("for", "against")}
        if said["for"] and bare(said["for"]) == bare(said["against"]):
            lines.append(f"   For and against: {NO_REASON}.")
            continue
        for side, text in said.items():
            if text:
                why = f"{NO_REASON}." if bare(text) in BARE else text
                lines.append(f"   {side.capitalize()}: {why}")
    lines.append(bar(CANNOT_TELL, float(result["cannot_tell"])))
    return "\n".join(lines)


def bare(text: str) -> str:
    """A text without what makes no difference to what it says: capitals, spaces and marks around it."""
    return " ".join(text.split()).strip(" .,;:!?…。，！？").casefold()


def near_lines(near: Iterable[Any]) -> str:
    """The nearest training records, one a line."""
    return "\n".join(
        f"{number}. {plain(str(each.id))} · {plain(str(each.source))} · "
        f"licence {plain(str(each.licence or 'not stated'))} · likeness {each.similarity:.2f}"
        for number, each in enumerate(near, 1)
    )


def seen(images: Iterable[Held]) -> str:
    """Which images a question was about, for a download."""
    lines = []
    for number, image in enumerate(images, 1):
        what = [plain(image.name), image.first.format]
        if image.first.modality:
            what.append(image.first.modality)
        if image.first.frames > 1:
            frame = image.first.frame if image.view.frame is None else image.view.frame
            what.append(f"image {frame + 1} of {image.first.frames}")
        if image.view.window is not None:
            what.append("window {:g}/{:g}".format(*image.view.window))
        lines.append(f"{number}. {' · '.join(what)}")
    return "\n".join(lines)


def of_images(name: str, about: About | None, images: Sequence[Held]) -> str:
    """What stands above an answer about the images that it is of; "" where they are the ones on the page.

    Args:
        name: of the application; a conversation needs no image. about: None where there is no answer.
    """
    if about is None:
        return ""
    if about.keys != About.of(images).keys:
        listed = ", ".join(f"{at} {plain(held, 60)}" for at, held in enumerate(about.names, 1))
        return CHANGED.format(images=listed or "no image")
    return "" if about.keys or name == "consult" else NO_IMAGE


def without_warning(message: str, warned: str) -> str:
    """What a consultation says behind the warning that its text begins with."""
    return message.removeprefix(warned).lstrip() if warned else message


def without_heading(result: Mapping[str, Any]) -> str:
    """What a report has above its first heading, which belongs to no section."""
    return read_sections(str(result.get("written") or "")).before


def sections(done: Finished) -> dict[str, str]:
    """The parts of a result that are text, in order, as the user left them."""
    result = done.result
    if done.name == "ask":
        made = {"answer": str(result["answer"]), "confidence": sureness(result)}
        if result.get("abstained"):
            made = {"note": "Not sure enough to answer. The text below is below the threshold.", **made}  # fmt: skip
    elif done.name == "report":
        made = {
            name: str(result.get(name) or "not stated")
            for name in ("findings", "impression", "comparison")
            if name != "comparison" or result.get(name)
        }
        if rest := without_heading(result):
            made["without_heading"] = rest
    elif done.name == "differential":
        made = {"ranking": reasons(result)}
    else:
        warned = str(result.get("escalation") or "")
        text = without_warning(str(result["message"]), warned)
        made = {"message": f"{AUTOMATIC}: {text}" if result.get("lacking") else text}
        if warned:
            made = {"urgent": f"{RULE}: {warned}", **made}
    return {**made, **{k: v for k, v in done.edited.items() if k in made}}


def as_text(done: Finished) -> str:
    """A result as a text file."""
    result = done.result
    lines = [f"InfiMed · {TITLES[done.name]}", DISCLAIMER, *notes(done), ""]
    for heading, text in {**done.asked, **sections(done)}.items():
        if not text.strip():
            continue
        lines.append(f"{heading.replace('_', ' ').capitalize()}:")
        for line in text.splitlines():
            deeper = min(len(line) - len(line.lstrip(" ")), 8)
            lines.append(f"  {' ' * deeper}{plain(line, 10_000)}")
        lines.append("")
    if done.edited:
        lines += [f"Changed by hand after the model wrote it: {', '.join(sorted(done.edited))}.", ""]  # fmt: skip
    lines.append("Written by a model. Not reviewed unless a clinician says so.")
    lines.append(f"Model {result.get('model_hash', '')} · request {result.get('request_id', '')}")
    return "\n".join(lines) + "\n"


def as_json(done: Finished) -> str:
    """A result as a JSON file: what was asked, what the application gave, and what was changed by hand."""
    value = {
        "title": TITLES[done.name],
        "disclaimer": DISCLAIMER,
        "notes": notes(done),
        "application": done.name,
        "asked": done.asked,
        "result": done.result,
        "edited": done.edited,
    }
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def as_sr(done: Finished) -> str:
    """A result as JSON in the shape of a DICOM structured report."""
    value = structured(done.name, done.result, sections(done), bool(done.edited), notes(done))
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


WRITERS: Final = {"text": as_text, "json": as_json, "sr": as_sr}
