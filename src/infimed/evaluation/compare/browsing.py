"""Which single answers a comparison shows, and their pictures.

Questions are ranked: where models disagree, then where an answer failed or could not be read, then where
all are wrong, then the rest; within a rank by a fixed seed, tasks in turn. Pictures are made once for every
image, up to a budget, in that order. What is left out is counted and said on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from infimed.core.errors import InfiMedError
from infimed.core.files import sha256_json
from infimed.core.page import plain
from infimed.core.sampling import alternate, shuffled
from infimed.data.record import ImageRef
from infimed.data.thumbnails import MOST_IMAGES, alternative, thumbnail
from infimed.evaluation.compare.loading import Answered, ModelScores
from infimed.evaluation.compare.pairing import MARKED
from infimed.evaluation.folder import Evaluated, open_evaluated, read_evaluation
from infimed.evaluation.prompts import SUFFIXES
from infimed.evaluation.sources import JoinedShards
from infimed.evaluation.spec import load_task

SIDE: Final = 256
"""Largest side of a picture, pixels."""
JPEG_QUALITY: Final = 75
SAMPLES: Final = 600
THUMBNAILS: Final = 200
QUESTION_LIMIT: Final = 6000
ANSWER_LIMIT: Final = 3000
APART: Final = 0.5
"""Models disagree where their scores of a question differ by at least this."""
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One question with the answers of the models that were asked it (None: was not)."""

    task: str
    question: Answered
    answers: tuple[Answered | None, ...]

    @property
    def disagree(self) -> bool:
        """Whether two models' scores are `APART`."""
        scores = [answer.score for answer in self.answers if answer is not None]
        return len(scores) > 1 and max(scores) - min(scores) >= APART

    @property
    def rank(self) -> int:
        """0 disagreement, 1 failed or unread, 2 all wrong, 3 the rest."""
        said = [answer for answer in self.answers if answer is not None]
        if self.disagree:
            return 0
        if any(answer.parsed is None or answer.status in ("error", "missing") for answer in said):
            return 1
        return 2 if all(answer.score < APART for answer in said) else 3


@dataclass
class Browser:
    """The data of the page's browser, and what was left out.

    Attributes:
        data: JSON-ready. shown, total: questions on the page and in the folders. pictures: embedded; bytes:
            of them as data URIs. left_out: distinct images of shown questions past the budget.
        problems: why pictures are missing otherwise, with counts.
    """

    data: dict[str, Any]
    shown: int
    total: int
    pictures: int = 0
    bytes: int = 0
    left_out: int = 0
    problems: dict[str, int] = field(default_factory=dict)


def items_of(models: Sequence[ModelScores], tasks: Iterable[str]) -> dict[str, list[Item]]:
    """Task -> its questions with every model's answer. A question that was put otherwise to a model
    (other options, other data) is an item of its own."""
    found: dict[str, list[Item]] = {}
    for task in tasks:
        rows: dict[str, list[Answered | None]] = {}
        for at, model in enumerate(models):
            for answer in model.tasks[task].answers if task in model.tasks else ():
                rows.setdefault(answer.asked, [None] * len(models))[at] = answer
        found[task] = [
            Item(task, next(a for a in row if a is not None), tuple(row)) for row in rows.values()
        ]
    return found


def chosen(items: dict[str, list[Item]], count: int) -> list[Item]:
    """At most `count` questions, ranked; tasks take turns within a rank."""
    taken: list[Item] = []
    for rank in range(4):
        groups = [
            shuffled([item for item in ones if item.rank == rank], SEED, "compare", task, str(rank))
            for task, ones in items.items()
        ]
        taken += alternate(groups, count - len(taken))
    return taken


@dataclass
class Gallery:
    """Pictures of questions, each image once, up to a budget.

    Attributes:
        find: (task, question id) -> image references of its record and where their pixels are, or the
            reason why there are none.
    """

    find: Callable[[str, str], tuple[JoinedShards, tuple[ImageRef, ...]] | str]
    budget: int
    uris: dict[str, str] = field(default_factory=dict)
    past: set[str] = field(default_factory=set)
    problems: dict[str, int] = field(default_factory=dict)

    def pictures(self, item: Item) -> list[dict[str, Any]]:
        """JSON-ready pictures of a question: ``{k: key, alt}`` or ``{p: problem, alt}``."""
        asked = item.question
        if not asked.images:
            return []
        found = self.find(item.task, asked.id)
        if isinstance(found, str):
            self._problem(found)
            return [{"p": found, "alt": "image"}]
        shards, refs = found
        made = []
        for place, ref in enumerate(refs[:MOST_IMAGES], start=1):
            alt = alternative(ref, asked.id, place, len(refs))
            made.append({**self._picture(shards, ref, alt), "alt": plain(alt, 160)})
        if len(refs) > MOST_IMAGES:
            made.append({"p": f"{len(refs) - MOST_IMAGES} more images", "alt": "further images"})
        return made

    def _picture(self, shards: JoinedShards, ref: ImageRef, alt: str) -> dict[str, Any]:
        key = sha256_json([ref.sha256 or ref.locator, dict(ref.facts)])[
            :24
        ]  # facts hold the window
        if key in self.uris:
            return {"k": key}
        if len(self.uris) >= self.budget:
            self.past.add(key)
            return {"p": f"past the budget of {self.budget:,} pictures"}
        made = thumbnail(shards, ref, alt, SIDE, JPEG_QUALITY)
        if not made.uri:
            self._problem(made.problem)
            return {"p": made.problem}
        self.uris[key] = made.uri
        return {"k": key}

    def _problem(self, reason: str) -> None:
        self.problems[reason] = self.problems.get(reason, 0) + 1


