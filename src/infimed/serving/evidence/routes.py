"""The addresses of evidence: `/v1/infimed/evidence` and `/v1/infimed/nearest`, admitted as a chat is."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from infimed.inference.disclaimer import DISCLAIMER
from infimed.model.tiling import NO_TILES, tile_grid
from infimed.serving.evidence.evidence_map import EvidenceMap
from infimed.serving.evidence.hiding import Hideable
from infimed.serving.evidence.nearest import Near
from infimed.serving.evidence.requests import (
    EvidenceRequest,
    NearestRequest,
    parse_evidence,
    parse_nearest,
)
from infimed.serving.media import Shown
from infimed.serving.protocol import Body
from infimed.serving.service import Service, unless_gone

EVIDENCE: Final = "/v1/infimed/evidence"
NEAREST: Final = "/v1/infimed/nearest"
OVERLAY_SIDE: Final = 512
"""Longer side of an overlay, pixels."""


def add_routes(inner: FastAPI, service: Service) -> None:
    """Add both addresses; their bodies are described by `described`."""

    @inner.post(EVIDENCE, openapi_extra=described(EvidenceRequest), response_model=None)
    async def evidence(http: HttpRequest) -> Response:
        """Which part of an image an answer rests on."""
        noted: dict[str, Any] = http.scope["state"]
        with service.gate.admit(noted["client"]) as place:
            asked = await service.body(http, place, parse_evidence)
            found, overlay = await unless_gone(http, _look(service, asked, noted))
        shown = None if overlay is None else _data_url("image/png", overlay)
        usage = {"prompt_tokens": found.prompt_tokens, "passes": found.passes}
        about = _about(service, noted["request_id"])
        return JSONResponse({**found.to_dict(), "overlay": shown, "usage": usage, **about})

    @inner.post(NEAREST, openapi_extra=described(NearestRequest), response_model=None)
    async def nearest(http: HttpRequest) -> Response:
        """Training records whose images are most like an image."""
        noted: dict[str, Any] = http.scope["state"]
        with service.gate.admit(noted["client"]) as place:
            asked = await service.body(http, place, parse_nearest)
            found = await unless_gone(http, _near(service, asked, noted))
        index = service.evidence.index
        lines = [
            {
                "id": near.id,
                "records": near.records,
                "source": near.source,
                "license": near.licence,
                "similarity": round(near.similarity, 4),
                "thumbnail": _data_url("image/jpeg", near.thumbnail) if near.thumbnail else None,
            }
            for near in found
        ]
        indexed = None if index is None else len(index)
        about = _about(service, noted["request_id"])
        return JSONResponse({"nearest": lines, "indexed_images": indexed, "usage": {}, **about})


def described(kind: type[Body]) -> dict[str, Any]:
    """A body for the API's description, without references to parts of other bodies."""
    schema = kind.model_json_schema(by_alias=True)
    parts = schema.pop("$defs", {})
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(schema, parts)}},
        }
    }


def _inlined(value: Any, parts: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(each, parts) for each in value]
    if not isinstance(value, dict):
        return value
    name = str(value.get("$ref", "")).rpartition("/")[2]
    if name:
        return _inlined({**parts[name], **{k: v for k, v in value.items() if k != "$ref"}}, parts)
    return {key: _inlined(each, parts) for key, each in value.items()}


async def _look(
    service: Service, asked: EvidenceRequest, noted: dict[str, Any]
) -> tuple[EvidenceMap, bytes | None]:
    """The map, and the image below it at the resolution that the model saw."""
    found, image = await service.evidence.look_shown(asked, noted)
    if not asked.overlay or not found.depends:
        return found, None
    return found, await asyncio.to_thread(_drawn, found, image, service.decoders.wanted.tiles)


async def _near(service: Service, asked: NearestRequest, noted: dict[str, Any]) -> list[Near]:
    service.evidence.check_model()
    source = await service.source("image", asked.image, noted["client"])
    return await service.evidence.nearest(source, noted, asked.k)


def _drawn(found: EvidenceMap, image: Shown, tiles: int) -> bytes:
    side = image.pixels.shape[1]
    grid = tile_grid(image.size, side, tiles) if tiles else NO_TILES
    return found.png(Hideable.of(image.pixels, grid, "mean").shown(image.size, OVERLAY_SIDE))


def _about(service: Service, request_id: str) -> dict[str, Any]:
    return {
        "model": service.name,
        "model_hash": service.answerer.fingerprint,
        "disclaimer": DISCLAIMER,
        "request_id": request_id,
    }


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
