"""What to type next, so that it works in the shell that the command was typed in."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.support.near import typed


def after_a_search(folder: Path) -> Iterator[str]:
    """The commands that look at a finished sweep and use it."""
    sweep = typed(folder)
    yield "next:"
    if activation := activating():
        yield f"  {activation}"
    yield from (
        f"  orchestrator {command} {sweep}  # {what}"
        for command, what in (
            ("ui", "studies, trials and curves, in MLflow's pages"),
            ("report", "tables, and one page with every figure"),
            ("finalize", "the best ones on the test images, once"),
        )
    )


def activating() -> str | None:
    """What makes `orchestrator` a command of this shell, where it is none: `make` and scripts run
    the one of an environment that nobody has activated."""
    ours = Path(sys.executable).parent
    found = shutil.which("orchestrator")
    if found and Path(found).parent.samefile(ours):
        return None
    script = ours / "activate"
    return f". {typed(script)}" if script.is_file() else None
