"""`infimed chat`: talk with a checkpoint about images, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.inference.local import Chat
    from infimed.inference.requests import Picture

DISCLAIMER = (
    "Not a medical device: answers can be wrong and must not guide diagnosis or treatment. "
    "Check them against the images and with a clinician."
)
HELP = "/image FILE shows another image, /new starts again, /quit (or Ctrl-D) ends."


def load_picture(path: Path) -> Picture:
    """A picture from any file that is accepted as an image, decoded as in training.

    Raises:
        DataError: the file is missing, too large, damaged or no image.
    """
    from infimed.core.errors import DataError
    from infimed.core.files import sha256_bytes
    from infimed.data.imaging import LIMITS, ImageError, decode
    from infimed.inference.requests import Picture

    try:
        if path.stat().st_size > LIMITS.max_bytes:
            raise ImageError(
                "bytes",
                where=str(path),
                seen=path.stat().st_size,
                accepted=f"at most {LIMITS.max_bytes}",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("file not found", where=str(path)) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        pixels = decode(data, suffix=path.suffix)
    except ImageError as error:
        raise ImageError(error.code, where=str(path)) from None
    return Picture(sha256_bytes(data), lambda: pixels, (pixels.shape[1], pixels.shape[0]))


def chat(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint folder.")],
    question: Annotated[
        str | None,
        typer.Argument(help="Ask this first; then the chat goes on if this is a terminal."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image", "-i", help="An image (PNG, JPEG, TIFF, DICOM, NIfTI, ...); repeatable."
        ),
    ] = None,
    once: Annotated[
        str | None,
        typer.Option("--question", "-q", help="Ask one question, print the answer and stop."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
) -> None:
    """Ask a trained model about images.

    Examples:

      infimed chat runs/nano --image chest.png

      infimed chat runs/nano --image prior.dcm --image current.dcm -q "What has changed?"
    """
    pictures = [load_picture(path) for path in image or []]
    from infimed.core.console import err
    from infimed.inference.local import Chat, LocalModel

    talk = Chat(LocalModel.open(run), max_new_tokens)
    err.print(DISCLAIMER, style="yellow")
    if once is not None:
        answer(talk, once, pictures)
        return
    if question is not None:
        answer(talk, question, pictures)
        pictures = []
    if question is None or (err.is_terminal and _stdin_is_terminal()):
        err.print(HELP, style="dim")
        converse(talk, pictures)


def _stdin_is_terminal() -> bool:
    import sys

    return sys.stdin.isatty()


def answer(talk: Chat, question: str, pictures: list[Picture]) -> None:
    """Stream one answer to stdout."""
    from infimed.core.console import out

    for piece in talk.ask(question, pictures):
        out.print(piece, end="", markup=False, soft_wrap=True)
    out.print()


def converse(talk: Chat, pictures: list[Picture]) -> None:
    """Read questions until the end of input; a problem is told and the chat goes on."""
    from infimed.core.console import err
    from infimed.core.errors import InfiMedError

    waiting = list(pictures)
    while True:
        try:
            line = err.input("[bold]> [/bold]" if err.is_terminal else "").strip()
        except EOFError:
            return
        try:
            if not line:
                continue
            if line in ("/quit", "/exit"):
                return
            if line == "/new":
                talk.reset()
                waiting = list(pictures)
            elif line.startswith("/image "):
                waiting.append(load_picture(Path(line.removeprefix("/image ").strip())))
                err.print("the image is shown with your next question", style="dim")
            else:
                answer(talk, line, waiting)
                waiting = []
        except KeyboardInterrupt:
            err.print("\n(stopped; the last question is forgotten)", style="dim")
        except InfiMedError as error:
            err.print(str(error), markup=False, style="red")
