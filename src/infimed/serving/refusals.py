"""Errors as a client sees them: the shape of OpenAI's, a fixed code, never the text of an exception.

Invariant: nothing that a client sent, a codec said or a library raised is quoted, but the names of
fields, which are cut to plain characters.
"""

from __future__ import annotations

from typing import Any, Final

from infimed.data.limits import REASONS

TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

CODES: Final[dict[str, tuple[int, str]]] = {
    "invalid_json": (400, "the body is not valid JSON"),
    "too_deep": (400, "the body is nested too deeply"),
    "too_complex": (413, "the body has too many parts"),
    "body_too_large": (413, "the body is larger than the limit"),
    "body_too_slow": (408, "the body did not arrive in time"),
    "media_type": (415, "send application/json without a content encoding"),
    "form_expected": (415, "send multipart/form-data with the field 'file'"),
    "invalid_form": (400, "the body is not valid multipart/form-data"),
    "unknown_field": (400, "this field is not known"),
    "missing_field": (400, "this field is required"),
    "invalid_value": (400, "this value is not accepted"),
    "unsupported": (400, "this is not supported"),
    "invalid_text": (400, "the text is not valid Unicode"),
    "control_token": (400, "the text contains a control token of the model"),
    "prompt_too_long": (400, "the prompt is longer than the limit"),
    "too_many_tokens": (400, "more new tokens were asked for than the limit"),
    "too_many_images": (413, "more images than the limit"),
    "model_not_found": (404, "no such model; see /v1/models"),
    "not_found": (404, "no such address"),
    "method_not_allowed": (405, "this address does not take this method"),
    "unauthorized": (401, "a valid API key is needed: Authorization: Bearer KEY"),
    "host_not_allowed": (403, "this server does not answer to this host name"),
    "origin_not_allowed": (403, "this server does not take what a page of another site sends"),
    "image_url": (400, "images are data: URLs with base64, of an image type, or ids of uploads"),
    "image_upload": (400, "no such upload of this client, or it was forgotten; send it again"),
    "image_type": (400, "the declared type is not that of the content"),
    "image_host": (400, "images are not fetched from this address"),
    "image_fetch": (400, "the image could not be fetched"),
    "image_timeout": (400, "the image took too long to decode"),
    "image_failed": (400, "the image could not be decoded"),
    "invalid_schema": (400, "this JSON schema is not supported"),
    "too_many_requests": (429, "too many requests of this client are in flight"),
    "too_many_uploads": (429, "this client's uploads take all the room that it has"),
    "overloaded": (503, "the server is full"),
    "draining": (503, "the server is stopping"),
    "queue_timeout": (503, "the request waited too long"),
    "generation_timeout": (504, "the answer took too long"),
    "out_of_memory": (503, "the request does not fit in memory now"),
    "audit_failed": (503, "requests cannot be written down, so none is answered; tell the operator"),
    "cancelled": (499, "the request was cancelled"),
    "backend_error": (502, "the model's server failed"),
    "backend_refused": (502, "the model's server refused the request"),
    "backend_busy": (503, "the model's server is busy or cannot be reached"),
    "internal": (500, "an internal error; tell the operator the request id"),
    **{f"image_{code}": (413 if code in ("bytes", "pixels") else 400, what) for code, (what, _) in REASONS.items()},
}  # fmt: skip
"""Status and sentence of every code."""


class Refusal(Exception):
    """A request that gets an error. `param` names the field; `detail` adds a sentence of ours."""

    def __init__(
        self,
        code: str,
        *,
        param: str | None = None,
        detail: str = "",
        retry_after: int | None = None,
    ) -> None:
        self.status, sentence = CODES[code]
        self.code, self.param, self.retry_after = code, param, retry_after
        self.message = f"{sentence}: {detail}" if detail else sentence
        super().__init__(code)

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body, as OpenAI's clients expect it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            },
            "request_id": request_id,
        }

    def headers(self) -> dict[str, str]:
        """What goes with it: when to come back, and how to authenticate."""
        made = {}
        if self.retry_after is not None:
            made["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            made["WWW-Authenticate"] = "Bearer"
        return made
