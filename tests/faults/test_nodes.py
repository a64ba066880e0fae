"""Nodes of a cluster are lost or taken back: their trials run again, and none is to blame."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import ONE_SLOT, Running, running
from gate import Gate
from nodes import Cluster
from story import Story, assert_whole, story_of

from orchestrator.run.queue import WORKER_DEATHS_ALLOWED

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(2400)]

NUM_LOST = WORKER_DEATHS_ALLOWED + 1
"""Nodes, the last without notice: if every loss counted, the trial would have failed."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    logs = Path(tempfile.mkdtemp(prefix="ray-"))
    started = Cluster(logs, tmp_path / "node")
    yield started
    started.remove()
    shutil.rmtree(logs)


def test_nodes_that_are_preempted_or_lost_cost_no_trial(
    cluster: Cluster, sweep_folder: Path, workshop: Path, tmp_path: Path, undisturbed: Story
):
    # Who comes by there waits until its node is gone.
    hangs = Gate(tmp_path / "gates", "half checkpoint colours_a.linear 0")
    cluster.environment = {**cluster.environment, **hangs.environment}
    node = cluster.add_node()
    with running(
        *("resume", sweep_folder, "--ray-address", cluster.address),
        *ONE_SLOT,
        cache=workshop / "cache",
        environment=cluster.environment,
    ) as command:
        for lost in range(1, NUM_LOST + 1):
            command.wait_until(partial(cluster.trains, node))
            if lost < NUM_LOST:
                cluster.preempt(node)
            else:
                cluster.lose(node)
            _wait_until_told(command, times=lost)
            if lost == NUM_LOST:
                hangs.open()
            node = cluster.add_node()
        assert command.wait() == 0, command.output
    assert story_of(sweep_folder) == undisturbed
    assert_whole(sweep_folder)


def _wait_until_told(command: Running, *, times: int) -> None:
    told = r"linear #0: its worker died .*its machine was lost"
    command.wait_until(lambda: len(re.findall(told, command.output)) == times)
