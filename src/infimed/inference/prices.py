"""What calls to an endpoint cost, from a price table that the user supplies. No price is built in.

The table is YAML: a model name, and below it `prompt_per_million` and `completion_per_million` in the
user's currency. For a server of one's own, put in what its GPU hours come to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from infimed.core.errors import UsageError, nearest_name


@dataclass(frozen=True, slots=True)
class Price:
    """Price of a million prompt tokens and of a million written tokens, in `currency`."""

    prompt_per_million: float
    completion_per_million: float
    currency: str = "USD"

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost, in `currency`."""
        return (
            prompt_tokens * self.prompt_per_million
            + completion_tokens * self.completion_per_million
        ) / 1e6


def read_prices(path: Path) -> dict[str, Price]:
    """Prices by model name.

    Raises:
        UsageError: the file is missing, malformed, or a price is not a number of at least 0.
    """
    accepted = "MODEL: {prompt_per_million: 0.5, completion_per_million: 1.5, currency: USD}"
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError("file not found", where=str(path), accepted=accepted) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("is not valid YAML", where=str(path), accepted=accepted) from error
    if not isinstance(value, Mapping):
        raise UsageError("a price table maps model names to prices", where=str(path), accepted=accepted)  # fmt: skip
    return {str(name): _price(entry, f"{path}: {name}", accepted) for name, entry in value.items()}


def _price(entry: object, where: str, accepted: str) -> Price:
    if not isinstance(entry, Mapping):
        raise UsageError("not a price", where=where, seen=entry, accepted=accepted)
    numbers = []
    for name in ("prompt_per_million", "completion_per_million"):
        number = entry.get(name)
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise UsageError(f"{name} is a number of at least 0", where=where, seen=number)
        if not math.isfinite(number) or number < 0:
            raise UsageError(f"{name} is a number of at least 0", where=where, seen=number)
        numbers.append(float(number))
    unknown = set(entry) - {"prompt_per_million", "completion_per_million", "currency"}
    if unknown:
        raise UsageError("unknown key", where=where, seen=sorted(map(str, unknown))[0])
    return Price(numbers[0], numbers[1], str(entry.get("currency", "USD")))


def price_of(prices: Mapping[str, Price], model: str, where: str) -> Price:
    """The price of one model.

    Raises:
        UsageError: the table does not name it.
    """
    if model not in prices:
        raise UsageError(
            "the price table does not name this model",
            where=where,
            seen=model,
            accepted=prices,
            nearest=nearest_name(model, prices),
        )
    return prices[model]
