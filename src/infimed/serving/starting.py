"""From a checkpoint or an endpoint to a running server: what `infimed serve` does."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infimed.core.errors import UsageError, nearest_name
from infimed.serving.keys import Keys, check_bind, is_loopback_host
from infimed.serving.settings import Settings, Start

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel
    from infimed.serving.applications.calibration import Calibration
    from infimed.serving.audit import Audit
    from infimed.serving.service import Service


PACKAGES: Final = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
    "httpx": "httpx",
    "python_multipart": "python-multipart",
}
"""Of the extra ``serve``: what is imported, and what is installed."""
TYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Types of weights, as the command line and as torch name them."""


@dataclass(frozen=True)
class Bind:
    """Where to listen, and to whom.

    Attributes:
        port: 0 takes a free one. hosts: names in ``Host`` that are answered to; on loopback those of this
            machine, elsewhere all, unless some are named.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys)
    hosts: Sequence[str] = ()

    @property
    def answered(self) -> Sequence[str]:
        """Names in ``Host``, in small letters; none for all."""
        from infimed.serving.front import LOCAL_HOSTS

        local = LOCAL_HOSTS if is_loopback_host(self.host) else ()
        named = tuple(name.lower() for name in self.hosts)
        return (*local, *named) if local or named else ()


def page_wanted(asked: bool | None) -> bool:
    """Whether the page is put up: where it is asked for, and unless it is not wanted where the extra ``web`` is installed.

    Raises:
        UsageError: it is asked for, and the extra ``web`` is missing.
    """
    from importlib.util import find_spec

    from infimed.core.errors import missing_extra

    there = find_spec("gradio") is not None
    if asked and not there:
        raise missing_extra("web", "gradio")
    return there if asked is None else asked


def need_extra() -> None:
    """Say what to install, before anything slow is done.

    Raises:
        UsageError: a package of the extra ``serve`` is missing.
    """
    from importlib.util import find_spec

    from infimed.core.errors import missing_extra

    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise missing_extra("serve", package)


def local_service(
    run: Path, name: str, settings: Settings, dtype: str, device: str, index: Path | None = None
) -> Service:
    """A server's inside around a checkpoint in this process.

    Args:
        index: of training images, made from the same tower.

    Raises:
        DataError: there is no complete checkpoint, or the index or the calibration is another model's.
        UsageError: there is no such type or device.
    """
    from infimed.serving.applications.calibration import read_calibration

    opened = None
    if index is not None:
        from infimed.serving.evidence.nearest import Index, tower_fingerprint

        opened = Index.open(index)  # before the model, which takes longer
    local = local_model(run, dtype, device)
    if opened is not None:
        opened.check_tower(tower_fingerprint(local))
    service = around(local, name, settings, read_calibration(run, local.fingerprint))
    service.evidence.index = opened
    return service


def check_type(dtype: str) -> None:
    """That weights can be of this type.

    Raises:
        UsageError: they cannot.
    """
    if dtype not in TYPES:
        nearest = nearest_name(dtype, TYPES)
        raise UsageError(
            "no such type", where="--dtype", seen=dtype, accepted=TYPES, nearest=nearest
        )


def local_model(run: Path, dtype: str, device: str) -> LocalModel:
    """A checkpoint in this process.

    Raises:
        DataError: there is no complete checkpoint.
        UsageError: there is no such type or device.
    """
    import torch

    from infimed.inference.local import LocalModel

    check_type(dtype)
    local = LocalModel.open(run, dtype=getattr(torch, TYPES[dtype]))
    try:
        local.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            "the model cannot be put there",
            where="--device",
            seen=device,
            accepted="cpu, cuda, cuda:N",
        ) from error
    return local


def around(
    local: LocalModel, name: str, settings: Settings, calibration: Calibration | None = None
) -> Service:
    """A server's inside around a model that is loaded already."""
    from infimed.serving.engine import Engine
    from infimed.serving.media import Decoders, Wanted
    from infimed.serving.meters import Meters, engine_levels
    from infimed.serving.service import Service

    _ = (
        local.processor.start_id
    )  # reads the tokenizer, which would hold up the event loop at the first request
    meters = Meters()
    engine = Engine(local, settings, waited=meters.queue.observe)
    for level in engine_levels(engine):
        meters.show(*level)
    wanted = Wanted(local.processor.image_size, local.processor.tiles)
    decoders = Decoders(settings, wanted)
    return Service(settings, engine, decoders, meters, name, calibration=calibration)


def backend_service(url: str, model: str | None, key: str, name: str | None, settings: Settings) -> Service:  # fmt: skip
    """A server's inside before a model's server.

    Raises:
        UsageError, DataError: the URL is none, or no model is named and the server does not say which it has.
    """
    from infimed.inference.endpoint_settings import Endpoint, served_models
    from infimed.serving.backend import Backend
    from infimed.serving.media import Decoders, Wanted
    from infimed.serving.meters import Meters
    from infimed.serving.service import Service

    if model is None:
        model = served_models(Endpoint(url, "", key))[0]
    backend = Backend(Endpoint(url, model, key), settings)
    return Service(settings, backend, Decoders(settings, Wanted(None)), Meters(), name or model)


def audit_of(start: Start, keys: Keys) -> Audit | None:
    """The audit file that is asked for, read and found whole.

    Raises:
        UsageError, DataError: it or its key cannot be had.
    """
    from infimed.serving.audit import Audit, read_audit_key

    if start.audit is None or start.audit_key_file is None:
        return None
    return Audit(Path(start.audit), read_audit_key(Path(start.audit_key_file)), bool(keys.hashes))


def listen(bind: Bind) -> socket.socket:
    """A socket that listens, before anything slow is done.

    Raises:
        UsageError: others could reach it without a key, or it cannot be had.
    """
    check_bind(bind.host, bind.keys)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen there ({error.strerror})",
            where=f"{bind.host}:{bind.port}",
            fix="choose another --port",
        ) from error
    return made


def serve(
    service: Service,
    bind: Bind,
    listening: socket.socket,
    told: Callable[[str], object],
    page: bool = False,
) -> None:
    """Answer until a signal comes.

    Args:
        told: given the URL before the first request is taken. page: whether there is one for people.
    """
    from infimed.serving import logs
    from infimed.serving.app import make_app
    from infimed.serving.patience import server

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold images and texts
    logs.set_up()
    times = service.settings.times

    def drain() -> None:
        service.gate.draining = True

    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    running = server(
        make_app(service, bind.keys, bind.answered, page),
        host=bind.host,
        port=port,
        header_seconds=times.header,
        drain_seconds=times.drain,
        drain=drain,
        idle=lambda: service.gate.requests == 0,
    )
    told(f"http://{shown}:{port}/v1")
    running.run(sockets=[listening])
