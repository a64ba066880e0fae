"""A sweep as a job of the cluster goes on when the shell that typed it is gone."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import wait_for
from suites import write_suite

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

SMALL = ("--backbone", "vit_quickstart", "--method", "linear", "--trials", "3", "--epochs", "3")
SECONDS = 300


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Cluster:
    """One head, which is also where its only worker runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MLFLOW_", "ORCHESTRATOR_", "RAY_"))
        }
        self.environment = {
            **clean,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
            "ORCHESTRATOR_CACHE": str(folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "COLUMNS": "200",
        }
        self.run("ray", "get-auth-token", "--generate")
        port, dashboard, agent = free_ports(3)
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        options = {
            "port": port,
            "node-ip-address": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,  # or another Ray here may have it
            "num-cpus": 1,
            "temp-dir": folder / "ray",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        self._ray = subprocess.Popen(
            ["ray", "start", "--head", "--block", *words],
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *command: object, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        self._ray.terminate()
        self._ray.wait(120)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie in its folder, and their names may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="job-", dir="/tmp"))
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def ray_is_reached(cluster: Cluster) -> bool:
    found = json.loads(cluster.run("orchestrator", "doctor", "--cluster", "--json", code=None))
    return found[-1]["reached"]


def states(cluster: Cluster, folder: Path) -> dict[str, int]:
    """How many trials are complete, pruned, failed; empty before the sweep has its plan."""
    said = cluster.run("orchestrator", "status", folder, "--json", code=None)
    try:
        (row,) = json.loads(said)
    except ValueError:
        return {}
    return {name: row[name] for name in ("complete", "pruned", "failed")}


def test_a_sweep_as_a_job_needs_no_shell_and_its_last_stage_runs_on_the_cluster(cluster: Cluster):
    wait_for(lambda: ray_is_reached(cluster), SECONDS)
    suite = write_suite(cluster.folder / "suite", ("colours",))
    sweep = cluster.folder / "sweep"
    told = cluster.run("orchestrator", "sweep", suite, *SMALL, "--out", sweep, "--detach")
    job = told.split()[1]
    assert f"ray job logs --follow {job}" in told
    wait_for(lambda: sum(states(cluster, sweep).values()) == 3, SECONDS)
    assert states(cluster, sweep)["failed"] == 0
    wait_for(lambda: "succeeded" in cluster.run("ray", "job", "status", job, code=None), SECONDS)
    assert "3/3" in cluster.run("ray", "job", "logs", job)
    assert (sweep / "best" / "colours.safetensors").is_file()

    last = ("orchestrator", "finalize", sweep, "--seeds", "42,44", "--folds", "2", "--json")
    (row,) = json.loads(cluster.run(*last))
    assert (row["task"], row["space"]) == ("colours", "linear")
    assert set(row["test_accuracies"]) == {"42", "44"}
