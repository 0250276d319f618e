"""The command ``stillshot``: its verbs, and how errors end it."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stillshot.cli.check import check
from stillshot.cli.console import echo, echo_error
from stillshot.cli.export import export
from stillshot.cli.init import init
from stillshot.cli.plan import plan
from stillshot.cli.predict import predict
from stillshot.cli.report import report
from stillshot.cli.run import run
from stillshot.cli.serve import serve
from stillshot.cli.stages import evaluate, label, train
from stillshot.errors import StillshotError

INTERRUPTED = 130

# Rounds for which a thread of GNU OpenMP spins for the others before it sleeps. It takes few by itself where it knows of more
# threads than cores, but it does not know of other programs: its usual 300,000 keep a core from the thread waited for.
SPIN_COUNT = "1000"


class Commands(TyperGroup):
    """Ends with one message where an error was raised on purpose; any other error keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except StillshotError as error:
            echo_error(error)
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            echo_error(
                "There is not enough memory for this. Give the command more, or a smaller file: a compressed one may "
                "unpack to many times its size."
            )
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            echo("\nInterrupted. Run the same command again to go on.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # whoever read the results has seen enough, e.g. head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    help="Turn a few-shot prompt into a small model, and see what was won and lost.",
    epilog="Start with: stillshot init my.csv",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: Rich's boxes take longer to load than all the rest.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        echo(f"stillshot {version('stillshot')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


for command in (init, check, plan, run, label, train, evaluate, report, predict, export, serve):
    app.command()(command)


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads give way to other programs' soon, unless the environment says how they are to wait.

    To be called before PyTorch is loaded; processes that are started later inherit it. Beside another program a
    teacher labels 1.6 times as fast; on idle cores no slower (``benchmarks/waiting.py``).
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def main() -> None:
    """Run the command line; see :class:`Commands` for how errors end it."""
    spin_briefly(os.environ)
    app(prog_name="stillshot")


if __name__ == "__main__":
    main()
