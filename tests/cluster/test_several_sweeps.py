"""Sweeps that run on one cluster at a time have equal parts of it, and nothing of it lies idle."""

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
Trials = Sequence[tuple[float, float]]
"""When each began and ended."""


class Sweep:
    """A driver process of its own on the cluster."""

    def __init__(self, cluster: Cluster, name: str, *, trials: int) -> None:
        script = Path(__file__).with_name("sleeping_sweep.py")
        self._output = cluster.folder / f"{name}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, script, name, str(trials), str(TRIAL_SECONDS), str(SLOTS)],
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
        sum(began <= at < ended for began, ended in trials)
        for at, _ in trials
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
        began = sorted(began for began, _ in other.trials())
        both, over = began[3], began[-1]
        assert max(side_by_side(other.trials(), both, over)) == SLOTS // 2
        assert max(side_by_side(first.trials(), both, over)) == SLOTS // 2
        later = max(ended for _, ended in other.trials())
        assert max(side_by_side(first.trials(), later, later + 14 * TRIAL_SECONDS)) == SLOTS
    assert "shared with second" in first.text()
    assert "first's alone again: first has 4 slots" in first.text()
