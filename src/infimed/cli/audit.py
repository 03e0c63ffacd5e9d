"""`infimed audit`: check and search the file that `infimed serve --audit` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Check and search the audit file of a server.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AuditFile = Annotated[Path, typer.Argument(metavar="FILE", help="What --audit named.")]
KeyFile = Annotated[Path, typer.Option("--key-file", help="What --audit-key-file named.")]


@app.command()
def verify(
    file: AuditFile,
    key_file: KeyFile,
    chain: Annotated[
        str | None,
        typer.Option(
            help="A chain that was noted earlier, from the server's log; it must be there."
        ),
    ] = None,
) -> None:
    """Compute every chain anew: a line that was changed, left out or moved is an error that names it.

    Example:

      infimed audit verify audit.jsonl --key-file audit.key
    """
    from infimed.core.console import out
    from infimed.serving.audit import Hasher, read_audit_key, verified

    found = verified(file, Hasher(read_audit_key(key_file)), chain)
    out.print(f"{found.entries} entries, whole: {found.first} to {found.last}", markup=False)
    out.print(f"last chain: {found.chain}", markup=False, soft_wrap=True)


@app.command()
def find(
    file: AuditFile,
    key_file: KeyFile,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="An image file as it was sent; repeatable.")
    ] = None,
    answer: Annotated[
        list[Path] | None,
        typer.Option("--answer", help="A file with an answer's text; repeatable."),
    ] = None,
) -> None:
    """Print the entries that show these images, or that end with these answers.

    Example:

      infimed audit find audit.jsonl --key-file audit.key --image chest.dcm
    """
    import json

    from infimed.core.console import out
    from infimed.core.errors import DataError, UsageError
    from infimed.serving.audit import Hasher, read_audit_key, requests_with

    if not image and not answer:
        raise UsageError("name what to look for", accepted="--image FILE, --answer FILE")
    try:
        texts = [each.read_text(encoding="utf-8") for each in answer or ()]
        found = requests_with(file, Hasher(read_audit_key(key_file)), image or (), texts)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "a file cannot be read", where=str(getattr(error, "filename", ""))
        ) from error
    for entry in found:
        out.print(json.dumps(entry), markup=False, soft_wrap=True)
