"""A model from what the user writes: the one place that knows which kinds there are.

`find` looks and loads nothing, so that a typing mistake is told before any weight is read; `opened` loads.
A word that is a folder here is that folder, even where a baseline has the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from infimed.core.errors import DataError, UsageError, missing_extra, nearest_name
from infimed.evaluation.baseline import Baseline, baselines
from infimed.evaluation.origin import UNVERIFIED
from infimed.evaluation.report import SCORE, Scoreboard
from infimed.inference.endpoint_settings import (
    Endpoint,
    is_loopback,
    parse_extra,
    read_key,
    served_models,
)
from infimed.inference.prompting import INSTRUCTED
from infimed.inference.stubs import blind, constant, random_answers

if TYPE_CHECKING:
    from infimed.inference.hub_loading import Dtype
    from infimed.inference.requests import Model

Kind = Literal["own", "folder", "baseline", "endpoint", "stub"]
ACCEPTED: Final = (
    "a run or checkpoint folder, a Hugging Face folder, a baseline (infimed eval --models), "
    "http://HOST:PORT/v1, or stub:random, stub:blind, stub:constant:TEXT"
)
STUBS: Final = ("random", "blind", "constant:TEXT")
GARBAGE_ATTEMPTS: Final = 3
"""Calls for a question whose answer is no answer: more than the judge's one, as a score is at stake."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is opened; what does not concern its kind has no effect.

    Attributes:
        name: of the model at an endpoint. weights: folder of a baseline's weights.
        hub: fetch a baseline's weights where no folder is given.
        dtype: number type; "" for float32 on a CPU and the baseline's (or bfloat16) on a GPU.
        device: torch device of a model in this process that is not ours. batch_size: questions at once.
        concurrency, timeout, give_up_after, extra: of an endpoint, see `Endpoint`; extra is JSON.
    """

    name: str = ""
    weights: Path | None = None
    hub: bool = False
    dtype: str = ""
    device: str = "cpu"
    batch_size: int = 32
    concurrency: int = 8
    timeout: float = 120.0
    give_up_after: int = 16
    extra: str = "{}"


@dataclass(frozen=True, slots=True)
class Found:
    """What was named.

    Attributes:
        kind: see `Kind`. text: as typed. home: the folder that its answers go below, and whose
            `shards` are its own data. folder: of weights, where they are on this machine.
    """

    kind: Kind
    text: str
    home: Path
    folder: Path | None = None
    baseline: Baseline | None = None

    @property
    def answers(self) -> Path:
        """Where answers and scores go unless the user says otherwise."""
        return self.home / "evaluation-eval" if self.kind == "own" else self.home


def find(text: str, options: Options = Options()) -> Found:
    """What a user means by `text`.

    Raises:
        UsageError: nothing that can be asked, or an option that this kind needs or does not have.
    """
    if text.startswith(("http://", "https://")):
        return Found("endpoint", text, _home(options.name or text))
    if text.startswith("stub:"):
        _stub(text)
        return Found("stub", text, _home(text))
    folder = Path(text).expanduser()
    if folder.is_dir():
        complete = (folder / "manifest.json").exists() and (folder / "model.safetensors").exists()
        own = complete or (folder / "checkpoints").exists()
        if own or not (folder / "config.json").exists():
            return Found("own", text, folder, folder)
        return Found("folder", text, _home(folder.resolve().name), folder)
    known = baselines()
    if text in known:
        return Found("baseline", text, _home(text), _weights(known[text], options), known[text])
    if "/" in text or text.startswith("."):
        return Found("own", text, folder, folder)  # a folder that is missing says so when opened
    raise UsageError(
        "no such model",
        seen=text,
        accepted=ACCEPTED,
        nearest=nearest_name(text, known),
        fix="infimed eval --models",
    )


def _home(name: str) -> Path:
    return Path("evaluation-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"))


def _weights(one: Baseline, options: Options) -> Path | None:
    """The folder of a baseline's weights; None where they are to be fetched."""
    if options.weights is not None:
        if not options.weights.is_dir():
            raise UsageError("no such folder", where="--weights", seen=str(options.weights))
        return options.weights
    if not options.hub:
        raise UsageError(
            f"the weights of {one.name} are not part of InfiMed",
            accepted=f"huggingface.co/{one.hub} ({one.license.value})",
            fix=f"infimed eval {one.name} --weights DIR, or --hub to fetch them",
        )
    return None


