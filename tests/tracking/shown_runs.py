"""What MLflow shows of a sweep, and how a tracker is told of one."""

import contextlib
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.record.record import FINISHED, TrialRecord
from orchestrator.tracking.mlflow.server import server_command, server_environment
from orchestrator.tracking.mlflow.store import open_client
from orchestrator.tracking.tracker import Tracker

ENDINGS = ("complete", "pruned", "complete", "failed", "running")


def no_files(study: str) -> list[Path]:
    return []


def client(uri: str) -> Any:
    return open_client(uri)


def replay(tracker: Tracker, trials: list[TrialRecord]) -> None:
    """Tell a tracker of trials as the schedule would have."""
    for trial in trials:
        tracker.trial_started(replace(trial, state="running", finished=None, curve=(), facts={}))
    ended = [trial for trial in trials if trial.state in FINISHED]
    for trial in sorted(ended, key=lambda trial: str(trial.finished)):
        for start in range(0, len(trial.curve), 2):
            rows = list(trial.curve[start : start + 2])
            tracker.trial_epochs(trial.study, trial.number, rows)
        tracker.trial_ended(trial)


def runs_of(uri: str) -> list[Any]:
    mlflow = client(uri)
    ids = [e.experiment_id for e in mlflow.search_experiments(view_type=3)]
    return [run for run in mlflow.search_runs(ids, run_view_type=3) if "kind" in run.data.tags]


def run_of(uri: str, study: str, number: int | None = None) -> Any:
    (found,) = [
        run
        for run in runs_of(uri)
        if run.data.tags["orchestrator.study"] == study
        and run.data.tags.get("orchestrator.trial") == (None if number is None else str(number))
    ]
    return found


def history(uri: str, run: Any, name: str) -> list[tuple[int, int, float]]:
    found = client(uri).get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.timestamp, metric.value) for metric in found)


def shown(uri: str) -> dict[tuple[str, str], dict[str, Any]]:
    """All that MLflow shows of a sweep, without the ids it drew."""
    runs = runs_of(uri)
    studies = {run.info.run_id: run.data.tags["orchestrator.study"] for run in runs}
    found = {}
    for run in runs:
        tags = dict(run.data.tags)
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = studies[tags["mlflow.parentRunId"]]
        key = (tags["orchestrator.study"], tags.get("orchestrator.trial", ""))
        assert key not in found, f"two runs of {key}"
        found[key] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "stage": run.info.lifecycle_stage,
            "times": (run.info.start_time, run.info.end_time),
            "tags": tags,
            "params": run.data.params,
            "metrics": {name: history(uri, run, name) for name in run.data.metrics},
        }
    return found


def lose_run(mlflow: Any, run_id: str) -> None:
    mlflow.delete_run(run_id)
    mlflow._tracking_client.store._hard_delete_run(run_id)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """A real server; yields a function that kills it hard."""
    process = subprocess.Popen(
        server_command(store, str(folder / "served"), "127.0.0.1", port),
        env=server_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        yield kill
    finally:
        kill()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False
