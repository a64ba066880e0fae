"""Who runs where: sweeps have equal parts of a cluster, and trials the GPU they asked for."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from one_machine import Cluster
from plans import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SLOTS = 4
TRIAL_SECONDS = 1.0
SECONDS = 120
Trials = Sequence[tuple[float, float, str]]
"""When each began and ended, and on which node."""


class Sweep:
    """A driver process of its own on the cluster."""

    def __init__(self, cluster: Cluster, name: str, *, trials: int, gpu_kind: str = "") -> None:
        script = Path(__file__).with_name("sleeping_sweep.py")
        slots = [str(SLOTS), *([gpu_kind] if gpu_kind else [])]
        self._output = cluster.folder / f"{name}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, script, name, str(trials), str(TRIAL_SECONDS), *slots],
                env=cluster.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self._output.read_text()

    def trials(self) -> Trials:
        return [tuple(json.loads(line)) for line in self.text().splitlines() if line[0] == "["]

    def wait_for(self, num_trials: int) -> None:
        def are_there() -> bool:
            assert self.process.poll() in (None, 0), self.text()
            return len(self.trials()) >= num_trials

        wait_for(are_there, SECONDS)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="share-", dir="/tmp"))
    made = Cluster(folder, num_cpus=SLOTS)
    try:
        wait_for(lambda: "CPU" in made.run("ray", "status", code=None), SECONDS)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def side_by_side(trials: Trials, since: float, until: float) -> list[int]:
    """How many of a sweep's trials ran when one of them began in this time."""
    return [
        sum(began <= at < ended for began, ended, _ in trials)
        for at, _, _ in trials
        if since <= at < until
    ]


def test_a_second_sweep_gets_half_at_once_and_leaves_it_when_it_ends_or_dies(cluster: Cluster):
    first = Sweep(cluster, "first", trials=10_000)
    first.wait_for(8)
    assert max(side_by_side(first.trials(), 0, float("inf"))) == SLOTS  # alone, it has all

    second = Sweep(cluster, "second", trials=12)
    second.wait_for(12)
    assert second.process.wait(SECONDS) == 0
    first.wait_for(len(first.trials()) + 16)

    third = Sweep(cluster, "third", trials=10_000)
    third.wait_for(8)
    third.process.kill()
    first.wait_for(len(first.trials()) + 16)

    first.process.terminate()
    assert first.process.wait(SECONDS) == 0
    for other in (second, third):
        began = sorted(began for began, _, _ in other.trials())
        both, over = began[3], began[-1]
        assert max(side_by_side(other.trials(), both, over)) == SLOTS // 2
        assert max(side_by_side(first.trials(), both, over)) == SLOTS // 2
        later = max(ended for _, ended, _ in other.trials())
        assert max(side_by_side(first.trials(), later, later + 14 * TRIAL_SECONDS)) == SLOTS
    assert "shared with second" in first.text()
    assert "first's alone again: first has 4 slots" in first.text()


def test_trials_run_on_the_kind_of_gpu_that_was_asked_for(cluster: Cluster):
    for count, kind in enumerate(("L4", "H100"), start=1):
        cluster.add_node("--num-gpus=1", f'--resources={{"accelerator_type:{kind}": 1}}')
        # One after the other: nodes of one machine that start together take each other's ports.
        wait_for(lambda count=count: f"{count}.0 GPU" in cluster.run("ray", "status"), SECONDS)
    nodes = set()
    for kind in ("H100", "L4"):
        sweep = Sweep(cluster, kind, trials=4, gpu_kind=kind)
        assert sweep.process.wait(SECONDS) == 0, sweep.text()
        (node,) = {node for _, _, node in sweep.trials()}
        nodes.add(node)
    assert len(nodes) == 2

    (_, _, found) = json.loads(cluster.run("orchestrator", "doctor", "--cluster", "--json", code=1))
    assert (
        "2 GPUs (1 H100, 1 L4)" in found["text"] and "sweeps running on it: none" in found["text"]
    )
    suite = ("quickstart", "--gpus-per-trial", "1", "--dry-run")
    said = cluster.run("orchestrator", "sweep", *suite, "--gpu-kind", "L4")
    assert "1 slot of 1 CPU thread and 1 L4 GPU" in said
    assert "will be measured on a worker" in said
    cluster.run("orchestrator", "sweep", *suite, "--gpu-kind", "A100", code=2)
