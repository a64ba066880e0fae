"""The commands. Each is imported when it runs, and what computes inside it, so that all that is
known from options and files alone is told at once."""

import errno
import logging
import os
import sys
from typing import Annotated

import typer

from orchestrator.cli.later import Later, group_of
from orchestrator.cli.output import make_output_steady, what_was_lost
from orchestrator.cli.terminal import LogHandler, Terminal, VisibleFormatter
from orchestrator.cli.usage import usage_line
from orchestrator.cli.version import show_version
from orchestrator.cli.waiting import waiting_shown
from orchestrator.support.loopback import ask_directly
from orchestrator.support.stopping import STOPPED, MachineLost, leave, listen

COMMANDS = [
    Later(name, f"orchestrator.cli.{where}", line)
    for name, where, line in (
        ("sweep", "sweeps:sweep", "Search every method on every task of a suite."),
        ("plan", "forecast:plan", "What a sweep will cost: epochs, hours, memory, money."),
        ("resume", "sweeps:resume", "Go on with a sweep that was stopped or killed."),
        ("status", "status:status", "How far each study is, and the best so far."),
        ("set", "steering:set_", "Steer a sweep while it runs: slots, trials, a pause."),
        (
            "finalize",
            "finalize:finalize",
            "Compare the finalists, retrain the winners, test them once.",
        ),
        ("export", "bundles:export", "Write the best trial of every task as files."),
        ("train", "bundles:train", "Train an exported configuration again."),
        ("predict", "predict:predict", "Classify images with an exported bundle."),
        ("evaluate", "evaluate:evaluate", "Measure an exported bundle on labelled images."),
        ("report", "report:report", "Tables, and one HTML page with every figure."),
        ("compare", "report:compare", "Two sweeps side by side."),
        ("replay", "replay:replay", "Derive every decision of a search again."),
        ("explain", "explain:explain", "Draw what the prompts of an exported bundle do."),
        ("methods", "catalogue:methods", "The methods: papers, hyper-parameters, sizes."),
        ("spaces", "catalogue:spaces", "Search spaces that come with the package."),
        ("data", "data:app", "Tasks on this machine: list, check, fetch."),
        ("services", "services:app", "PostgreSQL and MLflow for a cluster."),
        ("ui", "ui:ui", "Open the MLflow pages of a sweep."),
        ("doctor", "doctor:doctor", "Check that a sweep is whole, and repair what is safe to."),
    )
]
"""In the order of the list that `--help` shows, each with its line there."""

app = typer.Typer(
    cls=group_of(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def orchestrator(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=show_version,
            is_eager=True,
            help="Show the versions of this package and of what it computes with.",
        ),
    ] = False,
) -> None:
    """Hyper-parameter search for visual prompt tuning of frozen Vision Transformers."""


USER_ERROR = 2
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Full disks, folders that may not be written: no traceback makes them clearer."""


def main() -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 2."""
    make_output_steady()
    ask_directly()
    handler = LogHandler()
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    listen()
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        with waiting_shown():
            code = app(standalone_mode=False)
    except typer.TyperException as error:
        if line := usage_line(error):
            Terminal(stderr=True).print(f"error: {line}", soft_wrap=True)
        sys.exit(USER_ERROR)
    except typer.Abort:
        sys.exit(1)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MACHINE_ERRORS:
            raise
        Terminal(stderr=True).print(f"error: {error}", soft_wrap=True)
        sys.exit(USER_ERROR)
    except MachineLost as error:
        Terminal(stderr=True).print(f"stopped: {error}", soft_wrap=True)
        sys.stdout.flush()
        os._exit(STOPPED)  # or what is left of Ray in this process would wait for the rest of it
    else:
        sys.exit(code if isinstance(code, int) else 0)
    finally:
        leave()
        if lost := what_was_lost():
            Terminal(stderr=True).print(f"error: {lost}", soft_wrap=True)
            ended = sys.exc_info()[1]
            if ended is None or (isinstance(ended, SystemExit) and not ended.code):
                sys.exit(USER_ERROR)
