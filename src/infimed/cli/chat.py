"""`infimed chat`: talk with a checkpoint about images, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infimed.inference.chat import Chat
    from infimed.inference.local import LocalModel
    from infimed.inference.requests import Picture

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
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="A|B|C",
            help="With --question: how likely each of these answers is, instead of an answer.",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 takes the likeliest words; 1 draws fairly.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Draw from this share of probability only.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal answers.")] = 0,
) -> None:
    """Ask a trained model about images.

    Examples:

      infimed chat runs/nano --image chest.png

      infimed chat runs/nano --image prior.dcm --image current.dcm -q "What has changed?"

      infimed chat runs/nano --image chest.png -q "Is there an effusion?" --choices "yes|no"
    """
    from infimed.core.console import err
    from infimed.core.errors import UsageError
    from infimed.inference.chat import Chat
    from infimed.inference.disclaimer import DISCLAIMER
    from infimed.inference.local import LocalModel
    from infimed.inference.requests import Sampling

    if choices is not None and once is None:
        raise UsageError("needs a question", where="--choices", fix="add --question TEXT")
    sampling = Sampling(temperature, top_p, seed=seed)
    pictures = [load_picture(path) for path in image or []]
    local = LocalModel.open(run)
    talk = Chat(local, max_new_tokens, sampling)
    err.print(DISCLAIMER, style="yellow")
    if once is not None and choices is not None:
        weigh(local, once, pictures, tuple(choice.strip() for choice in choices.split("|")))
        return
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


def weigh(
    local: LocalModel, question: str, pictures: list[Picture], choices: tuple[str, ...]
) -> None:
    """Print how likely each choice is, the likeliest marked.

    Raises:
        DataError: a choice is empty, or an image cannot be read.
    """
    from infimed.core.console import out, table
    from infimed.core.errors import DataError
    from infimed.data.record import Message
    from infimed.inference.requests import Request

    turn = Message("user", (*range(len(pictures)), question))
    request = Request("choices", (turn,), tuple(pictures), choices=choices)
    (scores,) = local.score_choices([request])
    if scores.error:
        raise DataError(f"the question cannot be asked: {scores.error}")
    best = scores.best()
    rows = [
        (
            f"{choice} *" if number == best else choice,
            f"{score.per_token:.3f}",
            f"{score.logprob:.3f}",
            str(score.tokens),
        )
        for number, (choice, score) in enumerate(zip(choices, scores.options, strict=True))
    ]
    columns = ["choice", "log-prob a token", "log-prob", "tokens"]
    out.print(table("choices", columns, rows, numeric=1))


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
