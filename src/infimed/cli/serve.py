"""`infimed serve`: a checkpoint, or a model's server, behind an OpenAI-compatible address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, or a checkpoint folder.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; another than this machine's own needs a key file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="Keys that are accepted, one a line.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A host name that requests may be addressed to; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call the model; the folder's name by default.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="Limits and times as YAML; see docs/serving.md.")
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="A page for people at /page/; by default where it is installed and only this machine can reach it."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", metavar="fp32|bf16|fp16")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    index: Annotated[
        Path | None, typer.Option("--index", help="Folder of `infimed index`: training images that resemble one are shown.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="URL", help="Instead of a run: an OpenAI-compatible server, such as vLLM."),
    ] = None,
    backend_model: Annotated[
        str | None, typer.Option("--backend-model", help="Its model; the first it lists by default.")
    ] = None,
    backend_key_file: Annotated[
        Path | None, typer.Option("--backend-key-file", help="The key that it asks for.")
    ] = None,
) -> None:  # fmt: skip
    """Serve a model to programs, with OpenAI's chat API, and to people, with a page.

    Examples:

      infimed serve runs/nano

      infimed serve runs/nano --host 0.0.0.0 --api-key-file keys.txt

      infimed serve --backend http://127.0.0.1:9000/v1
    """
    from infimed.core.console import err
    from infimed.core.errors import UsageError
    from infimed.inference.disclaimer import DISCLAIMER
    from infimed.inference.endpoint_settings import read_key
    from infimed.serving import starting
    from infimed.serving.keys import Keys, read_keys
    from infimed.serving.settings import read_settings
    from infimed.serving.starting import Bind

    if (run is None) == (backend is None):
        raise UsageError("give a run or --backend URL, one of them", fix="infimed serve runs/nano")
    if index is not None and run is None:
        raise UsageError(
            "an index needs the model in this process", where="--index", fix="give a run"
        )
    starting.check_type(dtype)
    starting.need_extra()
    keys = read_keys(api_key_file) if api_key_file is not None else Keys()
    chosen = read_settings(settings)
    bind = Bind(host, port, keys, tuple(allow_host or ()))
    with_page = starting.page_wanted(page, bind)
    listening = starting.listen(bind)
    if run is not None:
        service = starting.local_service(
            run, name or run.resolve().name, chosen, dtype, device, index
        )
    else:
        assert backend is not None
        key = read_key(backend_key_file) if backend_key_file is not None else ""
        service = starting.backend_service(backend, backend_model, key, name, chosen)
    err.print(DISCLAIMER, style="yellow")

    def told(url: str) -> None:
        err.print(f"{service.name} answers at {url}", markup=False)
        if with_page:
            err.print(f"Page: {url.removesuffix('v1')}page/", markup=False)
        err.print("Ctrl-C or SIGTERM: running answers end, then it stops.", style="dim")

    starting.serve(service, bind, listening, told, with_page)
