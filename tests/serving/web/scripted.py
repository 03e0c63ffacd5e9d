"""Applications and evidence whose every word is known, so that the page is tested and not a model.

The bodies they get are checked by the real code before; `asked` keeps them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.applications.applications import Delta, Result, Update
from infimed.serving.evidence.evidence_map import EvidenceMap
from infimed.serving.evidence.nearest import Near
from infimed.serving.refusals import Refusal

SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script> [a](javascript:alert(2)) $$x$$ **b**"
"""What a model or a user might write."""
SLOW = 0.25
"""Seconds between two pieces, so that a test sees text grow."""
WRITTEN = "Chest, two views.\nFindings: The heart is of normal size. No effusion.\nImpression: Normal chest."


class Scripted:
    """In place of `Applications`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.calibration: object | None = None
        self.stopped = 0

    async def run(
        self, name: str, asked: Any, noted: dict[str, Any]
    ) -> AsyncGenerator[Update, None]:
        """See the real one."""
        self.asked.append(asked)
        value = {
            "model_hash": "abc123",
            "request_id": noted["request_id"],
            "disclaimer": DISCLAIMER,
            "usage": {},
        }
        try:
            async for update in getattr(self, f"_{name}")(asked):
                yield Result({**update.value, **value}) if isinstance(update, Result) else update
        except (GeneratorExit, asyncio.CancelledError):
            self.stopped += 1
            raise

    async def _ask(self, asked: Any) -> AsyncGenerator[Update, None]:
        if asked.question == "defect":
            raise RuntimeError("a secret")
        if asked.question == "full":
            raise Refusal("overloaded", retry_after=2)
        pieces = [SCRIPT] if asked.question == "script" else ["No ", "effusion ", "is ", "visible."]
        if asked.question == "long":
            pieces = ["word "] * 4000  # outlasts any machine: it is always stopped
        for piece in pieces:
            yield Delta(piece)
            await asyncio.sleep(SLOW)
        choices = [
            {"text": text, "probability": 1 / len(asked.choices)} for text in asked.choices or []
        ]
        unsure = asked.question == "unsure"
        known = self.calibration is not None
        yield Result({
            "answer": "".join(pieces), "confidence": (0.3 if unsure else 0.82) if known else None, "raw_probability": 0.9,
            "threshold": 0.6 if known else None, "abstained": unsure if known else None, "choices": choices,
        })  # fmt: skip

    async def _report(self, asked: Any) -> AsyncGenerator[Update, None]:
        if asked.indication == "empty":
            yield Result({"findings": None, "impression": "", "comparison": None, "text": "", "structured": {}, "written": ""})  # fmt: skip
            return
        for part, text in (
            ("", "Chest, two views."),
            ("findings", "The heart is of normal size."),
            ("findings", " No effusion."),
            ("impression", "Normal chest."),
        ):
            yield Delta(text, part)
            await asyncio.sleep(SLOW)
        compared = "Unchanged." if asked.prior is not None else None
        yield Result({
            "findings": "The heart is of normal size. No effusion.", "impression": "Normal chest.", "comparison": compared,
            "text": "", "structured": {}, "written": WRITTEN,
        })  # fmt: skip

    async def _differential(self, asked: Any) -> AsyncGenerator[Update, None]:
        yield Delta("opacity in the left base", f"for: {asked.candidates[0]}")
        await asyncio.sleep(SLOW)
        share = 0.8 / len(asked.candidates)
        listed = [{"name": n, "probability": share, "for": "", "against": ""} for n in asked.candidates]  # fmt: skip
        listed[0] = {**listed[0], "for": "opacity in the left base", "against": "no fever"}
        yield Result({"candidates": listed, "cannot_tell": 0.2, "calibrated": self.calibration is not None, "abstained": False})  # fmt: skip

    async def _consult(self, asked: Any) -> AsyncGenerator[Update, None]:
        urgent = any("chest pain" in turn.text for turn in asked.messages if turn.role == "user")
        warning = "Call the emergency number now." if urgent else None
        if warning:
            yield Delta(warning, "escalation")
        said = asked.messages[-1].text
        if said in ("long", "silent"):
            await asyncio.sleep(30 if said == "silent" else 0)
            for _ in range(4000):
                yield Delta("word ", "message")
                await asyncio.sleep(SLOW)
        text = SCRIPT if said == SCRIPT else "Since when do you have it?"
        lacking = ["duration"] if said == "vague" else []
        yield Delta(text[:6], "message")
        await asyncio.sleep(SLOW)
        yield Delta(text[6:], "message")
        whole = f"{warning}\n\n{text}" if warning else text
        yield Result({"message": whole, "asks_back": True, "lacking": lacking, "urgent": [], "escalation": warning})  # fmt: skip


class ScriptedEvidence:
    """In place of `Evidence`: the upper left quarter is what matters."""

    def __init__(self) -> None:
        self.index: object | None = object()
        self.asked: list[Any] = []

    async def look(self, asked: Any, noted: dict[str, Any]) -> EvidenceMap:
        """See the real one."""
        self.asked.append(asked)
        if asked.question == "slow":
            await asyncio.sleep(3.5)
        heat = np.zeros((8, 8))
        heat[:4, :4] = 1.0
        if asked.method == "gradient":
            return EvidenceMap(heat * 0, "gradient", asked.answer, -0.1, 0.0, "sha")
        return EvidenceMap(heat, "occlusion", asked.answer, -0.1, 1.0, "sha")

    async def nearest(self, source: Any, noted: dict[str, Any], k: int = 5) -> list[Near]:
        """See the real one."""
        return [
            Near(f"record-{SCRIPT}", "atlas", "CC-BY-4.0", 0.93),
            Near("r2", "atlas", "CC0", 0.9),
        ]
