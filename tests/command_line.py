"""The command as users type it, in an environment of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = [sys.executable, "-m", "orchestrator"]


def environment(tmp: Path) -> dict[str, str]:
    """Nothing that the user has set for trackers and storages; the cache is under `tmp`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "ORCHESTRATOR_"))}
    return {**clean, "ORCHESTRATOR_CACHE": str(tmp / "cache"), "COLUMNS": "200"}


def run(
    *arguments: object,
    tmp: Path,
    code: int = 0,
    command: Sequence[str] = COMMAND,
    typed: str | None = None,
    cwd: Path | None = None,
) -> str:
    """What it printed, with `typed` on its stdin; it must end with this exit code."""
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment(tmp),
        input=typed,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + without_waiting(done.stderr)


def without_waiting(said: str) -> str:
    """Without the lines that tell what is waited for: they depend on how busy the machine is."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not line.endswith(" ...\n"))
