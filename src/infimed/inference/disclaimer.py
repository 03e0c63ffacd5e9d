"""What is said with every answer, wherever it is shown."""

from __future__ import annotations

from typing import Final

DISCLAIMER: Final = (
    "Not a medical device: answers can be wrong and must not guide diagnosis or treatment. "
    "Check them against the images and with a clinician."
)
