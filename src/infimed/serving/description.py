"""The OpenAPI description of the server: what every address takes, and every status that it can answer with.

Errors are added to all operations here, from `refusals.CODES`, so that no route can forget one.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from infimed.serving.front import OPEN
from infimed.serving.protocol import ChatRequest
from infimed.serving.refusals import CODES

SCHEMAS: Final = "#/components/schemas/{model}"
NULLABLE_NUMBER: Final = {"type": ["number", "null"]}
NEVER_SEEN: Final = 499
"""Status of what a client did not wait for: only logs have it."""

ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error", "request_id"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"enum": sorted(CODES)},
            },
        },
        "request_id": {"type": "string"},
    },
}

COMPLETION: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage", "infimed"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "system_fingerprint": {"type": "string"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["index", "message", "finish_reason", "logprobs"],
                "properties": {
                    "index": {"const": 0},
                    "message": {
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": {"type": "string"},
                            "refusal": {"type": "null"},
                        },
                    },
                    "finish_reason": {"enum": ["stop", "length"]},
                    "logprobs": {"type": ["object", "null"]},
                },
            },
        },
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            "additionalProperties": True,
            "properties": {
                "prompt_tokens": {"type": "integer"},
                "completion_tokens": {"type": "integer"},
                "total_tokens": {"type": "integer"},
            },
        },
        "infimed": {
            "type": "object",
            "required": ["disclaimer", "model_hash", "model_hash_of", "abstained"],
            "properties": {
                "disclaimer": {"type": "string"},
                "model_hash": {"type": "string"},
                "model_hash_of": {"enum": ["weights", "name"]},
                "first_token_probability": NULLABLE_NUMBER,
                "abstained": {"type": ["boolean", "null"]},
            },
        },
    },
}

UPLOADED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "object", "bytes", "created_at", "expires_at", "purpose"],
    "properties": {
        "id": {"type": "string", "pattern": "^file-[0-9a-f]{64}$"},
        "object": {"const": "file"},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer"},
        "expires_at": {"type": "integer"},
        "purpose": {"const": "vision"},
    },
}

FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string"},
    },
}


def json_body(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    """What an operation takes, for `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def json_answer(
    schema: dict[str, Any], what: str, *, streams: bool = False
) -> dict[int | str, Any]:
    """What an operation answers with, for `responses`."""
    content = {"application/json": {"schema": schema}}
    if streams:
        content["text/event-stream"] = {
            "schema": {"description": "`data:` lines, each a JSON value, or `[DONE]`."}
        }
    return {200: {"description": what, "content": content}}


def chat_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a chat's body, and the components that it refers to."""
    schema = ChatRequest.model_json_schema(by_alias=True, ref_template=SCHEMAS)
    return schema, schema.pop("$defs")


def describe(inner: FastAPI, components: dict[str, Any]) -> None:
    """Complete the description that FastAPI makes: components, and the errors of every operation."""
    plain = inner.openapi

    def described() -> dict[str, Any]:
        value = plain()
        schemas = value.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(components, Error=ERROR)
        for left in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours has one shape
            schemas.pop(left, None)
        for path, operations in value["paths"].items():
            for method, operation in operations.items():
                responses = operation.setdefault("responses", {})
                responses.pop("422", None)
                for status in statuses(path, method):
                    responses.setdefault(str(status), _error(status))
        return value

    inner.openapi = described  # type: ignore[method-assign]


def statuses(path: str, method: str) -> list[int]:
    """Statuses of errors that an operation can answer with."""
    if path in OPEN:
        return [403, 500]
    if method == "get":
        return [401, 403, 404, 500]
    return sorted({status for status, _ in CODES.values()} - {405, NEVER_SEEN})


def _error(status: int) -> dict[str, Any]:
    codes = sorted(code for code, (own, _) in CODES.items() if own == status)
    schema = {"$ref": SCHEMAS.format(model="Error")}
    made: dict[str, Any] = {
        "description": ", ".join(codes),
        "content": {"application/json": {"schema": schema}},
    }
    if status in (429, 503):
        made["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return made
