"""A sweep as a job of the cluster goes on when the shell that typed it is gone."""

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_machine import Cluster
from plans import wait_for
from suites import write_suite

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1200)]

SMALL = ("--backbone", "vit_quickstart", "--method", "linear", "--trials", "3", "--epochs", "3")
MEASURED = ("--precision", "bf16")  # which attention is the faster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="job-", dir="/tmp"))
    made = Cluster(folder, num_cpus=1)
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
    wait_for(lambda: ray_is_reached(cluster))
    suite = write_suite(cluster.folder / "suite", ("colours",))
    sweep = cluster.folder / "sweep"
    told = cluster.run(
        "orchestrator", "sweep", suite, *SMALL, *MEASURED, "--out", sweep, "--detach"
    )
    job = told.split()[1]
    assert f"ray job logs --follow {job}" in told
    wait_for(lambda: sum(states(cluster, sweep).values()) == 3)
    assert states(cluster, sweep)["failed"] == 0
    wait_for(lambda: "succeeded" in cluster.run("ray", "job", "status", job, code=None))
    logs = cluster.run("ray", "job", "logs", job)
    assert "3/3" in logs
    assert "precision bf16" in logs and f"(on {socket.gethostname()})" in logs
    assert (sweep / "best" / "colours.safetensors").is_file()

    last = ("orchestrator", "finalize", sweep, "--seeds", "42,44", "--folds", "2", "--json")
    (row,) = json.loads(cluster.run(*last))
    assert (row["task"], row["space"]) == ("colours", "linear")
    assert set(row["test_accuracies"]) == {"42", "44"}
