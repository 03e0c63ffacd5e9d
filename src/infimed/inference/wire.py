"""The OpenAI chat format: a request as a JSON body, and what a server sent back as a Response.

Pure functions; `endpoint` does the talking. Invariant: whatever bytes a server sends, `read_answer`
returns a Response with a status and never raises. Images go out as PNG of the very pixels that
training would see, so a server cannot decode them in another way.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from PIL import Image

from infimed.inference.requests import Picture, Pixels, Request, Response, Status

ERROR_CHARS: Final = 200
_FILTERED: Final = frozenset({"content_filter", "content_policy_violation"})


def data_url(pixels: Pixels) -> str:
    """uint8 RGB [H, W, 3] as a PNG data URL; lossless, packed for speed rather than size."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def body(
    request: Request, model: str, extra: Mapping[str, Any], url_of: Callable[[Picture], str]
) -> dict[str, Any]:
    """The JSON body of ``POST /chat/completions``; `url_of` loads and encodes a picture.

    `extra` is merged over it; a `max_completion_tokens` there takes the place of `max_tokens`.

    Raises:
        DataError: a picture cannot be read.
    """
    urls = [url_of(picture) for picture in request.pictures]
    messages: list[dict[str, Any]] = []
    for turn in request.messages:
        if all(isinstance(part, str) for part in turn.content):
            messages.append({"role": turn.role, "content": turn.text})
            continue
        parts = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": urls[part]}}
            for part in turn.content
        ]
        messages.append({"role": turn.role, "content": parts})
    sampling = request.sampling
    made: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature or 0,
        "n": 1,
    }
    if not sampling.greedy:
        made |= {"top_p": sampling.top_p, "seed": sampling.seed}
        made |= {"top_k": sampling.top_k} if sampling.top_k else {}  # vLLM's, not in OpenAI's API
    if request.stop:
        made["stop"] = list(request.stop)
    if "max_completion_tokens" not in extra:
        made["max_tokens"] = request.max_new_tokens
    return {**made, **extra}


def _count(usage: object, name: str) -> int:
    """A token count as reported, or 0 where the report makes no sense."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _content(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def read_answer(id: str, raw: bytes) -> Response:
    """The Response that the body of a 200 holds: ok, truncated, refused or garbage."""
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        message = choice["message"]
        finish = choice.get("finish_reason")
        refusal = message.get("refusal")
        text = _content(message)
        usage = value.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        return Response(
            id, "", "garbage", error=f"the body is no chat completion ({type(error).__name__})"
        )
    status: Status
    why = ""
    if (isinstance(refusal, str) and refusal) or finish == "content_filter":
        text = refusal if isinstance(refusal, str) and refusal else text
        status, why = "refused", "the endpoint declined"
    elif finish == "length":
        status = "truncated"
    elif text is None or not text.strip():
        text, status, why = "", "garbage", "the answer is empty"
    else:
        status = "ok"
    return Response(
        id,
        (text or "").encode("utf-8", "replace").decode(),  # half a surrogate pair is no text
        status,
        new_tokens=_count(usage, "completion_tokens"),
        error=why,
        prompt_tokens=_count(usage, "prompt_tokens"),
    )


def error_of(status_code: int, raw: bytes) -> tuple[str, bool]:
    """(what a failed call said, shortened; whether it was a content filter speaking)."""
    code, message = "", ""
    try:
        value = json.loads(raw)
        error = value.get("error", value)
        code = str(error.get("code") or error.get("type") or "")
        message = str(error.get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        pass
    said = " ".join(f"HTTP {status_code} {code} {message}".split())
    return said[:ERROR_CHARS], status_code == 400 and code in _FILTERED


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3), or None without a sense.

    Args:
        header: seconds or an HTTP date. now: with a time zone.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
