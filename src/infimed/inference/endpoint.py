"""The house's one client of OpenAI-compatible chat endpoints (vLLM, SGLang, a hosted API).

Invariants: every request gets exactly one Response with a status, whatever the server does; a request
is tried a bounded number of times; at most `concurrency` calls are open; the key appears in no
message, file or repr. Answers arrive in the order in which they are ready; `responses.ask` keeps each
of them at once, so nothing that was answered is ever paid for twice. Needs the extra ``judge``.

429, 5xx, timeouts and broken connections are tried again with exponential backoff and jitter, never
sooner than ``Retry-After``; other 4xx are final. When the server is unreachable or refuses the key,
the remaining requests, also of later calls of `respond`, are answered "error" without being sent: ask
again when it is mended, with a new `EndpointModel`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from infimed.core.files import sha256_json
from infimed.core.seeds import stream
from infimed.data.record import Message, Record
from infimed.inference.endpoint_settings import (
    CONNECT_SECONDS,
    Endpoint,
    bearer,
    httpx_module,
    is_loopback,
)
from infimed.inference.prompting import PLAIN, PromptRecipe
from infimed.inference.requests import Picture, Request, Response
from infimed.inference.wire import body, data_url, error_of, read_answer, retry_after_seconds

MOST_BYTES: Final = 4 * 2**20
"""Longest answer read; what is longer is garbage."""
_TRY_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_HOPELESS: Final = frozenset({401, 404})
"""Wrong key, wrong path or model: every further request would fail alike."""


@dataclass
class Usage:
    """What was asked in this process: requests by status, HTTP attempts, tokens, busy seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Requests that got a Response."""
        return sum(self.statuses.values())


@dataclass
class _Run:
    """What the workers of one `respond` share."""

    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    failures: int = 0
    given_up: str = ""
    not_before: float = 0.0


@dataclass(frozen=True)
class _Failed:
    """A call without an answer: why, whether to try again, the wait that was asked for."""

    reason: str
    again: bool
    timeout: bool = False
    wait: float | None = None
    hopeless: bool = False


class EndpointModel:
    """An endpoint as a `Model`. Close it, or use it as a context manager.

    `recipe` words the turns of `conversation`. `sleep` (seconds), `clock` (monotonic seconds) and
    `now` (a moment with time zone) can be replaced, so that a test waits for nothing.
    """

    independent: Final = True
    """No answer depends on what else is asked; see `responses.ask`."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        recipe: PromptRecipe = PLAIN,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.endpoint = endpoint
        self.recipe = recipe
        self.usage = Usage()
        self.given_up = ""
        self._sleep, self._clock, self._now = sleep, clock, now
        self._urls: OrderedDict[str, str] = OrderedDict()
        self._urls_lock = threading.Lock()
        self._httpx = httpx_module()
        self._client = self._httpx.Client(
            headers={"Content-Type": "application/json", **bearer(endpoint)},
            timeout=self._httpx.Timeout(endpoint.timeout_seconds, connect=CONNECT_SECONDS),
            limits=self._httpx.Limits(max_connections=endpoint.concurrency),
            follow_redirects=False,  # a redirect would carry the key to another host
            trust_env=not is_loopback(endpoint.base_url),  # no proxy on the way to this machine
        )

    @property
    def fingerprint(self) -> str:
        """Names the model and the extra settings; not the URL, which may move."""
        return sha256_json({"endpoint": self.endpoint.model, "extra": dict(self.endpoint.extra)})

    def __enter__(self) -> EndpointModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """Turns with lettered options, as the recipe words them."""
        return self.recipe.conversation(record, option_order)

    def instruction(self, kind: str, messages: Sequence[Message]) -> str:
        """See `PromptRecipe.instruction`."""
        return self.recipe.instruction(kind, messages)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """All in one; `respond` bounds what is open at once."""
        return [list(range(len(requests)))] if requests else []

    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer all requests, in the order in which answers arrive."""
        run = _Run(given_up=self.given_up)
        queue = iter(requests)
        waiting: set[Future[Response]] = set()
        pool = ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix="endpoint")
        try:
            while True:
                while len(waiting) < 2 * self.endpoint.concurrency:
                    request = next(queue, None)
                    if request is None:
                        break
                    waiting.add(pool.submit(self._answer, request, run))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield self._counted(future.result())
        finally:
            run.stop.set()
            if waiting:  # interrupted: do not sit out the calls in flight
                with contextlib.suppress(Exception):
                    self._client.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _counted(self, response: Response) -> Response:
        usage = self.usage
        usage.statuses[response.status] += 1
        usage.attempts += response.attempts
        usage.prompt_tokens += response.prompt_tokens
        usage.completion_tokens += response.new_tokens
        usage.seconds += response.seconds
        return response

    def _answer(self, request: Request, run: _Run) -> Response:
        """The Response to one request; raises nothing but a defect of ours."""
        if run.given_up:
            return Response(request.id, "", "error", error=f"not asked: {run.given_up}")
        try:
            # ASCII: a lone surrogate in a record's text must not break the request.
            content = json.dumps(
                body(request, self.endpoint.model, self.endpoint.extra, self._data_url)
            ).encode()
        except Exception as error:  # whatever a decoder raises concerns this one request
            said = (str(error) or type(error).__name__).splitlines()[0]
            return Response(request.id, "", "error", error=self._safe(said))
        spent, attempt = 0.0, 0
        while True:
            attempt += 1
            self._pause(run.not_before - self._clock(), run)
            started = self._clock()
            result = self._call(request.id, content, started)
            spent += self._clock() - started
            if isinstance(result, Response) and not self._another(result, attempt, run):
                with run.lock:
                    run.failures = 0
                return replace(result, seconds=round(spent, 3), attempts=attempt)
            if isinstance(result, Response):  # garbage: the next answer may be one
                self._pause(self._wait_seconds(request.id, attempt, None) or 0.0, run)
                continue
            wait_seconds = self._wait_seconds(request.id, attempt, result.wait)
            last = attempt >= self.endpoint.attempts or wait_seconds is None
            if not result.again or last or run.stop.is_set():
                break
            assert wait_seconds is not None
            if result.wait is not None:  # the server speaks to all of us
                with run.lock:
                    run.not_before = max(run.not_before, self._clock() + result.wait)
            self._pause(wait_seconds, run)
        if result.again or result.hopeless:
            self._note_failure(run, result)
        return Response(
            request.id,
            "",
            "timeout" if result.timeout else "error",
            error=self._safe(result.reason),
            seconds=round(spent, 3),
            attempts=attempt,
        )

    def _another(self, answer: Response, attempt: int, run: _Run) -> bool:
        """Whether an answer that is none is worth another attempt."""
        more = attempt < self.endpoint.garbage_attempts and not run.stop.is_set()
        return answer.status == "garbage" and more

    def _data_url(self, picture: Picture) -> str:
        """Questions about one image mostly follow one another: encode it once for them."""
        with self._urls_lock:
            known = self._urls.get(picture.sha256)
        if known is None:
            known = data_url(picture.load())
            with self._urls_lock:
                self._urls[picture.sha256] = known
                while len(self._urls) > self.endpoint.concurrency:
                    self._urls.popitem(last=False)
        return known

    def _note_failure(self, run: _Run, failed: _Failed) -> None:
        with run.lock:
            run.failures += 1
            if not run.given_up and (
                failed.hopeless or run.failures >= self.endpoint.give_up_after
            ):
                run.given_up = self.given_up = self._safe(failed.reason)

    def _wait_seconds(self, id: str, attempt: int, asked: float | None) -> float | None:
        """Backoff before the next attempt, or None when the server asks for more than we wait."""
        longest = self.endpoint.longest_wait_seconds
        if asked is not None and asked > longest:
            return None
        backoff = min(longest, self.endpoint.first_wait_seconds * 2.0 ** (attempt - 1))
        jittered = backoff * float(stream(0, "backoff", id, attempt).uniform(0.5, 1.0))
        return max(jittered, asked or 0.0)

    def _pause(self, seconds: float, run: _Run) -> None:
        if seconds > 0:
            if self._sleep is None:
                run.stop.wait(seconds)
            else:
                self._sleep(seconds)

    def _call(self, id: str, content: bytes, started: float) -> Response | _Failed:
        httpx, limit = self._httpx, self.endpoint.timeout_seconds
        url = f"{self.endpoint.base_url}/chat/completions"
        received = bytearray()
        try:
            with self._client.stream("POST", url, content=content) as answer:
                for piece in answer.iter_bytes():
                    received += piece
                    if len(received) > MOST_BYTES:
                        return Response(id, "", "garbage", error=f"over {MOST_BYTES} bytes")
                    if self._clock() - started > limit:  # drop by drop is a timeout too
                        return _Failed(f"no answer in {limit:g} s", True, timeout=True)
        except httpx.TimeoutException:
            return _Failed(f"no answer in {limit:g} s", True, timeout=True)
        except httpx.DecodingError:
            return Response(id, "", "garbage", error="the body cannot be decompressed")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _Failed(f"{type(error).__name__}: {error}"[:200], True)
        code = int(answer.status_code)
        if code == 200:
            return read_answer(id, bytes(received))
        said, filtered = error_of(code, bytes(received))
        if filtered:
            return Response(id, "", "refused", error=self._safe(said))
        if code in _TRY_AGAIN or code >= 500:
            asked = retry_after_seconds(answer.headers.get("retry-after"), self._now())
            return _Failed(said, True, wait=asked)
        return _Failed(said, False, hopeless=code in _HOPELESS)

    def _safe(self, text: str) -> str:
        key = self.endpoint.api_key
        return text.replace(key, "***") if key else text
