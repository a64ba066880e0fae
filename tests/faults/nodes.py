"""A Ray cluster of several nodes on this machine, any of which can be lost."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from commands import trains
from plans import LONGEST_WAIT_SECONDS, wait_for

RAY = (sys.executable, "-m", "ray.scripts.scripts")


class Cluster:
    """A head that trains nothing, and nodes with one CPU each."""

    def __init__(self, logs: Path, cache: Path) -> None:
        """`logs` is a short path, since Ray makes sockets below it; `cache` is the nodes' own."""
        self._cache = str(cache)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.environment: Mapping[str, str] = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(logs),
            "RAY_health_check_period_ms": "1000",  # a dead node is missed within seconds
            "RAY_health_check_failure_threshold": "3",
        }
        port = self.address.partition(":")[2]
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        self._nodes = [self._start(*head)]

    def add_node(self) -> psutil.Popen:
        node = self._start(f"--address={self.address}", "--num-cpus=1")
        self._nodes.append(node)
        return node

    def preempt(self, node: psutil.Popen) -> None:
        """As a cloud takes a machine back: with a notice, and when its time is over, by force."""
        (raylet,) = (process for process in _below(node) if process.name() == "raylet")
        (name,) = (
            word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id=")
        )
        self._call(
            "drain-node",
            f"--address={self.address}",
            f"--node-id={name}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=the cloud wants it back",
            "--deadline-remaining-seconds=0",
        )
        time.sleep(1)  # what dies before its time is over was not preempted
        self.lose(node)

    def lose(self, node: psutil.Popen) -> None:
        """Without a word, as by a power cut."""
        # The raylet first, or it would have the time to say that its workers died.
        for process in sorted(_below(node), key=lambda process: process.name() != "raylet"):
            process.kill()
        node.kill()
        node.wait()

    def trains(self, node: psutil.Popen) -> bool:
        """Whether a process of the node does."""
        assert node.poll() is None, "the node has ended by itself"
        return any(map(trains, _below(node)))

    def remove(self) -> None:
        for node in reversed(self._nodes):
            if node.is_running():
                self.lose(node)

    def _start(self, *arguments: str) -> psutil.Popen:
        memory = "--object-store-memory=100000000"
        here = "--node-ip-address=127.0.0.1"
        node = psutil.Popen(
            [*RAY, "start", "--block", here, memory, *arguments],
            env={**os.environ, **self.environment, "ORCHESTRATOR_CACHE": self._cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(node.stdout.fileno(), False)
        said = b""

        def has_started() -> bool:
            nonlocal said
            said += node.stdout.read() or b""
            assert node.poll() is None, said.decode()
            return b"Ray runtime started" in said

        wait_for(has_started)
        return node

    def _call(self, *arguments: str) -> None:
        environment = {**os.environ, **self.environment}
        subprocess.run(
            [*RAY, *arguments], env=environment, check=True, timeout=LONGEST_WAIT_SECONDS
        )


def _below(node: psutil.Popen) -> list[psutil.Process]:
    return node.children(recursive=True)
