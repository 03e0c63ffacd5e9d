"""From a checked body to the updates of one application: what the addresses and the page both call.

Admission is the caller's: whoever calls `run` holds a place of `Service.gate` until the generator is closed.
Closing it ends the writing before the engine's next step.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from infimed.inference.disclaimer import DISCLAIMER
from infimed.inference.requests import Sampling
from infimed.serving.applications.ask import ask
from infimed.serving.applications.calibration import Calibration
from infimed.serving.applications.consult import consult
from infimed.serving.applications.differential import differential
from infimed.serving.applications.presets import PRESETS
from infimed.serving.applications.report import report
from infimed.serving.applications.requests import (
    ApplicationRequest,
    AskRequest,
    ConsultRequest,
    DifferentialRequest,
    ReportRequest,
    within,
)
from infimed.serving.applications.session import Session
from infimed.serving.applications.updates import Delta, Result, Update
from infimed.serving.media import Shown
from infimed.serving.refusals import Refusal

if TYPE_CHECKING:
    from infimed.serving.service import Service

__all__ = ["BODIES", "Applications", "Delta", "Result", "Update"]

BODIES: Final[dict[str, type[ApplicationRequest]]] = {
    "ask": AskRequest,
    "report": ReportRequest,
    "differential": DifferentialRequest,
    "consult": ConsultRequest,
}
"""What each application takes, by its name."""


@dataclass
class Applications:
    """The applications of one server.

    Attributes:
        calibration: of its model; None where none was fitted, and then nothing is called a confidence.
    """

    service: Service
    calibration: Calibration | None = None

    async def run(
        self, name: str, asked: ApplicationRequest, noted: dict[str, Any]
    ) -> AsyncGenerator[Update, None]:
        """The updates of one application; the result is the last.

        Args:
            noted: `request_id`, `client` and `began` as in `front.Front`; counts are added.

        Raises:
            Refusal: the body is not within the limits, an image is refused, or there is no answer.
        """
        service = self.service
        within(asked, service.settings.limits)
        if asked.model != service.name:
            raise Refusal("model_not_found", param="model")
        images = await service.images(asked.image_places(), noted["client"])
        noted["images"] = len(images)
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        session = Session(
            service, noted, Sampling(asked.temperature or 0.0, seed=seed), asked.stream
        )
        async with aclosing(self._updates(session, asked, images)) as updates:
            async for update in updates:
                if isinstance(update, Result):
                    yield Result({**update.value, **self._heading(name, session)})
                else:
                    yield update

    def _updates(
        self, session: Session, asked: ApplicationRequest, images: Sequence[Shown]
    ) -> AsyncGenerator[Update, None]:
        if isinstance(asked, AskRequest):
            return ask(session, asked, images, self.calibration)
        if isinstance(asked, ReportRequest):
            return report(session, asked, images)
        if isinstance(asked, DifferentialRequest):
            return differential(session, asked, images, self.calibration)
        return consult(session, asked, images)

    def _heading(self, name: str, session: Session) -> dict[str, Any]:
        """What every result says of itself."""
        answerer = self.service.answerer
        return {
            "preset": PRESETS[name].id,
            "disclaimer": DISCLAIMER,
            "model_hash": answerer.fingerprint,
            "model_hash_of": answerer.fingerprint_of,
            "request_id": session.noted["request_id"],
            "usage": session.usage.to_dict(),
        }
