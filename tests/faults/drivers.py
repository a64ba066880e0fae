"""Real driver processes that start in a moment and may be killed anywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Drivers:
    """Starts drivers; `run` returns the exit code of one, negative if a signal ended it."""

    def __init__(self, cache: Path) -> None:
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "ORCHESTRATOR_"))
        }
        self._printed = cache.parent / "printed"
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("driver_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **clean,
                "ORCHESTRATOR_CACHE": str(cache),
                "ORCHESTRATOR_CHECKPOINT_SECONDS": "0",
                "OMP_NUM_THREADS": "1",
            },
        )

    def plan(self, folder: Path, suite: Path, **request: Any) -> Path:
        """A sweep folder with its plan, not begun."""
        code = self._ask(
            {"do": "plan", "folder": str(folder), "suite": str(suite), "request": request}
        )
        assert code == 0, self.output
        return folder

    def run(
        self,
        folder: Path,
        *,
        kill_at: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run what is left of a sweep, from resume to files; a checkpoint after every epoch."""
        return self._ask(
            {
                "do": "run",
                "folder": str(folder),
                "kill_at": kill_at,
                "environment": dict(environment or {}),
            }
        )

    def finish(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """Run to the end, and again where MLflow was too slow for the command to wait for it."""
        for _ in range(5):
            code = self.run(folder, environment=environment)
            assert code == 0, self.output
            if "sends it what it missed" not in self.output:
                return
        raise AssertionError(self.output)

    @property
    def output(self) -> str:
        """What the last driver printed, or the one that runs now."""
        return self._printed.read_text() if self._printed.exists() else ""

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _ask(self, command: dict[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._printed.unlink(missing_ok=True)
        command["output"] = str(self._printed)
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())
