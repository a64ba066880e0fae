"""Who runs where: sweeps have equal parts of a cluster, and trials the GPU they asked for."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from one_machine import Cluster
from plans import LONGEST_WAIT_SECONDS, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough]

SLOTS = 4
Trials = Sequence[tuple[float, float, str]]
"""When each began and ended, and on which node."""


class Sweep:
    """A driver process of its own on the cluster."""

    def __init__(self, cluster: Cluster, name: str, *, trials: int = 10_000, **options: Any):
        script = Path(__file__).with_name("sleeping_sweep.py")
        settings = {"name": name, "trials": trials, "seconds": 1.0, "slots": SLOTS, **options}
        words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        self._output = cluster.folder / f"{name}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, script, *words],
                env=cluster.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self._output.read_text()

    def trials(self) -> Trials:
        return [
            tuple(json.loads(line)) for line in self.text().splitlines() if line.startswith("[")
        ]

    def wait_for(self, num_trials: int) -> None:
        self.wait_until(lambda: len(self.trials()) >= num_trials)

    def wait_for_all_slots(self, since: float) -> None:
        self.wait_until(lambda: SLOTS in side_by_side(self.trials(), since, float("inf")))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            assert self.process.poll() in (None, 0), self.text()
            return condition()

        wait_for(holds)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(LONGEST_WAIT_SECONDS) == 0, self.text()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="share-", dir="/tmp"))
    made = Cluster(folder, num_cpus=SLOTS)
    try:
        wait_for(lambda: "CPU" in made.run("ray", "status", code=None))
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
    first = Sweep(cluster, "first")
    first.wait_for_all_slots(since=0)  # alone, it has all

    second = Sweep(cluster, "second", trials=24)
    assert second.process.wait(LONGEST_WAIT_SECONDS) == 0, second.text()
    first.wait_for_all_slots(since=time.time())

    third = Sweep(cluster, "third")
    third.wait_for(24)
    third.process.kill()
    first.wait_for_all_slots(since=time.time())

    first.stop()
    for other in (second, third):
        began = sorted(began for began, _, _ in other.trials())
        both, over = began[3], began[-1]
        assert max(side_by_side(other.trials(), both, over)) == SLOTS // 2
        assert max(side_by_side(first.trials(), both, over)) == SLOTS // 2
    assert "shared with second" in first.text()
    assert "first's alone again: first has 4 slots" in first.text()


def test_a_sweep_whose_last_trials_are_long_leaves_the_rest_to_others(cluster: Cluster):
    last = Sweep(cluster, "last", trials=1, seconds=600)
    last.wait_until(lambda: f"1.0/{SLOTS}.0 CPU" in cluster.run("ray", "status"))
    other = Sweep(cluster, "other")
    other.wait_until(lambda: SLOTS - 1 in side_by_side(other.trials(), 0, float("inf")))
    other.stop()
    last.process.kill()


def test_a_sweep_of_large_trials_is_not_starved_by_one_of_small_trials(cluster: Cluster):
    """Two machines of four cores: what the other leaves of them may be two halves."""
    cluster.add_node(f"--num-cpus={SLOTS}")
    small = Sweep(cluster, "small", slots=2 * SLOTS)
    small.wait_until(lambda: 2 * SLOTS in side_by_side(small.trials(), 0, float("inf")))
    large = Sweep(cluster, "large", slots=2, cpus=SLOTS, trials=3)
    assert large.process.wait(LONGEST_WAIT_SECONDS) == 0, large.text()
    assert small.process.poll() is None
    small.stop()


def test_trials_run_on_the_kind_of_gpu_that_was_asked_for(cluster: Cluster):
    for count, kind in enumerate(("L4", "H100"), start=1):
        cluster.add_node(
            "--num-cpus=1", "--num-gpus=1", f'--resources={{"accelerator_type:{kind}": 1}}'
        )
        # One after the other: nodes of one machine that start together take each other's ports.
        wait_for(lambda count=count: f"{count}.0 GPU" in cluster.run("ray", "status"))
    nodes = set()
    for kind in ("H100", "L4"):
        sweep = Sweep(cluster, kind, trials=4, slots=1, gpu_kind=kind)
        assert sweep.process.wait(LONGEST_WAIT_SECONDS) == 0, sweep.text()
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
    assert "will be measured in a slot of the cluster" in said
    cluster.run("orchestrator", "sweep", *suite, "--gpu-kind", "A100", code=2)
