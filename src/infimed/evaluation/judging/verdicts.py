"""What a judge said of stored answers: read, never guessed. No model is called here.

A verdict is "yes", "no" or "undecided"; a judge that declines, rambles or contradicts itself has not
decided. One that could not be reached has given no verdict at all (`failed`), and is asked again next
time. An answer without a word is "no" to everything and costs no call.

Files in a task's folder: ``judge.json`` says who judges by which prompt; ``judge.replies.jsonl``
holds every reply, append-only, keyed by judge + prompt + question + reference + answer, so that one
answer under two labels is judged once; ``LABEL.verdicts.jsonl`` is the transcript for people, written
anew from the replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.evaluation.judging.items import Item, items_of, judge_request, read_text
from infimed.evaluation.judging.prompts import JudgePrompt, prompt_of
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec
from infimed.inference.replies import RepeatedKey, json_objects, refuses, without_thoughts
from infimed.inference.requests import Request, Response
from infimed.inference.responses import read_responses

Verdict = Literal["yes", "no", "undecided"]
VERDICTS: Final = ("yes", "no", "undecided")
FAILED: Final = "failed"
"""In counts: no verdict, because the judge was not asked or did not answer."""
REASON_CHARS: Final = 300
_WORDS: Final[dict[object, Verdict]] = {
    "yes": "yes", "no": "no", "undecided": "undecided", True: "yes", False: "no",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """One item with its verdict, None where there is none.

    Attributes:
        status: "ok"; "empty" (nothing to judge); why a judge has not decided (refused, garbage,
            truncated); why there is no verdict (timeout, error, not asked).
        reason: what it said for it, shortened.
    """

    item: Item
    verdict: Verdict | None
    status: str
    reason: str = ""

    @property
    def counted(self) -> str:
        """The verdict, or `FAILED`."""
        return self.verdict or FAILED


def parse_verdict(text: str) -> tuple[Verdict, str, str]:
    """(verdict, status, reason) of a reply. Never raises.

    A JSON object with a verdict, alone, fenced or among other words; or one bare word. Several objects
    must agree: a reply that says both has not decided, so that a verdict quoted from an answer cannot
    pass for the judge's own.
    """
    said = without_thoughts(text)
    bare = said.strip().strip(".!\"'`*").lower()
    if bare in ("yes", "no", "undecided"):
        return _WORDS[bare], "ok", ""
    found: list[tuple[Verdict, str]] = []
    try:
        for value in json_objects(said):
            if "verdict" not in value:
                continue
            given = value["verdict"]
            word = given.strip().lower() if isinstance(given, str) else given
            known = isinstance(word, str | bool) and word in _WORDS
            reason = value.get("reason")
            if not known:
                return "undecided", "garbage", _short(f"no such verdict: {given}")
            found.append((_WORDS[word], reason if isinstance(reason, str) else ""))
    except RepeatedKey as error:
        return "undecided", "garbage", _short(f"'{error}' is given twice")
    if not found:
        status = "refused" if refuses(said) else "garbage"
        return "undecided", status, _short(said)
    if len({verdict for verdict, _ in found}) > 1:
        return "undecided", "garbage", "says more than one verdict"
    return found[-1][0], "ok", _short(found[-1][1])


def judged_of(item: Item, response: Response | None) -> Judged:
    """An item with what the judge replied, or did not."""
    if response is None:
        return Judged(item, None, "not asked")
    if response.status in ("timeout", "error", "garbage"):
        return Judged(item, None, response.status, _short(response.error))
    if response.status == "refused":
        return Judged(item, "undecided", "refused", _short(response.error or response.text))
    verdict, status, reason = parse_verdict(response.text)
    if response.status == "truncated" and status != "ok":
        return Judged(item, "undecided", "truncated", "cut at the limit of tokens")
    return Judged(item, verdict, status, reason)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_CHARS else line[: REASON_CHARS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the judge: which sample, which item, and the request; None where nothing was said."""

    sample: int
    item: Item
    request: Request | None


def questions(
    samples: Sequence[Sample],
    spec: TaskSpec,
    responses: Sequence[Response | None],
    prompt: JudgePrompt,
) -> list[Asked]:
    """Everything a judge is asked of these answers, in the order of samples and items."""
    made = []
    for at, (sample, response) in enumerate(zip(samples, responses, strict=True)):
        answer = read_text(response)
        for number, item in enumerate(items_of(sample, spec)):
            request = None
            if answer is not None:
                name = f"{sample.id}#j{number}"
                request = judge_request(sample, item, answer, prompt, id=name)
            made.append(Asked(at, item, request))
    return made


@dataclass(frozen=True)
class Verdicts:
    """What one judge said of one way of answering: per sample its items, empty where none apply."""

    judge: str
    fingerprint: str
    prompt: JudgePrompt
    samples: tuple[tuple[Judged, ...], ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """Verdicts by what they are; `FAILED` among them."""
        return Counter(one.counted for of in self.samples for one in of)

    def whole(self, at: int) -> bool:
        """Whether every item of a sample has a verdict."""
        return bool(self.samples[at]) and all(one.verdict for one in self.samples[at])

    def brief(self, at: int) -> dict[str, dict[str, int]]:
        """A sample's verdicts counted, as browsing shows them; nothing where the judge reads nothing."""
        counts = Counter(one.counted for one in self.samples[at])
        return {"judge": dict(counts)} if counts else {}


@dataclass(frozen=True)
class JudgeFolder:
    """A task's judge and its stored replies.

    Attributes:
        judge: the name it was asked by. fingerprint: of the model. prompt: what it is asked.
        labels: ways of answering that it was asked about. replies: by request key.
    """

    judge: str
    fingerprint: str
    prompt: JudgePrompt
    labels: tuple[str, ...]
    replies: dict[str, Response]

    def verdicts(
        self, samples: Sequence[Sample], spec: TaskSpec, responses: Sequence[Response | None]
    ) -> Verdicts:
        """Verdicts on answers, rebuilt from the replies; an answer that changed has none."""
        found: list[list[Judged]] = [[] for _ in samples]
        for one in questions(samples, spec, responses, self.prompt):
            if one.request is None:
                judged = Judged(one.item, "no", "empty")
            else:
                judged = judged_of(one.item, self.replies.get(one.request.key(self.fingerprint)))
            found[one.sample].append(judged)
        return Verdicts(self.judge, self.fingerprint, self.prompt, tuple(map(tuple, found)))


def settings_path(out: Path, task: str) -> Path:
    """Where it is written who judges a task, and by which prompt."""
    return out / task / "judge.json"


def replies_path(out: Path, task: str) -> Path:
    """Where a judge's replies about a task are."""
    return out / task / "judge.replies.jsonl"


def transcript_path(out: Path, task: str, label: str) -> Path:
    """Where a label's verdicts are, for people."""
    return out / task / f"{label}.verdicts.jsonl"


def open_judge(out: Path, task: str) -> JudgeFolder | None:
    """The judge of a task with its replies, or None where none was asked.

    Raises:
        DataError: its file is damaged.
    """
    path = settings_path(out, task)
    if not path.is_file():
        return None
    value: dict[str, Any] = read_json(path)
    try:
        judge, fingerprint = str(value["judge"]), str(value["fingerprint"])
        prompt, labels = value["prompt"], tuple(map(str, value["labels"]))
    except (KeyError, TypeError) as error:
        raise DataError(
            "does not say who judges", where=str(path), fix="judge again: infimed judge"
        ) from error
    replies = read_responses(replies_path(out, task))[0]
    return JudgeFolder(judge, fingerprint, prompt_of(prompt, str(path)), labels, replies)
