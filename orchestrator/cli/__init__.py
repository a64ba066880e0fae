"""The commands. Heavy imports stay inside them, so that `--help` answers at once."""

import errno
import logging
import os
import sys

import typer

from orchestrator.cli import (
    bundles,
    catalogue,
    data,
    doctor,
    explain,
    finalize,
    report,
    services,
    sweeps,
    ui,
)
from orchestrator.cli.output import make_output_steady, what_was_lost
from orchestrator.cli.terminal import Terminal, VisibleFormatter
from orchestrator.support.loopback import ask_directly
from orchestrator.support.stopping import STOPPED, MachineLost, leave, listen

app = typer.Typer(
    help="Hyper-parameter search for visual prompt tuning of frozen Vision Transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(sweeps.sweep)
app.command()(sweeps.resume)
app.command()(sweeps.status)
app.command()(finalize.finalize)
app.command()(bundles.export)
app.command()(bundles.train)
app.command()(bundles.predict)
app.command()(report.report)
app.command()(report.compare)
app.command()(explain.explain)
app.command()(catalogue.methods)
app.add_typer(catalogue.spaces, name="spaces")
app.add_typer(data.app, name="data")
app.add_typer(services.app, name="services")
app.command()(ui.ui)
app.command()(doctor.doctor)

USER_ERROR = 2
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""Full disks, folders that may not be written: no traceback makes them clearer."""


def main() -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 2."""
    make_output_steady()
    ask_directly()
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    listen()
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        app()
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MACHINE_ERRORS:
            raise
        Terminal(stderr=True).print(f"error: {error}", soft_wrap=True)
        sys.exit(USER_ERROR)
    except MachineLost as error:
        Terminal(stderr=True).print(f"stopped: {error}", soft_wrap=True)
        sys.stdout.flush()
        os._exit(STOPPED)  # or what is left of Ray in this process would wait for the rest of it
    finally:
        leave()
        if lost := what_was_lost():
            Terminal(stderr=True).print(f"error: {lost}", soft_wrap=True)
            ended = sys.exc_info()[1]
            if ended is None or (isinstance(ended, SystemExit) and not ended.code):
                sys.exit(USER_ERROR)