@contextmanager
def opened(found: Found, options: Options = Options()) -> Iterator[Model]:
    """The model, until the block ends.

    Raises:
        DataError: no complete checkpoint, unreadable weights, or a server that cannot be reached.
        UsageError: an option is wrong, or an extra is not installed.
    """
    if found.kind == "endpoint":
        from infimed.inference.endpoint import EndpointModel

        with EndpointModel(_endpoint(found, options), recipe=INSTRUCTED) as remote:
            yield remote
    elif found.kind == "stub":
        yield _stub(found.text)
    elif found.kind == "own":
        from infimed.inference.local import LocalModel

        assert found.folder is not None
        yield LocalModel.open(found.folder, batch_size=options.batch_size)
    else:
        yield _foreign(found, options)


def is_remote(found: Found) -> bool:
    """Whether questions and images leave this machine."""
    return found.kind == "endpoint" and not is_loopback(found.text)


def _endpoint(found: Found, options: Options) -> Endpoint:
    settings = Endpoint(
        found.text,
        options.name,
        read_key(),
        concurrency=options.concurrency,
        timeout_seconds=options.timeout,
        give_up_after=options.give_up_after,
        garbage_attempts=GARBAGE_ATTEMPTS,
        extra=parse_extra(options.extra),
    )
    if settings.model:
        return settings
    names = served_models(settings)
    if len(names) != 1:
        raise UsageError(
            "the endpoint serves several models", accepted=names, fix="choose with --model"
        )
    return replace(settings, model=names[0])


def _stub(text: str) -> Model:
    name, _, said = text.removeprefix("stub:").partition(":")
    if name == "random":
        return random_answers()
    if name == "blind":
        return blind()
    if name == "constant" and said:
        return constant(said)
    raise UsageError("no such stub", seen=text, accepted=[f"stub:{known}" for known in STUBS])


def _foreign(found: Found, options: Options) -> Model:
    """A model of another project from a folder, fetched first where it must be."""
    from infimed.inference.hub_folder import look
    from infimed.inference.hub_loading import DTYPES, open_hub
    from infimed.model.weights import cache_root

    one = found.baseline
    folder = found.folder
    if folder is None:
        assert one is not None
        folder = fetch(one, cache_root())
    if one is not None and one.architecture.value != UNVERIFIED:
        seen = look(folder).model_type
        if seen != one.architecture.value:
            raise DataError(
                f"these are not the weights of {one.name}",
                where=str(folder / "config.json"),
                seen=f"model_type {seen}",
                accepted=str(one.architecture.value),
            )
    chosen = options.dtype or (
        "float32" if options.device == "cpu" else str(one.dtype.value) if one else "bfloat16"
    )
    if chosen not in DTYPES:
        raise UsageError("no such number type", where="--dtype", seen=chosen, accepted=DTYPES)
    dtype: Dtype = chosen  # type: ignore[assignment]
    return open_hub(
        folder,
        recipe=replace(INSTRUCTED, system=one.system) if one is not None else INSTRUCTED,
        template=one.template if one is not None else "",
        dtype=dtype,
        device=options.device,
        batch_size=options.batch_size,
        cache=cache_root(),
    )


def fetch(one: Baseline, cache: Path) -> Path:
    """A baseline's files from the Hub at its pinned revision; returns their folder.

    Raises:
        UsageError: the extra `hub` is not installed. DataError: they cannot be fetched.
    """
    from infimed.model.weights import HUB_PATTERNS

    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise missing_extra("hub", "huggingface_hub") from error
    place = cache / "hub" / f"{one.hub.replace('/', '--')}@{one.pinned or UNVERIFIED}"
    try:
        return Path(
            snapshot_download(
                one.hub,
                revision=one.pinned,
                allow_patterns=[*HUB_PATTERNS, "*.model"],
                local_dir=place,
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            "cannot be fetched from the Hub",
            where=one.hub,
            seen=str(error).strip().partition("\n")[0],
            fix=f"accept its terms there if it has any ({one.license.value}), or give --weights DIR",
        ) from error


def unanswered(board: Scoreboard) -> dict[str, int]:
    """Questions that no answer was got for, by task and way of asking; only where there are any."""
    models = {
        (task.task, row.name) for task in board.tasks for row in task.rows if row.kind == "model"
    }
    return {
        f"{task.task} ({cell.row})": round(cell.errors * cell.estimate.n)
        for task in board.tasks
        for cell in task.cells
        if cell.errors
        and (cell.column, cell.metric) == ("overall", SCORE)
        and (task.task, cell.row) in models
    }