def images_of(
    models: Sequence[ModelScores], shards: Sequence[Path] = ()
) -> Callable[[str, str], tuple[JoinedShards, tuple[ImageRef, ...]] | str]:
    """Finds the images of a question in the records of the first folder that still has them.

    Args:
        shards: where imported data is, where folders do not say or it was moved.
    """
    opened: dict[str, tuple[JoinedShards, dict[str, tuple[ImageRef, ...]]] | str] = {}

    def find(task: str, id: str) -> tuple[JoinedShards, tuple[ImageRef, ...]] | str:
        if task not in opened:
            opened[task] = _records(models, task, shards)
        known = opened[task]
        if isinstance(known, str):
            return known
        return (
            (known[0], known[1][id]) if id in known[1] else "not among the records that were found"
        )

    return find


def _records(
    models: Sequence[ModelScores], task: str, shards: Sequence[Path]
) -> tuple[JoinedShards, dict[str, tuple[ImageRef, ...]]] | str:
    from infimed.evaluation.asked import collect
    from infimed.evaluation.sample import make_samples

    reason = "no folder has this task"
    for model in models:
        if task not in model.tasks:
            continue
        try:
            found: Evaluated = read_evaluation(model.folder)
            joined = _open(found, shards)
            name = next((n for n in found.tasks if load_task(n).name == task), task)
            spec = load_task(name)
            samples = make_samples(collect(joined, [spec])[spec.name].asked, spec)
        except InfiMedError as error:
            reason = error.what
            continue
        return joined, {sample.id: sample.record.images for sample in samples}
    return reason


def _open(found: Evaluated, shards: Sequence[Path]) -> JoinedShards:
    """The records a folder names; the given ones where they are not there."""
    try:
        return open_evaluated(found)[0]
    except InfiMedError:
        if not shards:
            raise
        return open_evaluated(found, shards=shards)[0]


def browser(
    models: Sequence[ModelScores],
    tasks: Sequence[tuple[str, str]],
    *,
    samples: int = SAMPLES,
    gallery: Gallery | None = None,
) -> Browser:
    """The questions that the page shows, as JSON-ready data.

    Args:
        tasks: (name, title). samples: most questions. gallery: None shows no picture.
    """
    everything = items_of(models, [name for name, _ in tasks])
    taken = chosen(everything, samples)
    number = {name: at for at, (name, _) in enumerate(tasks)}
    lines = [_line(item, number[item.task], gallery) for item in taken]
    total = sum(map(len, everything.values()))
    data: dict[str, Any] = {
        "models": [plain(model.name, 80) for model in models],
        "tasks": [
            {"name": name, "title": plain(title, 120), "ending": _ending(models, name)}
            for name, title in tasks
        ],
        "items": lines,
        "images": gallery.uris if gallery else {},
    }
    if gallery is None:
        return Browser(data, len(lines), total)
    return Browser(
        data,
        len(lines),
        total,
        pictures=len(gallery.uris),
        bytes=sum(map(len, gallery.uris.values())),
        left_out=len(gallery.past - gallery.uris.keys()),
        problems=dict(gallery.problems),
    )


def _ending(models: Sequence[ModelScores], task: str) -> str:
    """The sentence the harness adds to a question of the task that is no choice; "" for none."""
    for model in models:
        if task in model.tasks:
            try:
                names = read_evaluation(model.folder).tasks
                spec = next(s for s in map(load_task, names) if s.name == task)
            except (InfiMedError, StopIteration):
                continue
            return SUFFIXES[spec.prompt].strip()
    return ""


def _line(item: Item, task: int, gallery: Gallery | None) -> dict[str, Any]:
    asked = item.question
    made: dict[str, Any] = {
        "t": task,
        "id": plain(asked.id, 160),
        "kind": asked.kind,
        "type": plain(asked.type, 60),
        "q": plain(asked.question, QUESTION_LIMIT),
        "o": [plain(option, 600) for option in asked.options],
        "g": plain(asked.gold, ANSWER_LIMIT),
        "n": len(asked.images),
        "d": int(item.disagree),
        "m": int(asked.kind in MARKED),
        "a": [None if answer is None else _answer(answer) for answer in item.answers],
    }
    if gallery is not None:
        made["im"] = gallery.pictures(item)
    return made


def _answer(answer: Answered) -> dict[str, Any]:
    return {
        "x": plain(answer.text, ANSWER_LIMIT),
        "r": None if answer.parsed is None else plain(answer.parsed, ANSWER_LIMIT),
        "u": answer.rule,
        "s": answer.status,
        "v": round(answer.score, 4),
        "k": None if answer.medevalkit is None else round(answer.medevalkit, 4),
    }
