"""The judge that a command line names: an endpoint or a checkpoint folder, opened with its price."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from infimed.core.errors import UsageError

if TYPE_CHECKING:
    from infimed.inference.endpoint_settings import Endpoint
    from infimed.inference.prices import Price
    from infimed.inference.requests import Model


@dataclass(frozen=True)
class JudgeModel:
    """An opened judge.

    Attributes:
        model: what is asked. name: for tables. price: None without a price table. url: of an
            endpoint, "" for a model in this process.
    """

    model: Model
    name: str
    price: Price | None
    url: str = ""


def is_url(where: str) -> bool:
    """Whether a judge is named by a URL."""
    return where.startswith(("http://", "https://"))


def open_judge_model(
    stack: ExitStack,
    where: str,
    *,
    name: str = "",
    key_file: Path | None = None,
    prices: Path | None = None,
    extra: str = "{}",
    concurrency: int = 8,
    timeout: float = 120.0,
    ask_names: bool = True,
) -> JudgeModel:
    """Open the judge at a URL or in a run or checkpoint folder; `stack` closes it.

    Args:
        name: of the model; needed where an endpoint serves several. ask_names: whether an endpoint may
            be asked which it serves.

    Raises:
        UsageError: several are served, the key cannot be read, or the price table lacks the model.
        DataError: there is no checkpoint, or the endpoint does not answer.
    """
    if is_url(where):
        from infimed.inference.endpoint import EndpointModel
        from infimed.inference.endpoint_settings import Endpoint, parse_extra, read_key

        settings = Endpoint(
            where,
            name,
            read_key(key_file),
            concurrency=concurrency,
            timeout_seconds=timeout,
            extra=parse_extra(extra),
        )
        remote = stack.enter_context(EndpointModel(_named(settings, ask_names)))
        chosen = remote.endpoint.model
        return JudgeModel(remote, chosen, _price(prices, chosen), remote.endpoint.base_url)
    from infimed.inference.local import LocalModel

    folder = Path(where)
    chosen = name or folder.resolve().name
    price = _price(prices, chosen)
    return JudgeModel(LocalModel.open(folder), chosen, price)


def say_where(judge: JudgeModel, what: str) -> None:
    """Warn where `what` leaves this machine."""
    from infimed.core import console
    from infimed.inference.endpoint_settings import is_loopback

    if judge.url and not is_loopback(judge.url):
        console.err.print(f"{what} go to {judge.url}: make sure they may", markup=False)


def _named(settings: Endpoint, ask_names: bool) -> Endpoint:
    """With the name of the only model that is served, where none was given."""
    from infimed.inference.endpoint_settings import served_models

    if settings.model:
        return settings
    if not ask_names:
        raise UsageError("a dry run asks nothing, not even for names", fix="add --judge-model")
    names = served_models(settings)
    if len(names) != 1:
        raise UsageError(
            "the endpoint serves several models", accepted=names, fix="choose with --judge-model"
        )
    return replace(settings, model=names[0])


def _price(path: Path | None, name: str) -> Price | None:
    from infimed.inference.prices import price_of, read_prices

    return price_of(read_prices(path), name, str(path)) if path else None
