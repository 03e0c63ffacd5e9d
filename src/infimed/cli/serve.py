"""`infimed serve`: a checkpoint, or a model's server, behind an OpenAI-compatible address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    run: Annotated[
        str | None, typer.Argument(help="A run folder, or a checkpoint folder.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on, 127.0.0.1 by default; another than this machine's own needs a key file.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="8000 by default; 0 takes a free one.")] = None,
    api_key_file: Annotated[
        str | None, typer.Option("--api-key-file", metavar="FILE", help="Keys that are accepted, one a line.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A host name that requests may be addressed to; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model; the folder's name by default.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="Limits, times, and any of these options, as YAML; see docs/serving.md.")
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="A page for people at /page/; there by default where the extra web is installed."),
    ] = None,
    open_page: Annotated[bool | None, typer.Option("--open", help="Open the page in this machine's browser.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="fp32 by default.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu (the default), cuda or cuda:N.")] = None,
    index: Annotated[
        str | None, typer.Option("--index", metavar="DIR", help="Folder of `infimed index`: training images that resemble one are shown.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="URL", help="Instead of a run: an OpenAI-compatible server, such as vLLM."),
    ] = None,
    backend_model: Annotated[
        str | None, typer.Option("--backend-model", help="Its model; the first it lists by default.")
    ] = None,
    backend_key_file: Annotated[
        str | None, typer.Option("--backend-key-file", metavar="FILE", help="The key that it asks for.")
    ] = None,
    audit: Annotated[
        str | None, typer.Option("--audit", metavar="FILE", help="Write who asked what there, as hashes; see docs/operations.md.")
    ] = None,
    audit_key_file: Annotated[
        str | None, typer.Option("--audit-key-file", metavar="FILE", help="The key of these hashes.")
    ] = None,
) -> None:  # fmt: skip
    """Serve a model to programs, with OpenAI's chat API, and to people, with a page.

    Examples:

      infimed serve runs/nano

      infimed serve runs/nano --open

      infimed serve runs/nano --host 0.0.0.0 --api-key-file keys.txt

      infimed serve --backend http://127.0.0.1:9000/v1

      infimed serve --settings serve.yaml
    """
    from infimed.core.console import err
    from infimed.inference.disclaimer import DISCLAIMER
    from infimed.inference.endpoint_settings import read_key
    from infimed.serving import starting
    from infimed.serving.keys import Keys, read_keys
    from infimed.serving.opening import open_when_ready, page_of
    from infimed.serving.settings import read_settings
    from infimed.serving.starting import Bind

    if dtype is not None:
        starting.check_type(dtype)
    chosen = read_settings(settings)
    start = chosen.serve.given(
        run=run, host=host, port=port, api_key_file=api_key_file, name=name, dtype=dtype, device=device,
        allow_host=tuple(allow_host) if allow_host else None, backend=backend, backend_model=backend_model,
        backend_key_file=backend_key_file, audit=audit, audit_key_file=audit_key_file, page=page, index=index,
        open_page=open_page or None,
    )  # fmt: skip
    starting.need_extra()
    keys = read_keys(Path(start.api_key_file)) if start.api_key_file is not None else Keys()
    bind = Bind(start.host, start.port, keys, start.allow_host)
    with_page = starting.page_wanted(True if start.open_page else start.page)
    listening = starting.listen(bind)
    written = starting.audit_of(start, keys)
    if start.run is not None:
        folder = Path(start.run)
        indexed = Path(start.index) if start.index is not None else None
        service = starting.local_service(
            folder, start.name or folder.resolve().name, chosen, start.dtype, start.device, indexed
        )
    else:
        assert start.backend is not None
        key = read_key(Path(start.backend_key_file)) if start.backend_key_file is not None else ""
        service = starting.backend_service(
            start.backend, start.backend_model, key, start.name, chosen
        )
    service.answerer.audit = written
    err.print(DISCLAIMER, style="yellow")

    def told(url: str) -> None:
        # An address that means every one of this machine is none that a client can use.
        err.print(f"{service.name} answers at {page_of(url).removesuffix('page/')}v1", markup=False)
        if with_page:
            err.print(f"Page: {page_of(url)}", markup=False)
        if start.open_page:
            open_when_ready(page_of(url), lambda text: err.print(text, markup=False))
        err.print("Ctrl-C or SIGTERM: running answers end, then it stops.", style="dim")

    starting.serve(service, bind, listening, told, with_page)
