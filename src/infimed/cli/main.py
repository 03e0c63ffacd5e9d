"""`infimed`: the entry point. Mounts the commands and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys

import typer

from infimed import __version__
from infimed.cli import curate, data, run
from infimed.cli.audit import app as audit_app
from infimed.cli.calibrate import calibrate
from infimed.cli.chat import chat
from infimed.cli.compare import compare
from infimed.cli.estimate import estimate
from infimed.cli.eval import app as eval_app
from infimed.cli.export import card, export
from infimed.cli.import_ import import_
from infimed.cli.index import index
from infimed.cli.judge import judge
from infimed.cli.label import app as label_app
from infimed.cli.pack import pack
from infimed.cli.score import score
from infimed.cli.serve import serve
from infimed.cli.study import app as study_app
from infimed.cli.train import train
from infimed.cli.weights import weights
from infimed.core.errors import EXIT_SIGINT, InfiMedError

app = typer.Typer(
    name="infimed",
    help="Curate, train, evaluate and serve medical vision-language models on your own data.\n\n"
    "Start with: infimed run nano",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("validate")(run.validate)
app.command("env")(run.env)
app.command("pack")(pack)
app.command("estimate")(estimate)
app.command("train")(train)
app.command("weights")(weights)
app.command("import")(import_)
app.command("export")(export)
app.command("card")(card)
app.command("chat")(chat)
app.command("score")(score)
app.command("compare")(compare)
app.command("calibrate")(calibrate)
app.command("serve")(serve)
app.command("index")(index)
app.command("judge")(judge)
app.add_typer(data.app, name="data")
app.add_typer(curate.app, name="curate")
app.add_typer(label_app, name="label")
app.add_typer(eval_app, name="eval")
app.add_typer(audit_app, name="audit")
app.add_typer(study_app, name="study")


@app.command("version")
def version() -> None:
    """Print the version."""
    from infimed.core.console import out

    out.print(__version__)


def main() -> None:
    """Run a command; an InfiMedError becomes its message and its exit code, never a traceback."""
    from infimed.core.console import err

    try:
        code = app(standalone_mode=False)
        if code == EXIT_SIGINT:  # Typer makes return values of Ctrl-C and of typer.Exit
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except InfiMedError as error:
        err.print("error: ", style="bold red", end="")
        err.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted; nothing half-written was left. Run the same command to go on.")
        sys.exit(EXIT_SIGINT)
    except MemoryError:
        err.print(
            "error: out of memory. Lower row_tokens or rows_per_step of the stage.", markup=False
        )
        sys.exit(5)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(
            error, "format_message"
        ):  # click's own usage errors
            err.print(f"error: {error.format_message()}", markup=False)
            sys.exit(error.exit_code)
        raise


if __name__ == "__main__":
    main()
